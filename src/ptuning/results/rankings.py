"""Rankings of modules from before training, as tables: alone, and beside what finished runs reached."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ptuning.display.format import format_points
from ptuning.results.rank_correlation import FEWEST, rank_correlation
from ptuning.results.text_table import MISSING, TextTable, slug
from ptuning.runs.ranking import CRITERIA, RankedModule, Ranking
from ptuning.selection.names import layers_key, module_key

_KINDS = {False: "elementary modules", True: "groups"}
_CRITERIA = (
    "g: gradient of a training example's loss at the pretrained weights. Fisher: mean of g² over examples. ‖g‖/‖w‖ and "
    "|g|/|w|: of the mean gradient. In brackets: the place, modules and groups apart."
)


def ranking_table(ranking: Ranking, each_layer: bool = False) -> TextTable:
    """Return a ranking as a table, modules before groups, by their summed Fisher information.

    Parameters
    ----------
    ranking
        The ranking.
    each_layer
        Whether modules of single layers are ranked in the place of those in all layers.
    """
    rows = [row for row in ranking.rows if (row.layers != "all") == each_layer]
    places = _places(rows)
    rows.sort(key=lambda row: (row.is_group, places[row.module, row.layers, "fisher_sum"]))
    shown = [(row.module, *((row.layers,) if each_layer else ()), f"{row.weights:,}") for row in rows]
    body = tuple((*names, *_values(row, places)) for names, row in zip(shown, rows, strict=True))
    layers = ("layers",) if each_layer else ()
    head = ("module", *layers, "weights", *CRITERIA.values())
    title = f"{ranking.backbone}, {ranking.task}: modules before training"
    caption = f"{_how(ranking)} {_CRITERIA}"
    return TextTable("rank", title, caption, head, f"l{'r' * (len(head) - 1)}", body)


def ranking_rows(ranking: Ranking, each_layer: bool = False) -> pd.DataFrame:
    """Return a ranking as numbers: a row per module, with the mean of each criterion over the seeds."""
    return pd.DataFrame(
        [
            {
                "module": row.module,
                "layers": row.layers,
                "is_group": row.is_group,
                "weights": row.weights,
                **{name: row.mean(name) for name in CRITERIA},
            }
            for row in ranking.rows
            if (row.layers != "all") == each_layer
        ]
    )


def calibration_tables(rankings: Sequence[Ranking], summary: pd.DataFrame) -> list[tuple[str, TextTable]]:
    """Return (backbone, table) for every ranking whose modules finished runs: criteria, scores, how they agree.

    Parameters
    ----------
    rankings
        Rankings, each of one backbone and task.
    summary
        ``summarise(...)`` of the runs; those on the same weights and data count, in all layers and with all weights.
    """
    found = [(ranking, scores) for ranking in rankings if (scores := _scores(ranking, summary))]
    places = {(ranking.backbone, ranking.task) for ranking, _ in found}
    tables = []
    for number, (ranking, scores) in enumerate(found, start=1):
        rows = sorted((row for row in ranking.whole if row.module in scores), key=lambda row: module_key(row.module))
        rows.sort(key=lambda row: row.is_group)
        ranked = _places(rows)
        body = [(row.module, format_points(scores[row.module]), *_values(row, ranked)) for row in rows]
        for is_group, kind in _KINDS.items():
            own = [row for row in rows if row.is_group == is_group]
            if len(own) >= FEWEST:
                reached = [scores[row.module] for row in own]
                agrees = (rank_correlation([row.mean(name) for row in own], reached) for name in CRITERIA)
                body.append((f"rank correlation, {len(own)} {kind}", "", *(str(one or MISSING) for one in agrees)))
        first = " First look: one task says nothing of others." if len(places) == 1 else ""
        caption = (
            f"Criteria from before training beside the mean score of finished runs. {_how(ranking)} {_CRITERIA} Rank "
            f"correlation: Spearman's between criterion and score, with its 95 % interval over modules (Fisher's z), "
            f"for {FEWEST} or more; groups overlap, so that theirs is too narrow.{first}"
        )
        name = f"{ranking.backbone}, {ranking.task} ({_source(ranking)})"
        head = ("module", "score", *CRITERIA.values())
        file_name = slug(f"rank-{number}-{ranking.backbone}-{ranking.task}")
        title = f"{name}: modules ranked before training"
        tables.append((ranking.backbone, TextTable(file_name, title, caption, head, "lrrrrrrr", tuple(body))))
    return tables


def _scores(ranking: Ranking, summary: pd.DataFrame) -> dict[str, float]:
    """Return module → mean score of the runs that a ranking speaks of."""
    wanted: dict[str, Any] = {
        "backbone": ranking.backbone,
        "task": ranking.task,
        "source": _source(ranking),
        "data_id": ranking.recipe.get("data"),
        "backbone_id": ranking.recipe.get("backbone"),
        "layers": "all",
        "subset": "all",
        "part": "",
    }
    rows = summary
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    modules = {row.module for row in ranking.whole}
    return {module: score for module, score in zip(rows["module"], rows["mean"], strict=True) if module in modules}


def _source(ranking: Ranking) -> str:
    rows = ranking.recipe.get("train_rows")
    return (
        f"{ranking.source}, {rows:,} rows"
        if isinstance(rows, int) and ranking.source != "synthetic"
        else ranking.source
    )


def _how(ranking: Ranking) -> str:
    seeds = f"{len(ranking.seeds)} seeds" if len(ranking.seeds) > 1 else "1 seed"
    synthetic = ", of synthetic data" if ranking.source == "synthetic" else ""
    head = "an exact head" if ranking.head == "exact" else "a briefly trained head"
    return f"On {ranking.examples:,} training examples behind {head}, mean over {seeds}{synthetic}."


def _places(rows: Sequence[RankedModule]) -> dict[tuple[str, str, str], int]:
    """Return (module, layers, criterion) → place from 1, modules and groups apart."""
    found: dict[tuple[str, str, str], int] = {}
    for is_group in _KINDS:
        own = [row for row in rows if row.is_group == is_group]
        for name in CRITERIA:
            own.sort(key=lambda row: (-row.mean(name), module_key(row.module), layers_key(row.layers)))
            found |= {(row.module, row.layers, name): place for place, row in enumerate(own, start=1)}
    return found


def _values(row: RankedModule, places: dict[tuple[str, str, str], int]) -> tuple[str, ...]:
    return tuple(f"{row.mean(name):.2g} ({places[row.module, row.layers, name]})" for name in CRITERIA)
