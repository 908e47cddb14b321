"""The rooms of ``src/ptuning``: which may import which. docs/architecture.md says why."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "ptuning"
FLOW = (
    ("cli", "sweeps", "inference"),
    ("training",),
    ("tracking", "weights"),
    ("results", "deltas"),
    ("acceleration", "backbones", "display"),
    ("data", "selection", "runs"),
    ("config", "tasks", "system"),
    ("errors",),
)
"""The rooms from top to bottom; a room imports from its own row and from those below."""

UPWARD: set[tuple[str, str]] = set()
"""Exceptions: imports against the flow, by file and room, with the room that has to mend them."""

NEVER = [("training", "sweeps"), ("sweeps", "cli"), ("acceleration", "training"), ("deltas", "training")]
WITHOUT_TORCH = ("results", "runs", "config", "tasks")
WITH_TORCH: set[str] = {"tasks/metrics.py"}
TORCH = {"torch", "lightning", "torchmetrics", "transformers"}


def room(module: str) -> str:
    """``training`` of ``ptuning.training.run``; nothing for ``ptuning`` itself and for other packages."""
    head, _, rest = module.partition(".")
    return rest.partition(".")[0] if head == "ptuning" else ""


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        assert node.level == 0
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "ptuning")


def at_top(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when the file is imported: not the inside of functions, nor what is for the type checker alone."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


@cache
def imports(top: bool) -> frozenset[tuple[str, str]]:
    """Pairs of a file and a module that it imports, when it is imported or (``top=False``) ever."""
    found = set()
    for path in SRC.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in at_top(tree) if top else ast.walk(tree):
            found |= {(path.relative_to(SRC).as_posix(), module) for module in imported(node)}
    return frozenset(found)


def between_rooms(top: bool) -> set[tuple[str, str, str]]:
    """File, its room, and the other room that it imports from."""
    pairs = {(file, file.split("/")[0].removesuffix(".py"), room(module)) for file, module in imports(top)}
    return {(file, here, there) for file, here, there in pairs if there and here not in (there, "__init__")}


def against_the_flow() -> set[tuple[str, str]]:
    rank = {name: number for number, row in enumerate(FLOW) for name in row}
    return {(file, there) for file, here, there in between_rooms(top=False) if rank.get(there, 99) < rank[here]}


def test_the_top_of_the_package_fits_on_a_screen() -> None:
    entries = {path for path in SRC.iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert len(entries) <= 20
    rooms = {path.stem for path in entries} - {"__init__", "conf"}
    assert rooms == {name for row in FLOW for name in row}


def test_rooms_import_from_their_row_and_below() -> None:
    assert against_the_flow() == UPWARD  # an exception that is mended goes from the list


@pytest.mark.parametrize(("here", "there"), NEVER)
def test_never(here: str, there: str) -> None:
    found = {(file, two) for file, one, two in between_rooms(top=False) if (one, two) == (here, there)}
    assert not found - UPWARD


@pytest.mark.parametrize("here", WITHOUT_TORCH)
def test_rooms_without_torch(here: str) -> None:
    found = {file for file, module in imports(top=False) if module.split(".")[0] in TORCH}
    assert {file for file in found if file.startswith(f"{here}/")} <= WITH_TORCH


def test_no_circle_between_rooms() -> None:
    leads: dict[str, set[str]] = {}
    for file, here, there in between_rooms(top=True):
        if (file, there) not in UPWARD:
            leads.setdefault(here, set()).add(there)
    while ends := {name for names in leads.values() for name in names} - set(leads):
        leads = {name: names - ends for name, names in leads.items() if names - ends}
    assert not leads, f"rooms that import each other: {leads}"
