"""Run folders: where a run lies, whether it is done, whether another process is at work there. Knows no torch."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ptuning.errors import BusyError, ConfigError, RunError
from ptuning.runs.recipe import earlier_recipes, short_hash
from ptuning.runs.record import RECORD, RunRecord, load_record
from ptuning.system.files import sweep_parts
from ptuning.system.os_errors import explain_os_error

CHECKPOINT = "last.ckpt"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LONGEST = 255
"""Bytes that the usual file systems take for the name of a folder."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, decided by its recipe: ``<backbone>/<task>/<module>/<layers>/seed=<s>-<hash>``.

    Where a subset trains, the layers' part says so: ``all,top=1%``, and ``all,top=1%,selection`` across the selection.

    Attributes
    ----------
    path
        The folder.
    key
        The hash over everything that can change the result.
    name
        Name for people, as in W&B: ``rte/layernorm/all/seed=1``.
    recipe
        What the key is the hash of.
    """

    path: Path
    key: str
    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def checkpoint(self) -> Path:
        """Where an interrupted run goes on from."""
        return self.path / CHECKPOINT

    def record(self) -> RunRecord | None:
        """Return the record, or ``None`` if there is none, or a damaged one.

        Raises
        ------
        ConfigError
            If no file of that name can be there: a folder above it is a file, the path is too long. If it may not be
            read.
        """
        try:
            with as_a_run_folder(self.path):
                return load_record(self.path / RECORD)
        except (FileNotFoundError, ValueError):  # never begun, no name for a file, damaged
            return None

    def finished(self) -> RunRecord | None:
        """Return the record of a run that finished, else ``None``."""
        found = self.record()
        return found if found is not None and found.is_finished and not found.lacks else None

    def lock(self) -> FileLock | nullcontext[None]:
        """Take this folder for one process; the lock dies with it. A finished run that is read-only needs none.

        Raises
        ------
        BusyError
            If another process is at work here.
        RunError
            If the folder cannot be made or written, or its file system has no locks.
        """
        lock = FileLock(self.path / ".lock")
        with as_a_run_folder(self.path, made=True):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:  # an OSError too
                raise BusyError(
                    f"This run is under way in another process ({self.path}). Wait for it, or stop it."
                ) from None
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    raise RunError(
                        f"The file system of {self.path} has no locks, which keep two jobs out of one run. Put runs on "
                        "one that has (NFSv4, GPFS, BeeGFS; Lustre mounted with flock): runs_dir=FOLDER."
                    ) from None
                if error.errno in (errno.EROFS, errno.EACCES) and self.finished():
                    return nullcontext()  # in an archive nobody writes, and what is finished can be shown
                raise
        sweep_parts(self.path, self.path / "predictions")
        return lock


def find_run(
    runs_dir: Path, backbone: str, recipe: Mapping[str, Any], as_typed: Mapping[str, Any] | None = None
) -> tuple[RunFolder, tuple[RunFolder, ...]]:
    """Return the folder of the run that ``recipe`` describes, and others that hold it too.

    The first folder that holds a record is taken, that of ``recipe`` before those of the recipes by which earlier
    versions knew the same run (:func:`ptuning.runs.recipe.earlier_recipes`); where there is none, that of ``recipe``.

    Parameters
    ----------
    runs_dir
        The folder of runs.
    backbone
        The backbone's label.
    recipe
        Everything that can change the result, as plain JSON values, with ``task``, ``module``, ``layers`` and ``seed``
        among its keys, and ``subset`` and ``subset_scope`` where only some weights train.
    as_typed
        The recipe of earlier versions that held what changes nothing too; asked where there is no other.
    """
    folders = [_folder(runs_dir, backbone, one) for one in (recipe, *earlier_recipes(recipe))]
    there = [folder for folder in folders if (folder.path / RECORD).exists()]
    if there or as_typed is None or as_typed == recipe:
        return (there[0], tuple(there[1:])) if there else (folders[0], ())
    found, others = find_run(runs_dir, backbone, as_typed)
    return (found, others) if (found.path / RECORD).exists() else (folders[0], ())


def _folder(runs_dir: Path, backbone: str, recipe: Mapping[str, Any]) -> RunFolder:
    key = short_hash(recipe)
    task, module, layers, seed = (recipe[part] for part in ("task", "module", "layers", "seed"))
    if (subset := recipe.get("subset", "all")) != "all":
        layers += f",{subset.replace(':', '=')}"  # file systems and copying tools read a colon their own way
        layers += ",selection" if recipe.get("subset_scope") == "selection" else ""
    names = {"the backbone's name": backbone, "data.name": task, "module": module, "layers and subset": layers}
    for origin, name in names.items():
        if (size := len(os.fsencode(name))) > _LONGEST:
            raise ConfigError(
                f"{name[:40]}… is too long for the name of a run's folder: {size:,} bytes, and {_LONGEST} fit. "
                f"It comes from {origin}."
            )
    path = runs_dir / backbone / task / module / layers / f"seed={seed}-{key}"
    return RunFolder(path, key, f"{task}/{module}/{layers}/seed={seed}", recipe)


@contextmanager
def as_a_run_folder(path: Path, made: bool = False) -> Iterator[None]:
    """Turn what the file system refuses into a sentence; whatever it is, if the folder is to be made."""
    try:
        yield
    except Timeout:  # of a lock, and an OSError too
        raise
    except (OSError, ValueError) as error:
        sentence = explain_os_error(error)
        if sentence is None and made and isinstance(error, OSError):
            sentence = f"{path} cannot be made ({error.strerror}). Put runs elsewhere: runs_dir=FOLDER."
        if sentence is None:
            raise
        raise (RunError if made else ConfigError)(sentence) from error
