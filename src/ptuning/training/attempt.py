"""Where an attempt at a run begins: anew, or at the checkpoint of an interrupted one, which is read and checked."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import Tensor

from ptuning.acceleration.precision import AUTO, PRECISIONS, choose_precision
from ptuning.deltas.format import find_damage
from ptuning.display.console import console
from ptuning.display.format import format_path
from ptuning.errors import ConfigError, RunError, first_line
from ptuning.runs.folder import RunFolder
from ptuning.runs.record import RunRecord
from ptuning.runs.writer import installed_versions
from ptuning.system.digests import is_damaged, remove_sealed, set_aside
from ptuning.tasks.glue import Task
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
            optimisation=plan.optimisation_keys,
            precision=precision,
            max_epochs=None if plan.fits_exactly else plan.trainer["max_epochs"],
            batch_size=None if plan.fits_exactly else plan.config.task.batch_size,
            recipe=self.folder.recipe,
            config=asdict(plan.config),
            versions=installed_versions(),
            micro_batches=self.micro_batches,
        )


def find_attempt(folder: RunFolder, force: bool) -> Attempt:
    """Return the attempt that a run folder asks for; ``force`` takes its checkpoint away, and damage sets it aside.

    Raises
    ------
    RunError
        If its checkpoint belongs to another run.
    """
    if force:
        remove_sealed(folder.checkpoint)
    indices = _read_indices(folder) if os.path.lexists(folder.checkpoint) else None
    if indices is None:
        return Attempt(folder)
    earlier = folder.record()
    micro_batches = 2 if earlier and earlier.micro_batches == 2 else 1
    return Attempt(folder, earlier, folder.checkpoint, indices, micro_batches)


def _read_indices(folder: RunFolder) -> dict[str, Tensor] | None:
    """Return the indices of a checkpoint that this run wrote, ``None`` if it is damaged; nothing of it is loaded."""
    near = format_path(folder.checkpoint)
    try:
        why = _damage(folder.checkpoint)
        checkpoint = {} if why else torch.load(folder.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        found, indices = checkpoint.get("run_key"), checkpoint.get("indices", {})
        whole = {str(name): index.long() for name, index in indices.items()}
    except PermissionError:
        raise
    except Exception as error:  # noqa: BLE001 - of a damaged file torch and zipfile raise whatever they trip over
        why = first_line(error)
    if why:
        aside = set_aside(folder.checkpoint)
        console.print(f"{near} is damaged ({why}): it is now {aside.name}, and the run begins anew.", markup=False)
        return None
    if found != folder.key:
        raise RunError(
            f"{near} was written by another run ({found}, not {folder.key}). "
            "Remove it, or type force=true to begin anew."
        )
    return whole


def _damage(checkpoint: Path) -> str:
    """Return why a checkpoint cannot be whole, or nothing; those of version 0.1.0 have no digest beside them."""
    if not checkpoint.is_file():
        return "no regular file"
    if is_damaged(checkpoint):
        return "its content is not what was written"
    with ZipFile(checkpoint) as archive:
        broken = archive.testzip()
    return f"{broken} in it is not what was written" if broken else ""


def find_loss(folder: Path, task: Task) -> str:
    """Return which of the files of a run's best evaluation is missing or damaged, in words; empty if none is."""
    for split in task.validation:
        path = folder / "predictions" / f"{split}.parquet"
        if not path.is_file():
            return f"predictions/{split}.parquet is missing"
        if is_damaged(path):
            return f"predictions/{split}.parquet is damaged"
    return find_damage(folder)
