"""The records below a folder as one pandas table, a row per run, and the files that are no records."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from ptuning.display.printable import printable
from ptuning.errors import RunError
from ptuning.runs.limits import drawn_rows, part_of_data
from ptuning.runs.recipe import canonical, short_hash
from ptuning.runs.record import RECORD, RunRecord
from ptuning.runs.walk import walk_records
from ptuning.selection.names import MODULES, name_subset
from ptuning.tasks.glue import TASKS

CELL = ("backbone", "task", "source", "module", "layers", "subset")
"""The columns that make a cell of a table; runs with equal cell and recipe differ in the seed alone."""

SETTING = "recipe/"
"""Prefix of the columns with a recipe's settings: ``recipe/optimisation.lr``."""

_KNOWN = frozenset(MODULES)
_NOT_RECIPE = ("format", "seed", "task", "module", "modules", "layers", "subset", "subset_scope")
"""Parts of a record's recipe that a cell or the seed says already."""
_NOT_OF_A_SCORE = (
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "benchmark"),
    *("profiler", "enable_progress_bar", "log_every_n_steps", "limit_predict_batches"),
)
"""Trainer arguments without effect on a score: the machine, the display. The precision used is recorded apart."""
_PATTERNS, _OWN_CLASS = f"{SETTING}patterns", f"{SETTING}callbacks.selection."
"""Settings that say, beside its name, which weights a module is."""
_ENCODER = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True)
class LeftOut:
    """A file that is not in the table, and the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class Collected:
    """The runs below a folder: a table, and the files left out of it.

    Attributes
    ----------
    runs
        One row per run. ``score`` and metrics are shares (0.71); ``folder`` is relative to the folder of runs;
        ``recipe`` is a hash over everything but the cell and the seed, so that runs with the same one differ in the
        seed alone, and the columns ``recipe/…`` are what it is made of, as texts; the precision among them is the one
        that the run computed in, whatever was typed. ``data_id`` and ``backbone_id`` name the data and the weights
        themselves. ``part`` says on which part of its data a run trained or was scored, and is empty for all of it.
    left_out
        Files called ``record.json`` that hold no record, and folders that cannot be read.
    edited
        Records whose digest does not fit: edited by hand, or damaged. They are in the table.
    history
        One row per evaluation: ``folder``, ``epoch``, ``step``, ``train_loss``, ``score`` and the metrics; ``None``
        unless asked for.
    """

    runs: pd.DataFrame
    left_out: tuple[LeftOut, ...]
    history: pd.DataFrame | None = None
    edited: tuple[str, ...] = ()


def collect(runs_dir: Path, history: bool = False, only: Sequence[Path] | None = None) -> Collected:
    """Return all runs with a ``record.json`` below ``runs_dir``; hidden folders are skipped.

    Parameters
    ----------
    runs_dir
        The folder of runs, or any folder inside it.
    history
        Whether to keep the evaluations of every run too.
    only
        Run folders to read instead of all.

    Raises
    ------
    RunError
        If the folder is missing or no record lies in it.
    """
    if not runs_dir.is_dir():
        raise RunError(f"There is no folder {runs_dir}. Runs lie where their runs_dir= said, by default in runs/.")
    rows: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    left_out: list[LeftOut] = []
    edited: list[str] = []
    for folder, found in walk_records(runs_dir) if only is None else _visit(runs_dir, only):
        if isinstance(found, str):
            left_out.append(LeftOut(printable(folder), found))
        elif why := found.lacks or _unlisted(folder):
            left_out.append(LeftOut(_file(folder), f"not a record: {why}"))
        else:
            rows.append(_row(found, folder))
            if found.is_edited:
                edited.append(_file(folder))
            if history:
                evaluations += [{**one.as_json(), "folder": folder} for one in found.history or ()]
    _tell_selections_apart(rows)
    if not rows:
        unread = f" ({left_out[0].file}: {left_out[0].reason})" if left_out else ""
        raise RunError(f"No record of a run lies below {runs_dir}{unread}. Train one, or name another folder.")
    curves = pd.DataFrame(evaluations, columns=None if evaluations else ["folder", "epoch", "score"])
    return Collected(_table(rows), tuple(left_out), curves if history else None, tuple(edited))


def _visit(runs_dir: Path, folders: Sequence[Path]) -> Iterator[tuple[str, RunRecord | str]]:
    """Yield the same as :func:`walk_records`, for the named folders alone."""
    for folder in folders:
        for place, found in walk_records(folder):
            yield os.path.relpath(folder / place, runs_dir.resolve()), found


def _file(folder: str) -> str:
    return printable(os.path.normpath(os.path.join(folder, RECORD)))


def _unlisted(folder: str) -> str:
    """Return why a record's folder cannot be shown in a table, or an empty string."""
    shows = "\n" not in folder and printable(folder) == folder
    return "" if shows else "its folder's name has characters that nobody sees"


