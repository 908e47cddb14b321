"""All results of a folder of runs, computed once: for the report, for notebooks, for W&B."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ptuning.display.printable import printable
from ptuning.results.appendix import hyperparameter_tables
from ptuning.results.claims import Claim, check_claims
from ptuning.results.collect import Collected, LeftOut, collect
from ptuning.results.comparison_tables import comparison_tables
from ptuning.results.comparisons import Comparer, against_full
from ptuning.results.examples import Examples
from ptuning.results.races import read_races
from ptuning.results.rankings import calibration_tables
from ptuning.results.statistics import MARGIN
from ptuning.results.summary import mark_shown, summarise
from ptuning.results.tables import module_tables
from ptuning.results.text_table import TextTable
from ptuning.runs.ranking import Ranking, find_rankings

if TYPE_CHECKING:
    from ptuning.results.picture import FigureSize, Picture
    from ptuning.results.races import ShownRace


@dataclass(frozen=True)
class Results:
    """The results of a folder of runs.

    Attributes
    ----------
    runs_dir
        The folder.
    collected
        Its records: every run, every evaluation, and the files that could not be read.
    summary
        A row per backbone, task, source, module, layers and subset, over seeds.
    tables
        Scores by module and task.
    comparisons
        A row per cell that has full fine-tuning beside it: difference, interval, p-values, verdict.
    compared
        (backbone, those rows as a table to read).
    claims
        The paper's claims, checked on these runs.
    appendix
        The hyperparameters behind the scores, a table per backbone.
    pictures
        (backbone, figure).
    rankings
        (backbone, modules ranked before training beside what they reached), a table per ranking.
    races
        Every race: its table, and the picture of its rounds.
    """

    runs_dir: Path
    collected: Collected
    summary: pd.DataFrame
    tables: list[TextTable]
    comparisons: pd.DataFrame
    compared: list[tuple[str, TextTable]]
    claims: list[Claim]
    appendix: list[TextTable]
    pictures: "list[tuple[str, Picture]]"
    rankings: list[tuple[str, TextTable]] = field(default_factory=list)
    races: "list[ShownRace]" = field(default_factory=list)

    @property
    def runs(self) -> pd.DataFrame:
        """A row per run; the column ``shown`` is true for runs behind a number of the tables."""
        return self.collected.runs


def read_results(
    runs_dir: Path | str,
    only: Sequence[Path] | None = None,
    margin: float = MARGIN,
    count: tuple[int, int] | None = None,
    size: "FigureSize | None" = None,
) -> Results:
    """Return the :class:`Results` of a folder of runs.

    Parameters
    ----------
    runs_dir
        The folder of runs, or any folder inside it.
    only
        Run folders to read instead of all.
    margin
        How far below full fine-tuning a score counts as comparable, as a share: 0.01 is one point.
    count
        The selection's own count for the percentage that the paper names, which takes a model to make: weights in the
        LayerNorms of one block of BERT-base, and in the whole model.
    size
        Width and letters of the figures.

    Raises
    ------
    RunError
        If there are no records.
    """
    from ptuning.results.figures import draw_all  # half a second to import, and tables have no need of it
    from ptuning.results.picture import FigureSize
    from ptuning.results.race_figure import show_races

    folder = Path(runs_dir)
    collected = collect(folder, history=True, only=only)
    examples = Examples(folder)
    summary = summarise(collected.runs, examples)
    ranked = list(find_rankings(folder, collected.runs["folder"]))
    sources = dict(zip(collected.runs["folder"], collected.runs["source"], strict=True))
    races, no_races = read_races(folder, None if only is None else sources)
    strange = [*((file, found) for file, found in ranked if isinstance(found, str)), *no_races]
    unread = tuple(LeftOut(printable(file), why) for file, why in strange)
    collected = replace(collected, runs=mark_shown(collected.runs, summary), left_out=(*collected.left_out, *unread))
    comparer = Comparer(folder, collected.runs, margin, examples)
    modules = summary[summary["kind"] == ""]  # a yardstick is no module: it is shown, and no evidence for a claim
    comparisons = against_full(comparer, modules)
    return Results(
        runs_dir=folder,
        collected=collected,
        summary=summary,
        tables=module_tables(summary),
        comparisons=comparisons,
        compared=comparison_tables(comparisons),
        claims=check_claims(comparer, modules, comparisons, count),
        appendix=hyperparameter_tables(collected.runs[collected.runs["kind"] == ""]),
        pictures=list(draw_all(summary, collected.history, collected.runs, comparisons, size or FigureSize())),
        rankings=calibration_tables([found for _, found in ranked if isinstance(found, Ranking)], modules),
        races=list(show_races(races, sources)),
    )
