"""Weights & Biases: one W&B run per run, named and grouped, offline by itself, always finished with its exit code."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from ptuning.display.format import format_path
from ptuning.errors import in_one_line
from ptuning.tracking.wandb_settings import agent_run_id, asked_mode, choose_mode, writable_folders

_SECONDS_TO_UPLOAD = 600
"""Limit for an upload; the run is on disk then, and can be uploaded later."""


class WandbTracker(WandbLogger):
    """Lightning's ``WandbLogger`` with ptuning's names, which never prompts and never waits for a network.

    Parameters
    ----------
    save_dir
        The run folder; W&B's files go to ``wandb/`` in it.
    mode
        ``auto`` (online if there is a key and the server answers, else offline), ``online`` or ``offline``. The
        environment's ``WANDB_MODE`` goes first. ``disabled`` makes no tracker: see :func:`make_logger`.
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
        import wandb

        chosen, self.offline_reason = choose_mode(mode)
        self._may_go_offline = asked_mode(mode) == "auto" and chosen == "online"
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ["WANDB_MODE"] = chosen  # as W&B spells it: it refuses a word that is ours, and one in capitals
        self.places = writable_folders(Path(save_dir) / "wandb")
        os.environ.update(self.places)
        limits: dict[str, Any] = {}
        if "finish_timeout" in wandb.Settings.model_fields and "WANDB_FINISH_TIMEOUT" not in os.environ:
            limits = {"finish_timeout": _SECONDS_TO_UPLOAD, "finish_timeout_raises": True}
        super().__init__(
            save_dir=save_dir,
            project=project,
            entity=entity,
            name=name,
            group=group,
            tags=list(tags),
            job_type=job_type,
            id=run_id,
            mode=chosen,
            resume="allow" if run_id and chosen == "online" else None,
            settings=wandb.Settings(silent=True, console="off", init_timeout=30, **limits),
        )
        self._wandb_init.pop("anonymous", None)  # W&B warns of it even where Lightning passes None

    def begin(self, config: Mapping[str, Any]) -> None:
        """Start the W&B run and give it the configuration; with ``mode=auto``, offline if the server does not do it."""
        import wandb

        try:
            run = self.experiment
        except wandb.errors.CommError as error:
            if not self._may_go_offline or isinstance(error, wandb.errors.AuthenticationError):
                raise
            self.abandon()
            self.offline_reason = in_one_line(error)
            self._wandb_init |= {"mode": "offline", "resume": None}
            os.environ["WANDB_MODE"] = "offline"
            run = self.experiment
        # What an agent chose is there already, under the words that were typed, and W&B holds on to it.
        chosen = set(run.config.keys()) if agent_run_id() else set()
        run.config.update({key: value for key, value in config.items() if key not in chosen}, allow_val_change=True)

    def abandon(self) -> None:
        """Drop a half-begun run: the service would keep its id, and a later run would continue it."""
        import wandb

        if wandb.run is None or wandb.run is self._experiment:
            self._experiment = None
            wandb.teardown(exit_code=1)

    def attach(self, summary: Mapping[str, Any], delta: Sequence[Path] = ()) -> None:
        """Write the summary, and attach the delta as an artifact."""
        import wandb

        run = self.experiment
        run.summary.update(dict(summary))
        if delta:
            artifact = wandb.Artifact(f"delta-{run.id}", type="delta", metadata=dict(summary))
            for file in delta:
                artifact.add_file(str(file))
            run.log_artifact(artifact)

    def finish(self, exit_code: int) -> str | None:
        """End the W&B run, and wait until everything is on disk or uploaded.

        Returns
        -------
        str or None
            The command that uploads an offline run later.

        Raises
        ------
        TimeoutError
            If the upload takes longer than ten minutes; the message names the command that does it later.
        """
        import wandb

        run = self.experiment
        folder = Path(run.dir).parent
        offline = bool(run.settings._offline)
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError as error:
            raise TimeoutError(
                f"not uploaded in {_SECONDS_TO_UPLOAD} s; later: wandb sync {_quoted(folder)}"
            ) from error
        finally:
            # ``run.finish`` does not wait for the service to close the run's file, which is empty until then, and the
            # service would not outlive a container. It also keeps the environment that it met first.
            if wandb.run is None:  # unless somebody else's run is under way
                wandb.teardown()
        return f"wandb sync {_quoted(folder)}" if offline else None


def _quoted(path: Path) -> str:
    return shlex.quote(format_path(path))
