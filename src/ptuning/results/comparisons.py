"""Comparisons with full fine-tuning, paired by seed or by dev example, with corrected p-values and verdicts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ptuning.results.bootstrap import Resampled, difference
from ptuning.results.collect import CELL, SETTING
from ptuning.results.crossed import crossed_difference
from ptuning.results.examples import Examples, Unread
from ptuning.results.more_seeds import MORE_COLUMNS, MoreSeeds, how_many_more
from ptuning.results.statistics import MARGIN, NOT_ENOUGH, Difference, correct, paired_t
from ptuning.results.summary import IDENTITY, describe_recipe, recipe_keys, scores_by_recipe, short_setting

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
    *("full_note", "full_recipe", "full_mean"),
    *(f"{name}_task" for name in ("low", "high", "p_not_worse", "p_worse", "p_better", "verdict", "why")),
    *MORE_COLUMNS,
)
FULL = ("full", "all", "all")
"""Module, layers and subset of full fine-tuning."""
HELD = "held against full fine-tuning of"
"""How the note begins on a full fine-tuning that is not the one shown."""
_NO_FULL = "no full fine-tuning of the same weights on the same data"


@dataclass(frozen=True)
class Compared:
    """The comparison of two cells.

    Attributes
    ----------
    difference
        By seeds, or by dev examples where one seed is common; ``None`` where there is none.
    why
        The reason why there is none.
    task
        By seeds and dev examples; with one seed the same as ``difference``; ``None`` where predictions are missing.
    task_why
        The reason why.
    seeds
        How many seeds are common, and how many either cell has: (common, ours, the reference's).
    """

    difference: Difference | None
    why: str = ""
    task: Difference | None = None
    task_why: str = ""
    seeds: tuple[int, int, int] = (0, 0, 0)

    @property
    def verdict(self) -> str:
        """The verdict on this dev set, or ``not enough runs``."""
        return self.difference.verdict if self.difference else NOT_ENOUGH


class Comparer:
    """Compares cells of a summary by the runs behind them and their predictions.

    Parameters
    ----------
    runs_dir
        The folder that ``collect`` read.
    runs
        ``collect(...).runs``.
    margin
        As a share: how far below the reference still counts as comparable.
    examples
        The predictions of those runs, if somebody has read some already; ``Examples(None)`` reads none.

    Attributes
    ----------
    margin, runs
        As given.
    """

    def __init__(
        self, runs_dir: Path, runs: pd.DataFrame, margin: float = MARGIN, examples: Examples | None = None
    ) -> None:
        self.margin = margin
        self.runs = runs
        self._examples = examples or Examples(runs_dir)
        self._scores = scores_by_recipe(runs)
        finished = runs[runs["status"] == "finished"]
        keys = list(recipe_keys(finished))
        alike = finished[list(IDENTITY)].itertuples(index=False, name=None)
        self._alike = dict(zip(keys, alike, strict=True))
        self._places = dict(zip(keys, finished.index, strict=True))
        taken = finished["seconds/total"] if "seconds/total" in finished else [math.nan] * len(finished)
        self._rows = dict(zip(keys, finished["dev_examples"], strict=True))
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        for key, seconds in zip(keys, taken, strict=True):
            self._seconds.setdefault(key, []).append(float(seconds))

    def compare(self, ours: tuple[str, ...], reference: tuple[str, ...]) -> Compared:
        """Return the comparison of two (cell, recipe): by seed if two or more are common, else by dev examples.

        Runs that do not share the data and the part of it, the weights, the precision and the choice of the best epoch
        are not compared.
        """
        if unlike := self._unlike(ours, reference):
            return Compared(None, unlike)
        mine, other = self._scores.get(ours, {}), self._scores.get(reference, {})
        common = sorted(set(mine) & set(other))
        if not common:
            return Compared(None, "no seed in common")
        seeds = len(common), len(mine), len(other)
        folders = [[cell[seed][1] for seed in common] for cell in (mine, other)]
        resampled = [self._examples.mean(one, ours[1]) for one in folders]
        why = _unpaired(resampled) if self._examples.reads else "ptuning report compares by dev examples"
        drawn = [one for one in resampled if isinstance(one, Resampled)]
        if len(common) == 1:
            found = None if why else difference(drawn[0], drawn[1], self.margin)
            return Compared(found, f"one seed in common, and {why}" if why else "", found, why, seeds)
        scores = [[cell[seed][0] for seed in common] for cell in (mine, other)]
        by_seed = paired_t(scores[0], scores[1], self.margin, self._rows[ours])
        if why:
            return Compared(by_seed, "", None, why, seeds)
        differences = [one - beside for one, beside in zip(*scores, strict=True)]
        task = crossed_difference(differences, drawn[0].drawn - drawn[1].drawn, drawn[0].examples, self.margin)
        return Compared(by_seed, "", task, "", seeds)

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

    def scores(self, key: tuple[str, ...]) -> dict[int, float]:
        """Return seed → score of a (cell, recipe)."""
        return {seed: score for seed, (score, _) in self._scores.get(key, {}).items()}

    def mean(self, key: tuple[str, ...]) -> float:
        """Return the mean score of a (cell, recipe)."""
        scores = self.scores(key)
        return sum(scores.values()) / len(scores) if scores else math.nan

    def describe(self, key: tuple[str, ...], beside: tuple[str, ...]) -> str:
        """Return what a (cell, recipe) does otherwise than another: ``lr 0.001 (3 seeds, mean 71.2)``."""
        here, there = (self.runs.loc[self._places[one]] for one in (key, beside))
        differing = [name for name in self.runs.columns if name.startswith(SETTING) and here[name] != there[name]]
        return describe_recipe({**here, "seeds": len(self.scores(key)), "mean": self.mean(key)}, differing)

    def seconds(self, key: tuple[str, ...]) -> float:
        """Return what a run of a (cell, recipe) took on the average; not a number where its records do not say."""
        known = [one for one in self._seconds.get(key, []) if math.isfinite(one)]
        return sum(known) / len(known) if known else math.nan


def _unpaired(resampled: Sequence[Resampled | Unread]) -> str:
    """Return why two cells cannot be compared by dev examples; empty if they can."""
    reasons = list(dict.fromkeys(one.why for one in resampled if isinstance(one, Unread)))
    if reasons:
        return f"not both runs' predictions can be read ({'; '.join(reasons)})"
    same = len({one.labels for one in resampled if isinstance(one, Resampled)}) == 1
    return "" if same else "their predictions are not of the same examples"


def corrected(family: Sequence[Compared]) -> list[Compared]:
    """Return the comparisons with Holm's correction over all with a seed in common, whatever could be read of them."""
    size = _tested(family)
    here = iter(correct([one.difference for one in family if one.difference], size))
    on_task = iter(correct([one.task for one in family if one.task], size))
    return [replace(one, difference=one.difference and next(here), task=one.task and next(on_task)) for one in family]


def _tested(family: Sequence[Compared]) -> int:
    return sum(one.seeds[0] > 0 for one in family)


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
    asked_of: list[tuple[tuple[str, ...], tuple[str, ...] | None, Compared]] = []
    families: dict[tuple[Any, ...], list[int]] = {}
    cells = list(zip(summary.to_dict("records"), recipe_keys(summary), strict=True))
    fulls = {ours[:3]: (row["note"], ours) for row, ours in cells if ours[3:6] == FULL}
    for row, ours in cells:
        if ours[3:6] == FULL:
            continue
        whole = row["layers"] == "all" and row["subset"] == "all"
        full_note, reference = fulls.get(ours[:3], ("", None))
        if reference and row["full_recipe"] not in ("", reference[-1]):
            # One that is alike; the one that is shown is of other data, precision or choice of the best epoch.
            shown, reference = reference, (*ours[:3], *FULL, row["full_recipe"])
            full_note = f"{HELD} {comparer.describe(reference, shown)}, not the one shown"
        compared = comparer.compare(ours, reference) if reference else Compared(None, _NO_FULL)
        notes = {"note": row["note"], "full_note": full_note}
        notes |= {"full_recipe": reference[-1] if reference else ""}
        asked = "" if whole else row["module"], row["subset"] == "all"
        families.setdefault((*ours[:3], *asked), []).append(len(rows))
        full_mean = comparer.mean(reference) if reference else math.nan
        rows.append({**{name: row[name] for name in (*CELL, "select_on")}, **notes, "full_mean": full_mean})
        asked_of.append((ours, reference, compared))
    for members in families.values():
        family = corrected([asked_of[number][2] for number in members])
        for number, one in zip(members, family, strict=True):
            ours, reference, _ = asked_of[number]
            took = (comparer.seconds(ours), comparer.seconds(reference) if reference else math.nan)
            rows[number] |= _flat(one, _tested(family), took, comparer.margin)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _flat(compared: Compared, tested: int, took: tuple[float, float], margin: float) -> dict[str, Any]:
    found, task = compared.difference, compared.task
    missing = dict.fromkeys(("low", "high", "p_not_worse", "p_worse", "p_better"), math.nan)
    on_task = asdict(task) if task else missing
    more = how_many_more(found, task, tested, margin) if found else MoreSeeds()
    return {
        "difference": found.estimate if found else math.nan,
        **(asdict(found) if found else {**missing, "method": "", "pairs": 0}),
        "margin": margin,
        "verdict": compared.verdict,
        "why": compared.why,
        **{f"{name}_task": on_task[name] for name in missing},
        "verdict_task": task.verdict if task else NOT_ENOUGH,
        "why_task": compared.task_why or ("" if found else compared.why),
        **more.columns(compared.seeds, took),
    }
