"""Where an attempt at a run begins: anew, or at the checkpoint of an interrupted one, which is read and checked."""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ptuning.acceleration.precision import AUTO, PRECISIONS, choose_precision
from ptuning.display.format import format_path
from ptuning.errors import ConfigError, RunError, first_line
from ptuning.runs.folder import RunFolder
from ptuning.runs.record import RunRecord
from ptuning.runs.writer import installed_versions
from ptuning.tracking.run_logger import identify
from ptuning.training.plan import Plan


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run.

    Attributes
    ----------
    folder
        Where the run lies.
    earlier
        The record of the attempt that this one goes on from; ``None`` for a new beginning.
    checkpoint
        The file to go on from, if any.
    indices
        Name → indices of the weights that the run trains in parameters that train in part, once they are chosen.
    micro_batches
        Parts that every batch comes in.
    """

    folder: RunFolder
    earlier: RunRecord | None = None
    checkpoint: Path | None = None
    indices: Mapping[str, Tensor] | None = None
    micro_batches: int = 1

    def precision(self, plan: Plan, device: str) -> str:
        """Return the precision to compute in on a kind of device: as typed, or as an interrupted run began."""
        asked, begun = str(plan.trainer["precision"]), self.earlier.precision if self.earlier else None
        if asked != AUTO or begun not in PRECISIONS:
            return choose_precision(asked, device)
        try:
            return choose_precision(begun, device)
        except ConfigError as error:
            raise RunError(
                f"This run was begun in {begun}, which cannot be computed here. Go on with it where it can, or type "
                "force=true to begin anew."
            ) from error

    def record(self, plan: Plan, precision: str) -> RunRecord:
        """Return the record to begin with; a run that goes on keeps its beginning and its tracker's run."""
        return RunRecord(
            name=self.folder.name,
            key=self.folder.key,
            **plan.task.describe(),
            source=plan.source.place,
            **plan.selection_keys,
            seed=plan.config.seed,
            backbone=plan.backbone.label,
            select_on=plan.config.data.select_on,
            begun=self.earlier.begun if self.earlier else None,
            **identify(self.earlier, self.folder.key),
            optimisation=asdict(plan.optimisation),
            precision=precision,
            max_epochs=plan.trainer["max_epochs"],
            batch_size=plan.config.task.batch_size,
            recipe=self.folder.recipe,
            config=asdict(plan.config),
            versions=installed_versions(),
            micro_batches=self.micro_batches,
        )


def find_attempt(folder: RunFolder, force: bool) -> Attempt:
    """Return the attempt that a run folder asks for; ``force`` takes its checkpoint away.

    Raises
    ------
    RunError
        If its checkpoint cannot be read or belongs to another run.
    """
    if force:
        folder.checkpoint.unlink(missing_ok=True)
    if not folder.checkpoint.exists():
        return Attempt(folder)
    earlier = folder.record()
    micro_batches = (earlier.micro_batches if earlier else None) or 1
    return Attempt(folder, earlier, folder.checkpoint, _check_checkpoint(folder), micro_batches)


def _check_checkpoint(folder: RunFolder) -> dict[str, Tensor]:
    """Return the indices of a checkpoint that this run wrote, before anything else of it is loaded."""
    near = format_path(folder.checkpoint)
    try:
        checkpoint = torch.load(folder.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        found, indices = checkpoint.get("run_key"), checkpoint.get("indices", {})
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, ValueError) as error:
        raise RunError(
            f"{near} cannot be read as a checkpoint ({first_line(error)}). Remove it, or type force=true to begin anew."
        ) from error
    if found != folder.key:
        raise RunError(
            f"{near} was written by another run ({found}, not {folder.key}). "
            "Remove it, or type force=true to begin anew."
        )
    return {name: index.long() for name, index in indices.items()}
