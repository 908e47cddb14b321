"""The summary of a sweep in W&B: one run of type ``sweep`` with tables, figures and report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ptuning.display.console import console
from ptuning.display.format import format_path
from ptuning.errors import UserError, in_one_line
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.job import DONE, SKIPPED, Job, Outcome

REPORT = "report"


def log_summary(jobs: Sequence[Job], outcomes: Mapping[int, Outcome], sweep: Sweep, scratch: Path) -> None:
    """Write the report of this sweep's runs into ``scratch`` and log it as a W&B run, if the jobs log there.

    A summary that cannot be made costs one line, not the sweep: every run has its own record already.
    """
    from ptuning.tracking.make_loggers import wandb_settings

    settings = wandb_settings(jobs[0].config["logger"])
    if settings is None:
        return
    folders = sorted({outcome.folder for outcome in outcomes.values() if outcome.status in (DONE, SKIPPED)})
    from ptuning.results import read_results, write_report
    from ptuning.weights.reference import count_layernorms_of_one_block

    runs_dir = Path(str(jobs[0].config["runs_dir"])).expanduser()
    try:
        count = count_layernorms_of_one_block()
        results = read_results(runs_dir, only=[Path(folder) for folder in folders], count=count)
        page = write_report(results, scratch / REPORT)
        counts = Counter(outcome.status for outcome in outcomes.values())
        upload = _log_sweep(settings, scratch, sweep, counts, results.summary, page.parent)
    except Exception as error:  # noqa: BLE001 - whatever the tracker raises, the sweep is done
        said = str(error) if isinstance(error, UserError) else in_one_line(error)
        console.print(f"The sweep's summary could not be logged to W&B: {said}", markup=False)
        return
    console.print(f"The report of this sweep: {format_path(page)}", markup=False)
    if upload:
        console.print(
            f"W&B is offline. To upload the runs later: find {runs_dir} -name 'offline-run-*' -exec wandb sync {{}} +"
        )


def _log_sweep(
    settings: Mapping[str, Any],
    folder: Path,
    sweep: Sweep,
    counts: Mapping[str, int],
    cells: pd.DataFrame,
    report: Path,
) -> str | None:
    """Log a sweep as one W&B run of type ``sweep`` and return the command that uploads an offline run later.

    It holds the counts of outcomes, the cells, and the page and figures in the report's folder.
    """
    import wandb

    from ptuning.tracking.make_loggers import make
    from ptuning.tracking.run_logger import begin
    from ptuning.tracking.wandb import WandbTracker

    extra = {"name": f"sweep {sweep.name}", "group": sweep.name, "job_type": "sweep", "run_id": sweep.summary_id}
    logger: WandbTracker = make("wandb", settings, {"save_dir": str(folder), **extra})
    begin([logger], {"sweep": asdict(sweep)})
    run = logger.experiment
    run.log(
        {
            "cells": wandb.Table(dataframe=cells),
            "report": wandb.Html((report / "index.html").read_text("utf-8"), inject=False),
            **{f"figures/{png.stem}": wandb.Image(str(png)) for png in sorted((report / "figures").glob("*.png"))},
        }
    )
    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    for file in sorted(path for path in report.rglob("*") if path.is_file()):
        artifact.add_file(str(file), name=str(file.relative_to(report)))
    run.log_artifact(artifact)
    summary: dict[str, float] = {f"jobs/{status.replace(' ', '_')}": count for status, count in counts.items()}
    whole = cells[cells["part"] == ""]  # what saw a part of its data is nobody's best
    best = whole.sort_values("mean").groupby("task").last() if len(whole) else whole
    summary |= {f"best/{task}": float(row["mean"]) for task, row in best.iterrows()}
    logger.attach(summary)
    return logger.finish(0)