def _source(record: RunRecord) -> str:
    """Return where the data came from, and the number of rows if few were drawn: ``local, 300 rows``."""
    rows = drawn_rows(record)
    return record.source if rows is None or record.source == "synthetic" else f"{record.source}, {rows:,} rows"


def _row(record: RunRecord, folder: str) -> dict[str, Any]:
    (settings, recipe), optimisation = _settings(_recipe(record)), record.optimisation
    best = record.best.as_json() if record.best else {}
    return {
        **record.columns,
        "source": _source(record),
        "subset": name_subset(record.subset, record.subset_scope),
        "score_of": ", ".join(record.score_of or (TASKS[record.task].score_of if record.task in TASKS else ())),
        "schedule": _text(optimisation.get("schedule")),
        **{f"{name}_id": _text(record.recipe.get(name)) for name in ("data", "backbone")},
        **{name: _number(optimisation.get(name)) for name in ("lr", "weight_decay", "warmup")},
        **{name: _number(record.recipe.get(name)) for name in ("batch_tokens", "max_length")},
        "dev_examples": sum(record.validation_examples.values()) if record.validation_examples else None,
        "last_score": record.last.score if record.last else None,
        "recipe": recipe,
        "folder": folder,
        "part": part_of_data(record),
        **{f"best/{name}": value for name, value in best.items()},
        **{f"seconds/{name}": value for name, value in (record.seconds or {}).items()},
        **{f"version/{name}": value for name, value in record.versions.items()},
        **settings,
    }


def _tell_selections_apart(rows: Sequence[dict[str, Any]]) -> None:
    """Name what else chose the weights where rows of one name differ in it: ``custom: LayerNorm.weight``."""
    named: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if not row["kind"] and not _KNOWN.issuperset(row["module"].split("+")):
            named.setdefault(row["module"], []).append(row)
    for module, alike in named.items():
        keys = {key for row in alike for key in row if key == _PATTERNS or key.startswith(_OWN_CLASS)}
        differing = [key for key in sorted(keys) if len({row.get(key, "") for row in alike}) > 1]
        for row in alike:
            said = ", ".join(_say(key, row[key]) for key in differing if row.get(key))
            row["module"] = f"{module}: {said}" if said else module


def _say(key: str, text: str) -> str:
    """Return a setting that chose weights, for the name of a row: patterns as typed, others with their key."""
    if key != _PATTERNS:
        return f"{key.removeprefix(_OWN_CLASS)} {text}"
    try:
        patterns = json.loads(text)
    except ValueError:  # no list of texts: a record that was written by hand
        patterns = text
    said = ", ".join(map(str, patterns)) if isinstance(patterns, list) else text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in said)


def _recipe(record: RunRecord) -> str:
    """Return what a run's recipe adds to its cell and seed, as JSON."""
    recipe = {name: value for name, value in record.recipe.items() if name not in _NOT_RECIPE}
    trainer = recipe.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    recipe["trainer"] = {name: value for name, value in trainer.items() if name not in _NOT_OF_A_SCORE}
    recipe["precision"] = record.precision or trainer.get("precision")
    return canonical(recipe)


@lru_cache(maxsize=10_000)
def _settings(recipe: str) -> tuple[dict[str, str], str]:
    """Return (column → text, a hash) of a recipe; many runs have the same. ``recipe/optimisation.lr`` → ``0.001``."""
    settings = _flat(json.loads(recipe))
    return {f"{SETTING}{name}": text for name, text in settings.items()}, short_hash(settings)


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": text for inner, text in _flat(value).items()}
        else:
            found[name] = value if isinstance(value, str) else _as_json(value)
    return found


def _as_json(value: Any) -> str:
    """Return a plain value as JSON text; most are numbers, whose text needs no encoder."""
    is_number = type(value) is int or (type(value) is float and math.isfinite(value))
    return repr(value) if is_number else _ENCODER.encode(value)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name.startswith(("version/", SETTING)) or isinstance(values[0], str):
            texts = [value if isinstance(value, str) else "" for value in values]
            shown = texts if "".join(texts).isprintable() else [printable(text) for text in texts]
            columns[printable(name)] = pd.Series(shown, dtype="str")
        else:
            columns[printable(name)] = pd.to_numeric(pd.Series(values), errors="coerce")
    table = pd.DataFrame(columns)
    first = [*CELL, "seed", "status", "score"]
    rest = [name for name in table.columns if name not in first and "/" not in name]
    return table[[*first, *rest, *sorted(name for name in table.columns if "/" in name)]]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
