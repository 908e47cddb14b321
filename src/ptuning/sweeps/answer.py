"""What a sweep found: the table of its cells, drawn as ``ptuning results`` draws it."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from ptuning.errors import UserError, in_one_line
from ptuning.sweeps.job import DONE, SKIPPED, Outcome

_LONGEST = 40
"""Rows of a table."""


def show_answer(console: Console, outcomes: Mapping[int, Outcome], runs_dir: Path) -> None:
    """Print the scores of a sweep's finished runs by module and task, and the command that makes the report.

    What imports pandas is imported here, after the last job. A table that cannot be made costs one line, not the
    sweep: every run has its own record already.

    Parameters
    ----------
    console
        The screen, or a log file.
    outcomes
        Job number → outcome.
    runs_dir
        The folder of runs, where other sweeps may have left theirs.
    """
    folders = sorted({outcome.folder for outcome in outcomes.values() if outcome.status in (DONE, SKIPPED)})
    if not folders:
        return
    from ptuning.results import collect, summarise
    from ptuning.results.tables import module_tables
    from ptuning.results.terminal import command, explain_star, print_tables

    console.print()
    try:
        tables = module_tables(summarise(collect(runs_dir, only=[Path(folder) for folder in folders]).runs))
    except Exception as error:  # noqa: BLE001 - whatever a record holds, the sweep is done
        said = str(error) if isinstance(error, UserError) else in_one_line(error)
        console.print(f"The table of scores could not be made: {said}", markup=False)
        return
    print_tables(console, tables, _LONGEST)
    count = f"{len(folders):,} run{'s' if len(folders) != 1 else ''} of this sweep.{explain_star(tables)}"
    console.print(f"{count} All runs that there are: {command('results', runs_dir)}", markup=False)
    console.print(f"With comparisons, figures and claims, as one page: {command('report', runs_dir)}", markup=False)
