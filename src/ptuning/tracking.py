"""Weights & Biases: one W&B run per run, named and grouped, offline by itself, always finished with its exit code."""

import netrc
import os
import shlex
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from lightning.pytorch.loggers import WandbLogger

from ptuning.errors import ConfigError

_SUMMARY = (
    "score",
    "status",
    "trainable_parameters",
    "head_parameters",
    "trainable_percent",
    "train_examples_per_second",
    "peak_memory_mb",
    "source",
)


class WandbTracker(WandbLogger):
    """Lightning's ``WandbLogger`` with ptuning's names, which never prompts and never waits for a network.

    Parameters
    ----------
    save_dir
        The run folder; W&B's files go to ``wandb/`` in it.
    mode
        ``auto`` (online if there is a key and the server answers, else offline), ``online`` or ``offline``. The
        environment's ``WANDB_MODE`` goes first.
    name, group, tags, job_type, run_id
        As W&B knows them; ``run_id`` lets a resumed run go on in its own W&B run.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str = "ptuning",
        entity: str | None = None,
        mode: str = "auto",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        job_type: str = "train",
        run_id: str | None = None,
    ) -> None:
        if mode not in ("auto", "online", "offline"):
            raise ConfigError(f"logger.mode={mode} is not known. Allowed: auto, online, offline.")
        import wandb

        chosen = os.environ.get("WANDB_MODE", mode)
        self.offline_reason = why_offline() if chosen == "auto" else None
        offline = chosen == "offline" or self.offline_reason is not None
        super().__init__(
            save_dir=save_dir,
            project=project,
            entity=entity,
            name=name,
            group=group,
            tags=list(tags),
            job_type=job_type,
            id=run_id,
            offline=offline,
            resume="allow" if run_id and not offline else None,
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )
        self._wandb_init.pop("anonymous", None)  # W&B warns of it even where Lightning passes None

    def finish(self, exit_code: int, summary: Mapping[str, Any], delta: Sequence[Path] = ()) -> str | None:
        """Write the summary, attach the delta as an artifact and end the W&B run.

        Returns
        -------
        str or None
            The command that uploads an offline run later.
        """
        import wandb

        run = self.experiment
        run.summary.update(dict(summary))
        if delta:
            artifact = wandb.Artifact(f"delta-{run.id}", type="delta", metadata=dict(summary))
            for file in delta:
                artifact.add_file(str(file))
            run.log_artifact(artifact)
        folder = Path(run.dir).parent
        offline = bool(run.settings._offline)
        run.finish(exit_code=exit_code)
        return f"wandb sync {_quoted(folder)}" if offline else None


def why_offline() -> str | None:
    """Return why W&B cannot be reached from here (no key, no network), or ``None`` if it can. Takes 2 s at most."""
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = url.hostname or "api.wandb.ai"
    if not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or _has_netrc(host)):
        return "no W&B key (wandb login sets one)"
    try:
        with socket.create_connection((host, url.port or (80 if url.scheme == "http" else 443)), timeout=2):
            return None
    except OSError:
        return f"{host} does not answer"


def make_logger(
    settings: Mapping[str, Any] | None,
    folder: Path,
    name: str,
    group: str | None,
    tags: Sequence[str],
    run_id: str,
) -> Any:
    """Return the logger that the ``logger`` group describes, or ``False`` for none.

    Any Lightning logger works by its ``_target_``; it gets the run folder as ``save_dir``. W&B's also gets name, group
    and tags.
    """
    settings = dict(settings or {})
    if not settings.get("_target_"):
        return False
    extra: dict[str, Any] = {"save_dir": str(folder)}
    if logs_to_wandb(settings):
        settings["tags"] = [*tags, *(settings.get("tags") or [])]
        extra |= {"name": name, "group": group, "run_id": run_id}
    return make(settings, extra)


def make(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
    """Return the logger that settings with a ``_target_`` describe, given ``extra`` arguments.

    Raises
    ------
    ConfigError
        If it cannot be made.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    target = settings["_target_"]
    try:
        return instantiate(dict(settings), **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(f"logger._target_={target} cannot be made: {str(error).splitlines()[0]}") from error


def logs_to_wandb(settings: Mapping[str, Any] | None) -> bool:
    """Return whether the ``logger`` group's settings mean W&B."""
    from hydra.utils import get_class

    try:
        return issubclass(get_class(str((settings or {}).get("_target_"))), WandbTracker)
    except (ImportError, ValueError):  # none, or one that :func:`make` refuses with a sentence
        return False


def log_sweep(
    settings: Mapping[str, Any],
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    counts: Mapping[str, int],
    cells: pd.DataFrame,
    report: Path,
) -> str | None:
    """Log a sweep as one W&B run of type ``sweep``, in the group of its runs.

    Parameters
    ----------
    settings
        The ``logger`` group's.
    folder
        W&B's files go to ``wandb/`` in it.
    name
        Of the sweep, which is the group.
    config
        What the run's configuration holds: the grid.
    counts
        Outcome of jobs → how many.
    cells
        ``ptuning.results.summarise``'s table, a row per backbone, task, module and layers.
    report
        A report's folder: its page, and its figures as PNG.

    Returns
    -------
    str or None
        The command that uploads an offline run later.
    """
    import wandb

    extra = {"save_dir": str(folder), "name": f"sweep {name}", "group": name, "job_type": "sweep"}
    logger: WandbTracker = make(settings, extra)
    begin(logger, config)
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
    summary: dict[str, float] = {f"jobs/{status}": count for status, count in counts.items()}
    best = cells.sort_values("mean").groupby("task").last() if len(cells) else cells
    summary |= {f"best/{task}": float(row["mean"]) for task, row in best.iterrows()}
    return logger.finish(0, summary)


def begin(logger: Any, config: Mapping[str, Any]) -> None:
    """Start the W&B run now and give it the configuration; nothing for other loggers."""
    if isinstance(logger, WandbTracker):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.experiment.config.update(dict(config), allow_val_change=True)


def finish(logger: Any, record: dict[str, Any], delta: Sequence[Path]) -> None:
    """End the logger with what the record says; a W&B run with its true exit code, and its delta if it finished.

    For a W&B run that stayed offline the record gets ``wandb_offline``: why, and ``wandb_sync``: the command that
    uploads it later.
    """
    if isinstance(logger, WandbTracker):
        summary = {name: record[name] for name in _SUMMARY if name in record}
        summary |= {f"best/{name}": value for name, value in record.get("best", {}).items()}
        summary |= {f"seconds/{name}": value for name, value in record.get("seconds", {}).items()}
        finished = record["status"] == "finished"
        code = {"finished": 0, "interrupted": 130}.get(record["status"], 1)
        if upload := logger.finish(code, summary, delta if finished else ()):
            record |= {"wandb_offline": logger.offline_reason or "as asked", "wandb_sync": upload}
    elif logger:
        logger.finalize("success" if record["status"] == "finished" else "failed")


def _has_netrc(host: str) -> bool:
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):  # no such file, or one that W&B could not read either
        return False


def _quoted(path: Path) -> str:
    near = os.path.relpath(path)
    return shlex.quote(near if not near.startswith("..") else str(path))
