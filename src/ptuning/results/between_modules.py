"""Claim 3 between modules: as many random weights of each, what they reach against the modules' mean magnitude."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ptuning.display.format import format_points, format_whole
from ptuning.results.claim_rules import FAILS, HOLDS, NOTHING_LEARNT, Finding, is_evidence
from ptuning.results.collect import SETTING
from ptuning.results.comparisons import Comparer
from ptuning.results.rank_correlation import FEWEST, rank_correlation
from ptuning.results.recovery import recover
from ptuning.results.statistics import BETTER, NOT_ENOUGH
from ptuning.results.summary import IDENTITY, recipe_keys, scores_by_recipe
from ptuning.results.tables import name_layers
from ptuning.selection.names import MODULES_OF_BLOCK

FEWEST_RATES = 2
"""Learning rates that every module has to have tried: at one rate a difference may be one of rates."""
_DRAWN = re.compile(r"random:\d+ of the selection")
_LR, _HEAD_LR = f"{SETTING}optimisation.lr", f"{SETTING}optimisation.head_lr"


@dataclass(frozen=True)
class _Tried:
    """Runs of one module at one rate: their (cell, recipe), scores by seed, and the module's mean |w|."""

    module: str
    rate: float
    key: tuple[str, ...]
    scores: Mapping[int, float]
    magnitude: float

    def mean(self, seeds: set[int]) -> float:
        """Return the mean score over seeds."""
        return float(np.mean([self.scores[seed] for seed in seeds]))


def between_modules(comparer: Comparer, summary: pd.DataFrame) -> list[Finding]:
    """Return the findings on claim 3 between modules: equally many random weights of each at its best rate.

    Parameters
    ----------
    comparer
        It has the runs.
    summary
        ``summarise(...)`` of them, without those on a part of their data.
    """
    runs = comparer.runs
    drawn = runs["subset"].str.fullmatch(_DRAWN.pattern) & runs["module"].isin(MODULES_OF_BLOCK)
    runs = runs[drawn & (runs["status"] == "finished") & (runs["part"] == "") & runs["score"].notna()]
    if runs.empty:
        return []
    scores = scores_by_recipe(runs)
    settings = sorted(name for name in runs.columns if name.startswith(SETTING) and name not in (_LR, _HEAD_LR))
    alike: dict[tuple[str, ...], list[tuple[dict[str, Any], tuple[str, ...]]]] = {}
    for row, key in zip(runs.to_dict("records"), recipe_keys(runs), strict=True):
        same = (*(row[name] for name in ("backbone", "task", "source", "layers", "subset")), *map(row.get, settings))
        alike.setdefault(same, []).append((row, key))
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[dict[str, Any]]]] = {}
    for same, known in alike.items():
        follows = all(row.get(_HEAD_LR, "") == row.get(_LR) for row, _ in known)  # not typed, it is the other's
        for row, key in known:
            head = "" if follows else row.get(_HEAD_LR, "")
            groups.setdefault((*same, head), {}).setdefault(key, []).append(row)
    findings = []
    for cells in groups.values():
        tried = [_tried(key, rows, scores[key]) for key, rows in cells.items()]
        if len({one.module for one in tried}) > 1:
            findings.append(_finding(comparer, summary, tried, next(iter(cells.values()))[0]))
    return findings


def _tried(key: tuple[str, ...], rows: list[dict[str, Any]], scores: Mapping[int, tuple[float, str]]) -> _Tried:
    magnitudes = [row.get("trainable_magnitude", math.nan) for row in rows]
    known = [value for value in magnitudes if value is not None and math.isfinite(value)]
    magnitude = sum(known) / len(known) if known else math.nan
    by_seed = {seed: score for seed, (score, _) in scores.items()}
    return _Tried(key[3], float(rows[0]["lr"]), key, by_seed, magnitude)


def _finding(comparer: Comparer, summary: pd.DataFrame, tried: list[_Tried], row: Mapping[str, Any]) -> Finding:
    alike = summary[(summary[[*IDENTITY]] == [row[name] for name in IDENTITY]).all(axis=1)]
    alike = alike[
        (alike[["backbone", "task", "source"]] == [row[n] for n in ("backbone", "task", "source")]).all(axis=1)
    ]
    keys = {key[3]: key for key in recipe_keys(alike) if key[3] in ("frozen", "full") and key[4:6] == ("all", "all")}
    best, rates = _at_best_rates(tried)
    lines, verdict, why = _judge(comparer, best, rates, keys)
    subset = row["subset"].removesuffix(" of the selection")
    asked = f"{name_layers(row['layers'], subset)} of each of {len(best)} modules"
    place = f"{row['task']} ({row['source']})"
    return Finding(row["backbone"], place, asked, "\n".join(lines), verdict, why, is_evidence(row))


def _at_best_rates(tried: list[_Tried]) -> tuple[list[_Tried], set[float]]:
    """Return (every module at its best of the rates that all tried, these rates)."""
    by_module: dict[str, dict[float, _Tried]] = {}
    for one in tried:
        by_module.setdefault(one.module, {})[one.rate] = one
    rates = set.intersection(*(set(rates) for rates in by_module.values()))
    best = []
    for known in by_module.values():
        candidates = [known[rate] for rate in sorted(rates or known)]
        common = set.intersection(*(set(one.scores) for one in candidates))
        best.append(max(candidates, key=lambda one: one.mean(common or set(one.scores))))
    return best, rates


def _judge(
    comparer: Comparer, best: list[_Tried], rates: set[float], references: Mapping[str, tuple[str, ...]]
) -> tuple[list[str], str, str]:
    """Return (lines of numbers, verdict, reason)."""
    seeds = set.intersection(*(set(one.scores) for one in best))
    best = sorted(best, key=lambda one: (-one.magnitude, one.module))
    lines = [_line(comparer, one, seeds or set(one.scores), references) for one in best]
    if len(best) < FEWEST:
        return lines, NOT_ENOUGH, f"{len(best)} modules, and a correlation takes {FEWEST}"
    if len(rates) < FEWEST_RATES:
        tried = f"{len(rates)} {'rate was' if len(rates) == 1 else 'rates were'} tried with all modules"
        return lines, NOT_ENOUGH, f"{tried}, and {FEWEST_RATES} are needed"
    if unknown := [one.module for one in best if math.isnan(one.magnitude)]:
        return lines, NOT_ENOUGH, f"the records do not say the mean |w| of {', '.join(unknown)}"
    if not seeds:
        return lines, NOT_ENOUGH, "no seed in common"
    found = rank_correlation([one.magnitude for one in best], [one.mean(seeds) for one in best])
    if found is None:
        return lines, NOT_ENOUGH, "all modules have one score, or one mean |w|"
    lines = [f"rank correlation {found}", *lines]
    if "frozen" in references:
        beside = comparer.compare_all((one.key, references["frozen"]) for one in best)
        if all(one.verdict != BETTER for one in beside):
            return lines, NOT_ENOUGH, NOTHING_LEARNT
    over = f"over {len(best)} modules and {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}"
    if found.low > 0:
        return lines, HOLDS, f"larger weights go with more, {over}"
    if found.high < 0:
        return lines, FAILS, f"larger weights go with less, {over}"
    return lines, NOT_ENOUGH, f"the interval holds 0, {over}"


def _line(comparer: Comparer, one: _Tried, seeds: set[int], references: Mapping[str, tuple[str, ...]]) -> str:
    """Return ``attention_layernorm, mean |w| 0.85: 82.1 at 0.005, recovery 88 %``."""
    magnitude = "unknown" if math.isnan(one.magnitude) else f"{one.magnitude:.2g}"
    score = format_points(one.mean(seeds))
    recovered = _recovery(comparer, one, references)
    return f"{one.module}, mean |w| {magnitude}: {score} at {one.rate:g}{recovered}"


def _recovery(comparer: Comparer, one: _Tried, references: Mapping[str, tuple[str, ...]]) -> str:
    if {"frozen", "full"} - set(references):
        return ""
    head, full = (comparer.scores(references[name]) for name in ("frozen", "full"))
    common = sorted(set(one.scores) & set(head) & set(full))
    if not common:
        return ""
    found = recover(np.array([[cell[seed] for seed in common] for cell in (one.scores, head, full)]))
    return f", recovery {format_whole(100 * found.estimate)} %" if found else ""
