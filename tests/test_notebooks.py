"""The notebooks run from top to bottom: on runs that are there, and, slowly, on those that they make themselves."""

import importlib.util
import re
import time
from pathlib import Path
from typing import Any

import pytest

from support.running import ROOT, TINY, needs_minilm, run_in

nbformat = pytest.importorskip("nbformat", reason="the extra `dev` is not installed")
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def execute(names: list[str], place: Path, **replaced: str) -> dict[str, Any]:
    """Execute notebooks in a folder that looks like the project, in one kernel; return them with their outputs."""
    from nbclient import NotebookClient

    notebooks = {name: nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4) for name in names}
    for cell in (cell for notebook in notebooks.values() for cell in notebook.cells):
        for old, new in replaced.items():
            cell.source = cell.source.replace(old, new)
    folder = place / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train.py", "conf", "docs"):
        if not (place / part).exists():
            (place / part).symlink_to(ROOT / part)
    whole = nbformat.v4.new_notebook(metadata=notebooks[names[0]].metadata)
    for notebook in notebooks.values():  # each begins without the names of the one before
        whole.cells += [nbformat.v4.new_code_cell("%reset -f"), *notebook.cells]
    NotebookClient(whole, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebooks


def shown(notebook: Any, kind: str) -> list[str]:
    """Return the outputs of one kind."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [str(output.data[kind]) for output in outputs if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that the notebooks look for, of the tiny BERT."""
    folder = tmp_path_factory.mktemp("project")
    for overrides in (
        *(("module=full",), ("module=frozen",)),
        *(("module=layernorm", f"layers={layers}") for layers in ("all", "0", "1")),
        *(("module=layernorm", f"subset={which}:10%") for which in ("top", "bottom", "random")),
    ):
        run_in(folder / "runs", *TINY, *overrides)
    return folder


@pytest.mark.slow
def test_the_notebooks_run_from_top_to_bottom(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "runs/tiny/rte").rglob("record.json")}
    own_runs = [name for name in NAMES if name != "06_anywhere"]  # which makes no runs of ptuning, of any backbone
    notebooks = execute(own_runs, place, **{"minilm": "tiny", "train.py -m ": "train.py -m workers=1 "})
    for name, notebook in notebooks.items():
        printed = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
        assert "\x1b" not in "".join(printed)  # no live screen, whose codes would be shown
        assert any("layernorm" in table for table in shown(notebook, "text/markdown"))
        assert bool(shown(notebook, "image/png")) == (name != "04_own_data")
    assert {path: path.stat().st_mtime_ns for path in (place / "runs/tiny/rte").rglob("record.json")} == before
    assert "3,072 of 109,483,778 weights: 0.003 %" in " ".join(shown(notebooks["02_layers"], "text/plain"))


def test_there_are_six_and_each_is_stored_with_what_it_printed() -> None:
    assert NAMES == ["01_modules", "02_layers", "03_magnitude", "04_own_data", "05_race", "06_anywhere"]
    for name in NAMES:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
        nbformat.validate(notebook)
        assert shown(notebook, "text/markdown")
        assert not [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
        assert notebook.cells[0].cell_type == "markdown"


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_of_classes_that_there_are(name: str) -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    there_are = set(re.findall(r"^class (\w+)", source, flags=re.M))
    stored = " ".join(shown(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4), "text/plain"))
    assert set(re.findall(r"\b([A-Z]\w+)\(\w+=", stored)) <= there_are


@pytest.mark.slow
@needs_minilm
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="the extra `dev` is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_makes_the_runs_that_it_needs(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    assert shown(execute([name], tmp_path)[name], "text/markdown")
    print(f"{name}: {time.monotonic() - began:.0f} s")
