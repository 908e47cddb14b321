"""Comparisons with full fine-tuning, paired by seed or by dev example, with corrected p-values and verdicts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from ptuning.results.bootstrap import Answers, can_resample, paired_bootstrap, read_answers
from ptuning.results.collect import CELL
from ptuning.results.statistics import MARGIN, NOT_ENOUGH, Difference, correct, paired_t
from ptuning.results.summary import IDENTITY, recipe_keys, scores_by_recipe, short_setting
from ptuning.runs.record import RunRecord, find_record
from ptuning.tasks.glue import Task, described_task

COLUMNS = (
    *CELL,
    "select_on",
    "difference",
    "low",
    "high",
    "method",
    "pairs",
    "p_not_worse",
    "p_worse",
    "p_better",
    "margin",
    "verdict",
    "why",
    "note",
    "full_note",
)
FULL = ("full", "all", "all")
"""Module, layers and subset of full fine-tuning."""
_NO_FULL = "no full fine-tuning of the same weights on the same data"


@dataclass(frozen=True)
class Compared:
    """The comparison of two cells: the difference, or the reason why there is none."""

    difference: Difference | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """The verdict of the difference, or ``not enough runs``."""
        return self.difference.verdict if self.difference else NOT_ENOUGH


class Comparer:
    """Compares cells of a summary by the runs behind them; predictions are read only if a single seed is common.

    Parameters
    ----------
    runs_dir
        The folder that ``collect`` read.
    runs
        ``collect(...).runs``.
    margin
        As a share: how far below the reference still counts as comparable.
    """

    def __init__(self, runs_dir: Path, runs: pd.DataFrame, margin: float = MARGIN) -> None:
        self.margin = margin
        self._runs_dir = runs_dir
        self._scores = scores_by_recipe(runs)
        finished = runs[runs["status"] == "finished"]
        alike = finished[list(IDENTITY)].itertuples(index=False, name=None)
        self._alike = dict(zip(recipe_keys(finished), alike, strict=True))
        self._answers = lru_cache(maxsize=8)(self._read)  # full fine-tuning's are wanted again by every other cell

    def compare(self, ours: tuple[str, ...], reference: tuple[str, ...]) -> Compared:
        """Return the comparison of two (cell, recipe): by seed if two or more are common, else by dev examples.

        Runs that do not share the data and the part of it, the weights, the precision and the choice of the best epoch
        are not compared.
        """
        if unlike := self._unlike(ours, reference):
            return Compared(None, unlike)
        mine, other = self._scores.get(ours, {}), self._scores.get(reference, {})
        seeds = sorted(set(mine) & set(other))
        if not seeds:
            return Compared(None, "no seed in common")
        if len(seeds) > 1:
            scores = [[cell[seed][0] for seed in seeds] for cell in (mine, other)]
            return Compared(paired_t(scores[0], scores[1], self.margin))
        folders = [cells[seeds[0]][1] for cells in (mine, other)]
        one = "one seed in common"
        task = self._task(folders[0])
        if not can_resample(task):
            return Compared(None, f"{one}, and {' and '.join(task.score_of)} cannot be scored on resampled examples")
        mine_answers, others = (self._answers(folder) for folder in folders)
        if isinstance(mine_answers, str) or isinstance(others, str):
            reasons = [f"{folder}: {why}" for folder in folders if isinstance(why := self._answers(folder), str)]
            return Compared(None, f"{one}, and not both runs' predictions can be read ({'; '.join(reasons)})")
        found = paired_bootstrap(task, mine_answers, others, self.margin)
        return Compared(found, "" if found else f"{one}, and their predictions are not of the same examples")

    def compare_all(self, pairs: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]) -> list[Compared]:
        """Return the comparisons of pairs that answer one question; p-values are corrected for their number."""
        return corrected([self.compare(ours, reference) for ours, reference in pairs])

    def _unlike(self, ours: tuple[str, ...], reference: tuple[str, ...]) -> str:
        """Return the differences that forbid a comparison of two recipes, as a sentence, else an empty string."""
        pairs = zip(IDENTITY.values(), self._alike[ours], self._alike[reference], strict=True)
        differing = []
        for name, mine, other in pairs:
            if mine != other:
                nothing = "all" if name == IDENTITY["part"] else "unknown"
                here, there = (short_setting(value) if value else nothing for value in (mine, other))
                differing.append(f"{name} {here} here, {there} there")
        return f"not alike: {'; '.join(differing)}" if differing else ""

    def _task(self, folder: str) -> Task:
        """Return what a run was trained on: a task of GLUE, or own data, which its record describes."""
        record = find_record(self._runs_dir / folder) or RunRecord()  # which changes under a reader's eyes
        parts = ("task", "text", "label", "labels", "metrics", "score_of")
        return described_task({name: getattr(record, name) for name in parts})

    def _read(self, folder: str) -> Mapping[str, Answers] | str:
        return read_answers(self._runs_dir / folder, self._task(folder))


def corrected(family: Sequence[Compared]) -> list[Compared]:
    """Return the comparisons with Holm's correction over those that have a difference."""
    adjusted = iter(correct([one.difference for one in family if one.difference]))
    return [Compared(next(adjusted), one.why) if one.difference else one for one in family]


def against_full(comparer: Comparer, summary: pd.DataFrame) -> pd.DataFrame:
    """Return the comparison of every cell with full fine-tuning on the same weights, data and precision.

    Returns
    -------
    DataFrame
        With :data:`COLUMNS`, in the summary's order, shares as everywhere; numbers are missing where the verdict is
        ``not enough runs``, and ``why`` says what was missing. p-values are corrected by Holm over the modules of one
        backbone, task and source in all layers, over the layers of one module, and over its subsets.
    """
    rows: list[dict[str, Any]] = []
    families: dict[tuple[Any, ...], list[int]] = {}
    cells = list(zip(summary.to_dict("records"), recipe_keys(summary), strict=True))
    fulls = {ours[:3]: (row["note"], ours) for row, ours in cells if ours[3:6] == FULL}
    for row, ours in cells:
        if ours[3:6] == FULL:
            continue
        whole = row["layers"] == "all" and row["subset"] == "all"
        full_note, reference = fulls.get(ours[:3], ("", None))
        if row["full_recipe"]:  # one that is alike; the one that is shown may be of other data or precision
            reference = (*ours[:3], *FULL, row["full_recipe"])
        compared = comparer.compare(ours, reference) if reference else Compared(None, _NO_FULL)
        notes = {"note": row["note"], "full_note": full_note}
        asked = "" if whole else row["module"], row["subset"] == "all"
        families.setdefault((*ours[:3], *asked), []).append(len(rows))
        rows.append({**{name: row[name] for name in (*CELL, "select_on")}, **notes, "compared": compared})
    for members in families.values():
        for number, compared in zip(members, corrected([rows[number]["compared"] for number in members]), strict=True):
            rows[number]["compared"] = compared
    return pd.DataFrame([_flat(row, comparer.margin) for row in rows], columns=list(COLUMNS))


def _flat(row: dict[str, Any], margin: float) -> dict[str, Any]:
    compared: Compared = row.pop("compared")
    found = compared.difference
    return {
        **row,
        "difference": found.estimate if found else math.nan,
        **dict.fromkeys(("low", "high", "p_not_worse", "p_worse", "p_better"), math.nan),
        **(asdict(found) if found else {"method": "", "pairs": 0}),
        "margin": margin,
        "verdict": compared.verdict,
        "why": compared.why,
    }
