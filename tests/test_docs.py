"""The pages: their links lead somewhere, and what they show works. `make docs` builds and checks the site."""

import dataclasses
import doctest
import html
import importlib
import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import ptuning
from ptuning.acceleration.precision import choose_precision
from ptuning.backbones.load import load_model, load_skeleton, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.cli import main as cli
from ptuning.config.compose import compose
from ptuning.config.rules import check
from ptuning.config.schema import Config
from ptuning.deltas.export import export
from ptuning.deltas.loading import load_run
from ptuning.errors import ConfigError
from ptuning.selection.architectures import BERT, CROSS_CUTTING, GROUPS
from ptuning.selection.layers import parse_layers
from ptuning.selection.select import select
from ptuning.selection.subset import parse_subset
from ptuning.tasks.glue import TASKS
from support.running import ROOT, TINY, run_in

PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
PAGES |= {"benchmarks/README.md": ROOT / "benchmarks/README.md", "manual": ROOT / "conf/hydra/help/manual.yaml"}
RUN = "runs/minilm/{}/layernorm/all/seed=1-…"


# Links


def test_links_between_pages_lead_to_files_of_the_repository() -> None:
    for name, path in PAGES.items():
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{name} links to {link}"


# The configuration page


def test_the_configuration_page_names_every_allowed_word() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \|.*\| (.*) \|$", PAGES["docs/configuration.md"].read_text(), flags=re.M))
    config = compose()
    for key in (
        *("data.source", "data.select_on", "optim.schedule", "frozen_prefix", "frozen_prefix_dtype"),
        *("trainer.accelerator", "trainer.gradient_clip_algorithm", "trainer.profiler"),
    ):
        wrong = OmegaConf.structured(config)
        OmegaConf.update(wrong, key, "no_such_word")
        with pytest.raises(ConfigError) as caught:
            check(wrong)
        for word in str(caught.value).split("Allowed: ")[1].rstrip(".").split(", "):
            assert f"`{word}`" in rows[key], key


def test_the_configuration_page_has_a_row_for_every_value_of_the_schema() -> None:
    listed = set(re.findall(r"^(?:\| |## )`([\w.]+)`", PAGES["docs/configuration.md"].read_text(), flags=re.M))
    assert set(keys_of(Config)) - {"module.chosen"} <= listed  # which has a row per name
    assert {"race.minutes", "module.chosen.NAME.learning_rate"} <= listed


def keys_of(schema: Any, place: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema):
        key = f"{place}{field.name}"
        yield from keys_of(field.type, f"{key}.") if dataclasses.is_dataclass(field.type) else [key]


# Tables


def test_the_page_on_predicting_has_the_text_columns_of_every_task() -> None:
    rows = re.findall(
        r"^\| ([A-Z][^|]*) \| (`[^|]*`) \| (`[^|]*`) \|$", PAGES["docs/predicting.md"].read_text(), flags=re.M
    )
    told = {name.replace("-", ""): columns for names, *columns in rows for name in names.split(", ")}
    names = {name: [task.text, task.file_text] for name, task in TASKS.items()}
    assert {name.lower(): [tuple(re.findall("`([^`]+)`", one)) for one in both] for name, both in told.items()} == names


def test_the_page_on_runs_names_the_commands_whose_result_is_what_they_print() -> None:
    (named,) = re.findall(r"whose result is what they print \(([^)]*)\)", PAGES["docs/running.md"].read_text())
    assert tuple(re.findall(r"\w+", named)) == cli.PRINTED


# Counts


def test_the_weights_of_bert_base_are_counted_right() -> None:
    page = PAGES["docs/concepts.md"].read_text()
    model = skeleton_of_bert_base()
    whole = select(model, "frozen")
    assert f"{whole.total_parameters:,} weights with the head of two classes ({whole.head_parameters:,})" in page
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| *([\d,]*) *\| ([\d,]+) \| ([\d.]+) \|$", page, flags=re.M)
    assert {row[0] for row in rows} == {*BERT.elementary, *GROUPS, *CROSS_CUTTING}
    for module, one, every, percent in rows:
        selection = select(model, module)
        assert f"{selection.trainable_parameters:,}" == every, module
        assert float(percent) == pytest.approx(selection.trainable_percent, rel=0.005), module
        if one:
            assert f"{select(model, module, 11).trainable_parameters:,}" == one, module


def skeleton_of_bert_base() -> Any:
    backbone = compose(["backbone=bert-base-random"]).backbone
    return load_skeleton(find_backbone(backbone.path, None, dict(backbone.config)))


