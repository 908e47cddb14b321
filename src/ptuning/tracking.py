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

from lightning.pytorch.loggers import WandbLogger

from ptuning import loggers
from ptuning.errors import ConfigError
from ptuning.model.delta import DESCRIPTION, WEIGHTS

_SUMMARY = (
    "score",
    "status",
    "trainable_parameters",
    "head_parameters",
    "trainable_percent",
    "train_examples_per_second",
    "peak_memory_mb",
    "source",
    "partial_evaluation",
    "partial_training",
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
    labels: Mapping[str, str],
    record: Mapping[str, Any],
    resumed: bool = False,
) -> Any:
    """Return the logger that the ``logger`` group describes, or ``False`` for none.

    Any Lightning logger works by its ``_target_``; it gets the run folder as ``save_dir``. W&B's and MLflow's also get
    name, group and tags.

    Parameters
    ----------
    labels
        Task, module and backbone by these words.
    record
        The run's, with what :func:`identify` gave.
    resumed
        Whether the run goes on from a checkpoint.
    """
    settings = dict(settings or {})
    if not settings.get("_target_"):
        return False
    kind = _class(settings)
    if kind is not None and issubclass(kind, WandbTracker):
        if group and agent_run_id():
            raise ConfigError("W&B's agent starts one run at a time: leave -m out of the sweep's command.")
        settings["tags"] = [*labels.values(), *(settings.get("tags") or [])]
        return make(settings, {"save_dir": str(folder), "name": name, "group": group, "run_id": record["wandb_id"]})
    extra = loggers.arguments(kind or object, folder, name, group, labels, record, resumed)
    if isinstance(own := settings.pop("tags", None), Mapping):
        extra["tags"] = {**extra.get("tags", {}), **own}
    elif own is not None:
        settings["tags"] = own
    with loggers.store_lock(settings):
        return make(settings, extra)


def make(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
    """Return the logger that settings with a ``_target_`` describe, given ``extra`` arguments.

    Raises
    ------
    ConfigError
        If it cannot be made.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import get_class, instantiate

    target = settings["_target_"]
    try:
        return instantiate(dict(settings), **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        missing = loggers.EXTRAS.get(get_class(target)) if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing:
            raise ConfigError(
                f"{target.rsplit('.', 1)[-1]} needs a package that is not installed: pip install 'ptuning[{missing}]'"
            ) from error
        raise ConfigError(f"logger._target_={target} cannot be made: {str(error).splitlines()[0]}") from error


def logs_to_wandb(settings: Mapping[str, Any] | None) -> bool:
    """Return whether the ``logger`` group's settings mean W&B."""
    kind = _class(settings or {})
    return kind is not None and issubclass(kind, WandbTracker)


def _class(settings: Mapping[str, Any]) -> type | None:
    """Return the class of the logger, or ``None`` for none and for one that :func:`make` refuses with a sentence."""
    from hydra.utils import get_class

    try:
        return get_class(str(settings.get("_target_")))
    except (ImportError, ValueError):
        return None


def begin(logger: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Start the logger's run now and give it the configuration.

    Returns
    -------
    dict
        What the record keeps, so that a resumed run goes on in the same place.
    """
    if isinstance(logger, WandbTracker):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = logger.experiment.config
            # What an agent chose is there already, under the words that were typed, and W&B holds on to it.
            chosen = set(own.keys()) if agent_run_id() else set()
            own.update({key: value for key, value in config.items() if key not in chosen}, allow_val_change=True)
        return {}
    return loggers.begin(logger, config) if logger else {}


def identify(earlier: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the ids under which loggers know a run: those of the earlier attempt, or new ones."""
    ids = {"wandb_id": agent_run_id() or earlier.get("wandb_id") or f"{key}-{os.urandom(3).hex()}"}
    if loggers.MLFLOW_ID in earlier:
        ids[loggers.MLFLOW_ID] = earlier[loggers.MLFLOW_ID]
    return ids


def finish(logger: Any, folder: Path, config: Mapping[str, Any], record: dict[str, Any]) -> None:
    """End the logger with what the record says; a W&B run with its true exit code, and its delta if it finished.

    For a W&B run that stayed offline the record gets ``wandb_offline``: why, and ``wandb_sync``: the command that
    uploads it later.

    Parameters
    ----------
    logger
        What :func:`make_logger` made.
    folder
        The run folder.
    config
        What :func:`begin` was given.
    record
        The run's, with its status.
    """
    summary = {name: record[name] for name in _SUMMARY if name in record}
    summary |= {f"best/{name}": value for name, value in record.get("best", {}).items()}
    summary |= {f"seconds/{name}": value for name, value in record.get("seconds", {}).items()}
    if isinstance(logger, WandbTracker):
        code = {"finished": 0, "interrupted": 130}.get(record["status"], 1)
        delta = [folder / WEIGHTS, folder / DESCRIPTION] if code == 0 else []
        if upload := logger.finish(code, summary, delta):
            record |= {"wandb_offline": logger.offline_reason or "as asked", "wandb_sync": upload}
    elif logger:
        history = record.get("history") or [{"step": 0}]
        loggers.finish(logger, config, summary, record["status"], history[-1]["step"])


def agent_run_id() -> str | None:
    """Return the id that W&B's agent gave to the run of this process, or ``None`` if no agent started it.

    W&B takes it, and the sweep's project, whatever the logger's settings say.
    """
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def report_to_agent(logger: WandbTracker, folder: Path, config: Mapping[str, Any], record: dict[str, Any]) -> None:
    """Tell W&B's sweep of a run that had finished before its agent asked for it: history, summary and delta.

    Otherwise the sweep would hold an empty run, and a search would learn nothing from it.
    """
    begin(logger, config)
    for entry in record["history"]:
        metrics = {f"val/{name}": value for name, value in entry.items() if name not in ("epoch", "step", "train_loss")}
        logger.log_metrics({**metrics, "epoch": entry["epoch"]}, step=entry["step"] - 1)  # Lightning counts from 0
    finish(logger, folder, config, record)


def _has_netrc(host: str) -> bool:
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):  # no such file, or one that W&B could not read either
        return False


def _quoted(path: Path) -> str:
    near = os.path.relpath(path)
    return shlex.quote(near if not near.startswith("..") else str(path))
