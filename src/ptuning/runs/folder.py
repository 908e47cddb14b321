"""Run folders and their records: where a run lies, whether it is done, what it left. Knows no torch."""

import hashlib
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ptuning.errors import BusyError, ConfigError, Interrupted, Pruned, RunError
from ptuning.system.files import write_json
from ptuning.system.os_errors import explain_os_error

RECORD, CHECKPOINT = "record.json", "last.ckpt"
_LONGEST = 255
"""Bytes that the usual file systems take for the name of a folder."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, decided by its recipe: ``<backbone>/<task>/<module>/<layers>/seed=<s>-<hash>``.

    Where a subset moves, the layers' part says so: ``all,top=1%``, and ``all,top=1%,selection`` across the selection.

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

    def record(self) -> dict[str, Any] | None:
        """Return the record, or ``None`` if there is none.

        Raises
        ------
        ConfigError
            If no file of that name can be there: a folder above it is a file, the path is too long.
        """
        try:
            with _as_a_run_folder(self.path):
                found = json.loads((self.path / RECORD).read_text("utf-8"))
        except ValueError:  # not ptuning's
            return None
        except FileNotFoundError:  # never begun
            return None
        return found if isinstance(found, dict) else None

    def finished(self) -> dict[str, Any] | None:
        """Return the record of a run that finished, else ``None``."""
        found = self.record()
        return found if found is not None and found.get("status") == "finished" else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the record, whole."""
        write_json(self.path / RECORD, record)

    def lock(self) -> FileLock:
        """Take this folder for one process; the lock dies with it.

        Raises
        ------
        BusyError
            If another process is at work here.
        RunError
            If the folder cannot be made or written.
        """
        lock = FileLock(self.path / ".lock")
        with _as_a_run_folder(self.path, made=True):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:  # an OSError too
                raise BusyError(
                    f"This run is under way in another process ({self.path}). Wait for it, or stop it."
                ) from None
        return lock


def find_run(
    runs_dir: Path, backbone: str, recipe: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]] = ()
) -> tuple[RunFolder, tuple[RunFolder, ...]]:
    """Return the folder of the run that ``recipe`` describes, and others that hold it too.

    Parameters
    ----------
    runs_dir
        The folder of runs.
    backbone
        The backbone's label.
    recipe
        Everything that can change the result, as plain JSON values, with ``task``, ``module``, ``layers`` and ``seed``
        among its keys, and ``subset`` and ``subset_scope`` where only some weights move.
    earlier
        Recipes by which earlier versions knew the same run. The first folder that holds a record is taken, that of
        ``recipe`` before those of ``earlier``; where there is none, that of ``recipe``.
    """
    folders = [_folder(runs_dir, backbone, one) for one in (recipe, *earlier)]
    there = [folder for folder in folders if (folder.path / RECORD).exists()]
    return (there[0], tuple(there[1:])) if there else (folders[0], ())


def _folder(runs_dir: Path, backbone: str, recipe: Mapping[str, Any]) -> RunFolder:
    text = json.dumps(recipe, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
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
def _as_a_run_folder(path: Path, made: bool = False) -> Iterator[None]:
    """Turn what the file system refuses into a sentence; whatever it is, if the folder is to be made."""
    try:
        yield
    except (OSError, ValueError) as error:
        sentence = explain_os_error(error)
        if sentence is None and made and isinstance(error, OSError):
            sentence = f"{path} cannot be made ({error.strerror}). Put runs elsewhere: runs_dir=FOLDER."
        if sentence is None:
            raise
        raise (RunError if made else ConfigError)(sentence) from error


class Record:
    """The record of a run under way: written at the start, and at the end whatever happens.

    As a context manager it sets ``status`` (``running``, then ``finished``, ``interrupted``, ``pruned`` or
    ``failed``), the times and, for a failure, the last lines of its traceback. ``closing`` is called with the record
    before it is written for the last time.
    """

    def __init__(self, folder: RunFolder, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.values: dict[str, Any] = dict(about)
        self.closing: list[Callable[[dict[str, Any]], None]] = []

    def add(self, **values: Any) -> None:
        """Add values and write the record."""
        self.values |= values
        self.folder.write(self.values)

    def __enter__(self) -> "Record":
        self.add(status="running", begun=self.values.get("begun") or _now())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.values |= {"status": _status(error), "ended": _now(), "reason": _reason(error)}
        # After a failure, writing may fail as well (a full disk): the first error is the one to tell.
        with suppress(OSError) if error is not None else nullcontext():
            for close in self.closing:
                close(self.values)
            self.folder.write(self.values)


def _status(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    if isinstance(error, Pruned):
        return "pruned"
    return "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"


def _reason(error: BaseException | None) -> str:
    if isinstance(error, Pruned):
        return str(error)
    if error is None or isinstance(error, Interrupted | KeyboardInterrupt):
        return ""
    return "".join(traceback.format_exception(error)[-3:]).strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
