"""Whose turn of a race comes first: as given, or as ``ptuning rank`` places what trains. It eliminates nobody."""

from collections.abc import Mapping, Sequence

from ptuning.config.compose import restore
from ptuning.config.rules import check
from ptuning.display.console import console
from ptuning.errors import UserError, first_line
from ptuning.results.race_rules import SMALLEST
from ptuning.runs.ranking import RankedModule, Ranking
from ptuning.selection.layers import parse_layers
from ptuning.sweeps.race_runs import HOLDOUT, RaceRuns

GIVEN, RANK = "given", "rank"
_NOT_RANKED = ("race.", "module=", "layers=", "subset", HOLDOUT)
"""First words of overrides that change no ranking, or are candidates."""


def order_of(runs: RaceRuns) -> list[int]:
    """Return the candidates in the order of their turns within a round.

    With ``race.order=rank`` it is that of their Fisher information, per weight where the smallest is looked for and
    summed where the best is, as ``ptuning rank`` with the race's overrides has it, computed where it is not there. Who
    has none (``frozen``) comes last; equals stay as given. So do all where nothing can be ranked, which is said.
    """
    given = list(range(len(runs.candidates)))
    if runs.options.order != RANK:
        return given
    if len({selection.where for selection in runs.selections.values()}) != 1:
        _keep_order("candidates of several backbones or tasks are in no ranking")
        return given
    try:
        ranking = _rank(runs)
    except UserError as error:
        _keep_order(first_line(error))
        return given
    per_weight = runs.options.objective == SMALLEST
    values = {one: fisher_of(ranking.rows, *found.what, per_weight) for one, found in runs.selections.items()}
    order = sorted(given, key=lambda one: -(values.get(one) or 0.0))
    console.print(f"In the order of ptuning rank: {', '.join(runs.name(one) for one in order)}", markup=False)
    return order


def fisher_of(rows: Sequence[RankedModule], modules: Sequence[str], layers: str, per_weight: bool) -> float | None:
    """Return the Fisher information of the weights that train, or ``None`` if they are in no ranking.

    Parameters
    ----------
    rows
        Of a ranking.
    modules, layers
        What trains; ``all``, or numbers as in ``0-5``.
    per_weight
        Whether it is their mean in the place of their sum.
    """
    by_place: Mapping[tuple[str, str], RankedModule] = {(row.module, row.layers): row for row in rows}
    depth = 1 + max((int(row.layers) for row in rows if row.layers != "all"), default=-1)
    places = ["all"] if layers == "all" or not depth else list(map(str, parse_layers(layers, depth)))
    found = [row for module in modules for place in places if (row := by_place.get((module, place))) is not None]
    weights = sum(row.weights for row in found)
    if not weights:
        return None
    return sum(row.mean("fisher_sum") for row in found) / (weights if per_weight else 1)


def _rank(runs: RaceRuns) -> Ranking:
    from ptuning.training.rank import rank_modules

    kept = [override for override in runs.fixed if not override.startswith(_NOT_RANKED)]
    return rank_modules(check(restore(runs.values((*kept, "module=frozen", "seed=1"))))).ranking


def _keep_order(why: str) -> None:
    console.print(f"The order of candidates stays as given: {why}.", markup=False)
