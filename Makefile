# make demo: set up what the main job needs and run it; make test: set up the rest and run the tests, the 20 slowest last;
# make gpu GLUE=FOLDER: what a GPU must not change, and its figures; make chaos: the long attack; make oldest: the lowest
# versions; make lock: the pins.
# make lint: style and types; make docs: the site of the pages in docs/, checked. A second run installs nothing.
.PHONY: demo test slow gpu lint docs oldest lock chaos clean
PYTHON ?= python3
READY = .venv/.ready
DEMO = .venv/.ready-for-demo

demo: $(DEMO)
	@.venv/bin/python train.py experiment=demo module=layernorm task=rte

test: $(READY)
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

slow: $(READY)
	@.venv/bin/python -m pytest -m slow

# Tests of what a GPU must not change, then its figures, into gpu.md. GLUE is a folder with RTE.
gpu: $(READY)
	@.venv/bin/python -m pytest -m gpu tests/test_gpu.py
	@.venv/bin/python benchmarks/gpu.py $(or $(GLUE),$(error make gpu GLUE=FOLDER, a folder with the RTE of GLUE))

lint: $(READY)
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

docs: $(READY)
	@.venv/bin/python tools/configuration_page.py $(PAGE) && NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@.venv/bin/python tools/check_site.py
	@echo "Built: open site/index.html"

$(DEMO): pyproject.toml requirements/demo.txt
	$(call set_up,demo,a minute or two)
	@touch $(DEMO)

$(READY): pyproject.toml requirements/all.txt
	$(call set_up,all,a few minutes)
	@touch $(READY) $(DEMO)

# Nothing but torch is installed whose hash is not in requirements/ (tools/lock.py says why); what has no wheel, and ptuning,
# are built by what is there.
PIP = .venv/bin/python -m pip install --disable-pip-version-check
define set_up
	@echo "Setting up .venv: $(2), once (log: .venv/setup.log)"
	@$(PYTHON) -c 'import sys; sys.exit("ptuning needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@{ $(PIP) --require-hashes -r requirements/build.txt && \
	   $(PIP) --require-hashes --no-deps --no-build-isolation -r requirements/$(1).txt && \
	   $(PIP) $$(grep '^torch==' constraints.txt) && \
	   $(PIP) --no-deps --no-build-isolation -e .; } > .venv/setup.log 2>&1 \
	  || { tail -n 15 .venv/setup.log; echo "Setting up failed: see .venv/setup.log, mend, and type the command again."; exit 1; }
endef

# The lowest versions that pyproject.toml allows, but torch's, and the fast tests in them.
EXTRAS = demo dev slurm ray optuna peft dashboard tensorboard sentencepiece
oldest:
	@test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install --quiet uv
	@.venv-oldest/bin/uv pip compile --quiet --resolution lowest-direct --python .venv-oldest/bin/python --no-emit-package torch \
	  $(EXTRAS:%=--extra %) pyproject.toml -o .venv-oldest/all.txt
	@grep -vE '^(nvidia|cuda|triton)' .venv-oldest/all.txt > .venv-oldest/pins.txt  # what another build of torch would bring
	@.venv-oldest/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt) -r .venv-oldest/pins.txt -e .
	@OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

lock: $(READY)
	@.venv/bin/python tools/lock.py

# Hours of kills, faults and generated inputs; adds what came out to docs/reliability.md.
chaos: $(READY)
	@.venv/bin/python tests/chaos $(CLASSES)

clean:
	rm -rf .venv .venv-oldest site .mypy_cache .ruff_cache .pytest_cache
