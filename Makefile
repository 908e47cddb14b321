# make demo: set up what the main job needs and run it; make test: set up the rest and run the tests, the 20 slowest last;
# make lint: style and types; make docs: the site of the pages in docs/, checked. A second run installs nothing.
.PHONY: demo test slow lint docs clean
PYTHON ?= python3
READY = .venv/.ready
DEMO = .venv/.ready-for-demo

demo: $(DEMO)
	@.venv/bin/python train.py experiment=demo module=layernorm task=rte

test: $(READY)
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

slow: $(READY)
	@.venv/bin/python -m pytest -m slow

lint: $(READY)
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

docs: $(READY)
	@.venv/bin/python tools/configuration_page.py $(PAGE) && NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@.venv/bin/python tools/check_site.py
	@echo "Built: open site/index.html"

EVERYTHING = demo,dev,docs,slurm,ray,optuna,peft,dashboard,tensorboard,sentencepiece

$(DEMO): pyproject.toml constraints.txt
	$(call set_up,demo,a minute or two)
	@touch $(DEMO)

$(READY): pyproject.toml constraints.txt
	$(call set_up,$(EVERYTHING),a few minutes)
	@touch $(READY) $(DEMO)

define set_up
	@echo "Setting up .venv: $(2), once (log: .venv/setup.log)"
	@$(PYTHON) -c 'import sys; sys.exit("ptuning needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(1)]' > .venv/setup.log 2>&1 \
	  || { tail -n 15 .venv/setup.log; echo "Setting up failed: see .venv/setup.log, mend, and type the command again."; exit 1; }
endef

clean:
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache
