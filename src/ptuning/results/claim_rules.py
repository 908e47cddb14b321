"""The rules of the paper's claims: from the comparisons of one backbone and task to a verdict."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ptuning.display.format import format_percent, format_points
from ptuning.results.comparisons import Compared, Comparer
from ptuning.results.statistics import BETTER, BOOTSTRAP, COMPARABLE, NOT_ENOUGH, UNDECIDED, WORSE
from ptuning.results.summary import recipe_keys
from ptuning.results.tables import name_layers
from ptuning.selection.names import GROUPS_OF_BLOCK, MODULES_OF_BLOCK, NORMS

HOLDS, FAILS = "holds", "does not hold"
_GOOD = (COMPARABLE, BETTER)


@dataclass(frozen=True)
class Finding:
    """The answer of one backbone and task to one question of a claim.

    Attributes
    ----------
    backbone, place
        The runs asked; ``place`` is the task with its source.
    asked, found
        The question, and the numbers.
    verdict, why
        ``holds``, ``does not hold`` or ``not enough runs``, and the reason.
    counts
        True if it is evidence: synthetic data and random weights are none.
    """

    backbone: str
    place: str
    asked: str
    found: str
    verdict: str
    why: str
    counts: bool


Judge = Callable[[list[dict[str, Any]]], tuple[str, str, str, str] | None]
"""From the comparisons of one backbone, task and source to (asked, found, verdict, why); ``None`` without such runs."""


def per_place(cells: pd.DataFrame, judge: Judge) -> list[Finding]:
    """Return one :class:`Finding` of ``judge`` per backbone, task and source."""
    findings = []
    for (backbone, task, source), part in cells.groupby(["backbone", "task", "source"], sort=False):
        rows = part.to_dict("records")
        if judged := judge([row for row in rows if row["subset"] == "all"]):
            asked, found, verdict, why = judged
            if BOOTSTRAP in {row["method"] for row in rows}:
                why += "; in part from one seed, over dev examples"
            place, evidence = f"{task} ({source})", is_evidence(rows[0])
            findings.append(Finding(backbone, place, asked, found, verdict, why, evidence))
    return findings


def is_evidence(row: Mapping[str, Any]) -> bool:
    """Return False for synthetic data and random weights."""
    return row["source"] != "synthetic" and not str(row["backbone_id"]).startswith("random ")


def every_module(rows: list[dict[str, Any]]) -> tuple[str, str, str, str] | None:
    """Return the verdict on claim 1: every module of the block, in all layers."""
    rows = [r for r in rows if r["layers"] == "all" and r["module"] in (*MODULES_OF_BLOCK, *GROUPS_OF_BLOCK)]
    if not rows:
        return None
    verdicts = {row["module"]: row["verdict"] for row in rows}
    found = _by_kind((row["verdict"], f"{row['module']} {_points(row)}".strip()) for row in rows)
    projections = ("query_key_value",) if "query_key_value" in verdicts else MODULES_OF_BLOCK[:3]
    needed = [*projections, *MODULES_OF_BLOCK[3:-1]]
    worse = [module for module, verdict in verdicts.items() if verdict == WORSE]
    lacking = [(verdicts.get(m, "no finished run"), m) for m in needed if verdicts.get(m) not in _GOOD]
    if worse:
        return "all layers", found, FAILS, f"surely worse: {', '.join(worse)}"
    if lacking:
        return "all layers", found, NOT_ENOUGH, _by_kind(lacking)
    return "all layers", found, HOLDS, "each of them is comparable or better"


def fewest(rows: list[dict[str, Any]]) -> tuple[str, str, str, str] | None:
    """Return the verdict on claim 2 in all layers: LayerNorms with the fewest weights."""
    rows = sorted((row for row in rows if row["layers"] == "all"), key=lambda row: row["trainable_parameters"])
    norms = [row for row in rows if row["module"] in NORMS]
    if not norms:
        return None
    asked = "all layers"
    good = [row for row in rows if row["verdict"] in _GOOD and row["module"] != "frozen"]
    shown = (*norms, *(row for row in good[:1] if row not in norms))
    sizes = "\n".join(f"{row['module']} {_points(row)} with {_share(row)}" for row in shown)
    if verdict := _head_alone(rows):
        return asked, sizes, *verdict
    if all(row["verdict"] == WORSE for row in norms):
        return asked, sizes, FAILS, "LayerNorms are surely worse than full fine-tuning"
    left = [row for row in norms if row["verdict"] != WORSE]
    if good and _size(good[0]) < min(map(_size, left)):
        return asked, sizes, FAILS, f"{good[0]['module']} does it with fewer weights"
    if not good or good[0]["module"] not in NORMS:
        return asked, sizes, NOT_ENOUGH, f"LayerNorms are {left[-1]['verdict']}"
    open_ = [row for row in rows if row["verdict"] in (UNDECIDED, NOT_ENOUGH) and row["module"] not in NORMS]
    if smaller := [row["module"] for row in open_ if _size(row) < _size(good[0])]:
        return asked, sizes, NOT_ENOUGH, f"smaller and not decided: {', '.join(smaller)}"
    if not [row for row in rows if row["module"] not in (*NORMS, "frozen")]:
        return asked, sizes, NOT_ENOUGH, "no other module to compare with"
    return asked, sizes, HOLDS, f"{good[0]['module']} is the smallest that is {good[0]['verdict']}"


def one_layer(rows: list[dict[str, Any]]) -> tuple[str, str, str, str] | None:
    """Return the verdict on claim 2 in single layers: the LayerNorms of one layer."""
    single = [row for row in rows if row["module"] == "layernorm" and re.fullmatch(r"\d+", row["layers"])]
    if not single:
        return None
    whole = next((row for row in rows if row["module"] == "layernorm" and row["layers"] == "all"), None)
    layers = _times(_size(whole), _size(single[0])) if whole else None
    best = max(single, key=lambda row: (pd.notna(row["difference"]), row["difference"]))
    good = [row["layers"] for row in single if row["verdict"] in _GOOD]
    percent = (
        "" if pd.isna(best["percent_of_full"]) else f", {best['percent_of_full']:.1f} % of full fine-tuning's score"
    )
    found = (
        f"layer {best['layers']} {_points(best)} with {_share(best)}{percent}; the best of {len(single)} layers tried"
    )
    asked = "one layer"
    if verdict := _head_alone(rows):
        return asked, found, *verdict
    if good:
        return asked, found, HOLDS, f"comparable or better: {_named_layers(good)}"
    if all(row["verdict"] == WORSE for row in single) and layers == len(single):
        return asked, found, FAILS, "surely worse in each single layer"
    left = [row["layers"] for row in single if row["verdict"] != WORSE]
    missing = f"not every layer was tried{f' ({len(single)} of {layers})' if layers else ''}"
    return asked, found, NOT_ENOUGH, f"not decided: {_named_layers(left)}" if left else missing


def _named_layers(layers: Sequence[str]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(layers)}"


def _head_alone(rows: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Return (verdict, reason) if the head alone settles the question or leaves it open, else ``None``."""
    verdict = next((row["verdict"] for row in rows if row["module"] == "frozen"), None)
    if verdict in _GOOD:
        return FAILS, "the head alone does as well: nothing else has to train"
    if verdict != WORSE:
        return NOT_ENOUGH, f"the head alone (frozen): {verdict}" if verdict else _NO_HEAD
    return None


_NO_HEAD = "the head alone (frozen): no finished run"
NOTHING_LEARNT = "none of them is surely better than the head alone, so which weights were trained cannot matter"
_BY_MAGNITUDE = re.compile(r"(top|bottom|random):(.+)")


def magnitudes(comparer: Comparer, summary: pd.DataFrame) -> list[Finding]:
    """Return the findings inside modules: top, bottom and random subsets of equal size, and the head alone."""
    heads: dict[tuple[str, ...], tuple[str, ...]] = {}
    sets: dict[tuple[Any, ...], dict[str, tuple[dict[str, Any], tuple[str, ...]]]] = {}
    for row, key in zip(summary.to_dict("records"), recipe_keys(summary), strict=True):
        if row["module"] == "frozen":
            heads[row["backbone"], row["task"], row["source"], row["select_on"]] = key
        if match := _BY_MAGNITUDE.fullmatch(row["subset"]):
            same = (*(row[name] for name in ("backbone", "task", "source", "module", "layers", "select_on")), match[2])
            sets.setdefault((*same, _size(row)), {})[match[1]] = row, key
    places: dict[tuple[str, ...], list[tuple[tuple[Any, ...], str]]] = {}
    sets = {same: kinds for same, kinds in sets.items() if set(kinds) != {"random"}}  # which ask between modules
    for same, kinds in sets.items():
        if "top" in kinds:
            places.setdefault(same[:3], []).extend((same, kind) for kind in ("bottom", "random") if kind in kinds)
    compared: dict[tuple[tuple[Any, ...], str], Compared] = {}
    for members in places.values():
        pairs = [(sets[same][kind][1], sets[same]["top"][1]) for same, kind in members]
        compared |= dict(zip(members, comparer.compare_all(pairs), strict=True))
    findings = []
    for same, kinds in sets.items():
        backbone, task, source, module, layers, select_on, amount, size = same
        verdict, why = _judge_magnitude({kind: compared.get((same, kind)) for kind in ("bottom", "random")})
        if verdict == FAILS:
            head = heads.get((backbone, task, source, select_on))
            beside = comparer.compare_all((key, head) for _, key in kinds.values()) if head else []
            if all(one.verdict != BETTER for one in beside):
                unpaired = next((f"the head alone: {one.why}" for one in beside if not one.difference), NOTHING_LEARNT)
                verdict, why = NOT_ENOUGH, unpaired if head else _NO_HEAD
        means = {kind: row["mean"] for kind, (row, _) in sorted(kinds.items(), reverse=True)}
        scores = ", ".join(f"{kind} {format_points(mean)}" for kind, mean in means.items())
        differences = "\n".join(
            f"{kind} less top {_signed(found.difference.estimate, found.difference.low, found.difference.high)}"
            for kind in ("bottom", "random")
            if (found := compared.get((same, kind))) and found.difference
        )
        asked = f"{module}, {name_layers(layers, amount)} ({_weights(size)})"
        place, evidence = f"{task} ({source})", is_evidence(next(iter(kinds.values()))[0])
        found_text = "\n".join(filter(None, (scores, differences)))
        findings.append(Finding(backbone, place, asked, found_text, verdict, why, evidence))
    return findings


def _judge_magnitude(found: Mapping[str, Compared | None]) -> tuple[str, str]:
    as_good = [kind for kind, one in found.items() if one and one.verdict in _GOOD]
    if as_good:
        return FAILS, f"{' and '.join(as_good)} do as well as top"
    if all(one and one.verdict == WORSE for one in found.values()):
        return HOLDS, "bottom and random are surely worse than top"
    reasons = [f"{kind}: {one.why or one.verdict if one else 'nothing to compare'}" for kind, one in found.items()]
    return NOT_ENOUGH, "; ".join(reasons)


def _points(row: Mapping[str, Any]) -> str:
    if pd.isna(row["difference"]):
        return ""
    return _signed(row["difference"], row["low"], row["high"])


def _by_kind(texts: Iterable[tuple[str, str]]) -> str:
    """Return a line per kind with its texts, in order of first appearance."""
    kinds: dict[str, list[str]] = {}
    for kind, text in texts:
        kinds.setdefault(kind, []).append(text)
    return "\n".join(f"{kind}: {', '.join(members)}" for kind, members in kinds.items())


def _signed(estimate: float, low: float, high: float) -> str:
    return f"{format_points(estimate, True)} [{format_points(low, True)}, {format_points(high, True)}]"


def _share(row: Mapping[str, Any]) -> str:
    return f"{_weights(_size(row))} ({format_percent(row['trainable_percent'])} %)"


def _weights(count: float) -> str:
    return f"{int(count):,} weights" if math.isfinite(count) else "weights that nobody counted"


def _size(row: Mapping[str, Any]) -> float:
    return float(row["trainable_parameters"])


def _times(whole: float, part: float) -> int | None:
    return round(whole / part) if part > 0 and math.isfinite(whole / part) else None