# Commands


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every ``python train.py …`` and ``ptuning …`` of a page, in blocks and between backticks."""
    text = re.sub(r" *\\\n *", " ", text)
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    for line in [*lines, *re.findall(r"(?<!`)`((?:python train\.py|ptuning) [^`]+)`", text.replace("\n", " "))]:
        line = re.sub(r"\[(--[^]]*)\]", r"\1", line)  # an option in brackets may be left out
        for part in re.split(r" \| | && | > ", re.sub(r"^ *PYTHONPATH=\S+ ", "", line)):
            if re.match(r" *(python train\.py|ptuning) (?!-m KEY|\[module)", part):
                words = [word for word in shlex.split(part, comments=True) if word != "…"]
                yield [re.sub(r"(\w+)(\|\w+)+$", r"\1", word) for word in words]  # of `hf|peft|delta` the first


def grids(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield overrides as single runs have them: each value of what is swept over, together with one of the others."""
    typed = get_args_parser().parse_args(words)
    each: list[list[str]] = []
    for override in OverridesParser.create().parse_overrides(typed.overrides):
        given = str(override.input_line)
        if not override.is_sweep_override():
            each.append([given])
        elif override.is_choice_sweep():
            assert typed.multirun, given
            each.append([f"{given.split('=')[0]}={value}" for value in override.sweep_string_iterator()])
    for n in range(max(map(len, each), default=1)):
        yield tuple(values[n % len(values)] for values in each)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_works(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    known = tmp_path / "models--roberta-base/snapshots/one/config.json"
    known.parent.mkdir(parents=True)
    known.touch()
    for name in cli.COMMANDS:
        monkeypatch.setattr(f"ptuning.cli.commands.{name}.run", lambda chosen: None)
    for program, *words in dict.fromkeys(map(tuple, commands(PAGES[page].read_text()))):
        if program == "ptuning" and len(words) == 1:
            assert words[0] in cli.COMMANDS
        elif program == "ptuning":
            cli.main(words)
        else:
            for overrides in grids(words[1:]):
                composes(overrides)


@cache
def composes(overrides: tuple[str, ...]) -> None:
    config = compose(overrides)
    parse_layers(config.layers, 12)
    parse_subset(config.subset, config.subset_scope)


def test_commands_are_found_in_every_form_that_pages_have_them() -> None:
    page = (
        "    python train.py -m seed=1,2 \\\n        task=rte   # why\n\n    cat a | ptuning predict RUN | head\n\n"
        "    PYTHONPATH=. python train.py task=rte\n\n"
        "Then `ptuning export RUN --to hf|peft`, or `ptuning moved\nRUN [--csv FILE]`; `ptuning.load` is none."
    )
    assert list(commands(page)) == [
        ["python", "train.py", "-m", "seed=1,2", "task=rte"],
        ["ptuning", "predict", "RUN"],
        ["python", "train.py", "task=rte"],
        ["ptuning", "export", "RUN", "--to", "hf"],
        ["ptuning", "moved", "RUN", "--csv", "FILE"],
    ]
    assert list(grids(["-m", "seed=1,2", "task=rte"])) == [("seed=1", "task=rte"), ("seed=2", "task=rte")]
    assert sum(len(list(commands(path.read_text()))) for path in PAGES.values()) > 80


# Numbers


def test_the_picture_of_the_demo_shows_what_its_captions_say_in_the_precision_that_the_demo_fixes() -> None:
    drawn = html.unescape(re.sub(r"<[^>]*>", "", (ROOT / "docs/demo.svg").read_text())).replace("\xa0", " ")
    precision = choose_precision(compose(["experiment=demo"]).trainer.precision, "cpu")
    assert f", {precision}" in drawn
    for page in ("README.md", "docs/index.md"):
        (caption,) = re.findall(r"!\[([^]]*)\]\((?:docs/)?demo\.svg\)", PAGES[page].read_text())
        (score,) = re.findall(r"score ([\d.]+)", caption)
        assert f"score {score} (synthetic data)" in drawn
    assert "fp32" in PAGES["README.md"].read_text().split("demo.svg")[1].split("##")[0]


@pytest.mark.parametrize("script", ["results.sh", "search_defaults.sh"])
def test_the_scripts_behind_the_pages_of_fp32_numbers_fix_it(script: str) -> None:
    typed = re.findall(r"^ *python train\.py .*$", (ROOT / "benchmarks" / script).read_text(), flags=re.M)
    assert typed
    assert all("trainer.precision=32 " in line for line in typed)


# Python


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the pages speak of, under the same names, all on one tiny backbone."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny = compose(["backbone=tiny", "backbone.config.num_hidden_layers=4", "backbone.config.hidden_size=128"]).backbone
    source = find_backbone(tiny.path, None, dict(tiny.config))
    load_model(source, TASKS["rte"], seed=1).save_pretrained(folder / "models/bert")
    load_tokenizer(source).save_pretrained(folder / "models/bert")
    words = ["a dog runs", "two women sing", "the river is high", "no one knows"]
    rows = [f"{words[n % 4]},{words[n % 3]},{('entailment', 'contradiction')[n % 2]}" for n in range(24)]
    (folder / "train.csv").write_text("\n".join(["premise,hypothesis,label", *rows]))
    own = ("task=custom", "data.name=pairs", f"data.train={folder}/train.csv", "data.text=[premise,hypothesis]")
    for name, task in (("rte", ("task=rte",)), ("mrpc", ("task=mrpc",)), ("mnli", ("task=mnli",)), ("pairs", own)):
        kept = [item for item in TINY if name != "pairs" or not item.startswith("data")]
        run = run_in(folder / "made", *kept, f"backbone={folder}/models/bert", *task, "trainer.max_steps=1")
        shutil.copytree(run.path, folder / RUN.format(name))
    export(load_run(folder / RUN.format("rte")), "delta", folder / "my_delta", base_name="models/bert")
    for name in ("rte", "mnli"):
        shutil.copytree(folder / RUN.format(name), folder / f"me/{name}-layernorm")
    return folder


@pytest.fixture
def names(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what examples take for granted: a model, a batch, and where runs lie."""
    monkeypatch.chdir(shelf)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, tokenizer = ptuning.load(RUN.format("rte"))
    batch = tokenizer(["A dog runs."] * 3, ["An animal moves."] * 3, return_tensors="pt")
    batch["labels"] = torch.tensor([0, 1, 0])
    runs = {"run1": RUN.format("rte"), "run2": RUN.format("mrpc"), "backbone": "models/bert"}
    return {**runs, "model": model, "batch": batch}


WHOLE = ("docs/python.md", "docs/anywhere.md")
"""Pages whose blocks are one program: whoever pastes them has nothing but what they make."""


@pytest.mark.parametrize(
    "page", [name for name, path in PAGES.items() if re.search("```python|>>> ", path.read_text())]
)
def test_the_python_of_a_page_runs(page: str, names: dict[str, Any]) -> None:
    text = PAGES[page].read_text().replace("packaged:minilm", "models/bert")
    text = text.replace('"bert-base-uncased"', '"models/bert"')
    if page in WHOLE:
        names = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
        exec(compile(block, page, "exec"), names)
    failed = doctest.DocTestRunner(verbose=False).run(doctest.DocTestParser().get_doctest(text, names, page, page, 0))
    assert failed.failed == 0
    assert "```python" in text or failed.attempted > 0


SELECTING = [
    (page, block)
    for page in ("docs/concepts.md", "docs/running.md")
    for block in re.findall(r"^```python\n(.*?)^```", PAGES[page].read_text(), flags=re.M | re.S)
    if re.search(r"\b(select|set_trainable)\(", block)
]


@pytest.mark.parametrize(("page", "block"), SELECTING)
def test_a_snippet_that_selects_leaves_no_more_to_train_than_it_says(
    page: str, block: str, names: dict[str, Any]
) -> None:
    model = names["model"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    exec(compile(block, page, "exec"), names)
    selection = names["selection"]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        *selection.names,
        *selection.head_names,
    }
    if "optimizer" in names:  # an optimiser trains that many weights and changes no others
        counted = sum(p.numel() for group in names["optimizer"].param_groups for p in group["params"])
        assert counted == selection.trainable_parameters + selection.head_parameters
        if "step()" not in block:
            model(**names["batch"]).loss.backward()
            names["optimizer"].step()
        changed = {name: int((p != before[name]).sum()) for name, p in model.named_parameters()}
        head = sum(changed[name] for name in selection.head_names)
        assert 0 < sum(changed.values()) - head <= selection.trainable_parameters
        assert not any(
            number for name, number in changed.items() if name not in (*selection.names, *selection.head_names)
        )


def test_there_are_three_snippets_that_select() -> None:
    assert [page for page, _ in SELECTING] == ["docs/concepts.md", "docs/running.md", "docs/running.md"]


def test_what_the_api_page_lists_is_imported_by_its_heading() -> None:
    listed = re.findall(r"^::: (\S+)\n(.*?)(?=^:::|^##|\Z)", PAGES["docs/api.md"].read_text(), flags=re.M | re.S)
    headings = {heading: home for home, options in listed for heading in re.findall(r"\bheading: ([\w.]+)", options)}
    assert len(headings) > 35
    for heading, home in headings.items():
        assert named(heading) is named(home), heading


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


MODULES = [
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    for path in sorted((ROOT / "src/ptuning").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_docstrings_hold(module: str, names: dict[str, Any]) -> None:
    given = {**names, "ptuning": ptuning, "torch": torch, "bert": skeleton_of_bert_base()}
    result = doctest.testmod(importlib.import_module(module), extraglobs=given)
    assert result.failed == 0
    assert result.attempted > 0
