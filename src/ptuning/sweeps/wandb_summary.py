"""The summary of a sweep in W&B: one run of type ``sweep`` with tables, figures and report."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptuning.display.console import console
from ptuning.display.format import format_path
from ptuning.errors import UserError, in_one_line
from ptuning.results.text_table import TextTable
from ptuning.runs.race_record import RaceRecord
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.job import DONE, SKIPPED, Job, Outcome

if TYPE_CHECKING:
    from ptuning.results import Results

REPORT = "report"


def log_summary(jobs: Sequence[Job], outcomes: Mapping[int, Outcome], sweep: Sweep, scratch: Path) -> None:
    """Write the report of this sweep's runs into ``scratch`` and log it as a W&B run, if the jobs log there.

    A summary that cannot be made costs one line, not the sweep: every run has its own record already.
    """
    folders = sorted({outcome.folder for outcome in outcomes.values() if outcome.status in (DONE, SKIPPED)})
    counts = Counter(outcome.status for outcome in outcomes.values())
    summary = {f"jobs/{status.replace(' ', '_')}": count for status, count in counts.items()}
    _summarise(jobs[0].config, folders, summary, sweep, scratch)


def log_race(config: Mapping[str, Any], race: RaceRecord, sweep: Sweep, scratch: Path) -> None:
    """Do the same for a race: its standings and its picture are in the report, its end in the summary.

    Parameters
    ----------
    config
        Of one of its runs, as plain containers.
    race
        How it ended.
    sweep
        What its runs share.
    scratch
        The sweep's folder.
    """
    folders = sorted({str(Path(run).resolve()) for one in race.candidates for run in one.runs})
    ended = {"answer": race.answer or "", "end": race.end, "rounds": race.rounds, "runs": race.runs}
    _summarise(config, folders, {f"race/{name}": value for name, value in ended.items()}, sweep, scratch)


def _summarise(
    config: Mapping[str, Any], folders: Sequence[str], summary: Mapping[str, Any], sweep: Sweep, scratch: Path
) -> None:
    from ptuning.tracking.make_loggers import wandb_settings

    settings = wandb_settings(config["logger"])
    if settings is None or not folders:
        return
    from ptuning.results import read_results, write_report
    from ptuning.weights.reference import count_layernorms_of_one_block

    runs_dir = Path(str(config["runs_dir"])).expanduser()
    try:
        count = count_layernorms_of_one_block()
        results = read_results(runs_dir, only=[Path(folder) for folder in folders], count=count)
        page = write_report(results, scratch / REPORT)
        upload = _log_sweep(settings, scratch, sweep, summary, results, page.parent)
    except Exception as error:  # noqa: BLE001 - whatever the tracker raises, the sweep is done
        said = str(error) if isinstance(error, UserError) else in_one_line(error)
        console.print(f"The sweep's summary could not be logged to W&B: {said}", markup=False)
        return
    console.print(f"The report of this sweep: {format_path(page)}", markup=False)
    if upload:
        find = f"find {shlex.quote(str(runs_dir))} -name 'offline-run-*' -exec wandb sync {{}} +"
        console.print(f"W&B is offline. To upload the runs later: {find}", markup=False)


def _log_sweep(
    settings: Mapping[str, Any],
    folder: Path,
    sweep: Sweep,
    counts: Mapping[str, Any],
    results: "Results",
    report: Path,
) -> str | None:
    """Log a sweep as one W&B run of type ``sweep`` and return the command that uploads an offline run later.

    It holds the counts of outcomes, the cells, races, and the page and figures in the report's folder.
    """
    import wandb

    from ptuning.tracking.make_loggers import make, wandb_group, wandb_tags
    from ptuning.tracking.run_logger import begin
    from ptuning.tracking.wandb import WandbTracker

    extra: dict[str, Any] = {"name": f"sweep {sweep.name}", "job_type": "sweep", "run_id": sweep.summary_id}
    extra |= {"group": wandb_group(settings, sweep.name), "tags": wandb_tags(settings)}
    logger: WandbTracker = make("wandb", settings, {"save_dir": str(folder), **extra})
    begin([logger], {"sweep": asdict(sweep)})
    run, cells = logger.experiment, results.summary
    run.log(
        {
            "cells": wandb.Table(dataframe=cells),
            **{race.table.slug: _wandb_table(race.table) for race in results.races},
            "report": wandb.Html((report / "index.html").read_text("utf-8"), inject=False),
            **{f"figures/{png.stem}": wandb.Image(str(png)) for png in sorted((report / "figures").glob("*.png"))},
        }
    )
    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    for file in sorted(path for path in report.rglob("*") if path.is_file()):
        artifact.add_file(str(file), name=str(file.relative_to(report)))
    run.log_artifact(artifact)
    whole = cells[cells["part"] == ""]  # what saw a part of its data is nobody's best
    best = whole.sort_values("mean").groupby("task").last() if len(whole) else whole
    summary = {**counts} | {f"best/{task}": float(row["mean"]) for task, row in best.iterrows()}
    logger.attach(summary)
    return logger.finish(0)


def _wandb_table(table: TextTable) -> Any:
    import wandb

    return wandb.Table(columns=list(table.head), data=[[str(text) for text in row] for row in table.rows])
