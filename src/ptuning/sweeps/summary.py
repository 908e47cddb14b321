"""After a sweep: one W&B run of type ``sweep`` with its tables, figures and report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ptuning.console import console
from ptuning.errors import UserError
from ptuning.sweeps.outcome import DONE, SKIPPED, Job, Outcome, Sweep

REPORT = "report"


def log_summary(jobs: Sequence[Job], outcomes: Mapping[int, Outcome], sweep: Sweep, scratch: Path) -> None:
    """Write the report of this sweep's runs into ``scratch`` and log it as a W&B run, if the jobs log there.

    A summary that cannot be made costs one line, not the sweep: every run has its own record already.
    """
    from ptuning import tracking

    if not tracking.logs_to_wandb(jobs[0].config["logger"]):
        return
    import wandb

    folders = sorted({outcome.folder for outcome in outcomes.values() if outcome.status in (DONE, SKIPPED)})
    from ptuning.model.reference import count_layernorms_of_one_block
    from ptuning.results import Count, read_results, write_report

    runs_dir = Path(str(jobs[0].config["runs_dir"])).expanduser()
    try:
        count = Count(*count_layernorms_of_one_block())
        results = read_results(runs_dir, only=[Path(folder) for folder in folders], count=count)
        page = write_report(results, scratch / REPORT)
        upload = tracking.log_sweep(
            jobs[0].config["logger"],
            scratch,
            name=sweep.name,
            config={"sweep": asdict(sweep)},
            counts=Counter(outcome.status for outcome in outcomes.values()),
            cells=results.summary,
            report=page.parent,
        )
    except (UserError, OSError, wandb.Error) as error:
        console.print(f"The sweep's summary could not be logged to W&B: {error}")
        return
    if upload:
        console.print(
            f"W&B is offline. To upload the runs later: find {runs_dir} -name 'offline-run-*' -exec wandb sync {{}} +"
        )
