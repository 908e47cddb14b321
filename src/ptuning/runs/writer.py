"""The one writer of a run's record: at the start, as the run learns more, and at the end whatever happens."""

import logging
import platform
import traceback
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import ptuning
from ptuning.errors import DivergedError, Interrupted, Pruned
from ptuning.runs.record import RECORD, RunRecord, set_damaged_aside, write_record

log = logging.getLogger(__name__)


class RunWriter:
    """The record of a run under way: written at the start, and at the end whatever happens.

    As a context manager it sets ``status`` (``running``, then ``finished``, ``interrupted``, ``pruned`` or
    ``failed``), the times and, for a failure, the last lines of its traceback.

    Attributes
    ----------
    folder
        The run folder.
    record
        The record as it is now.
    """

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = folder
        self.record = record
        self._written: RunRecord | None = None
        self._has_ended = False

    def note(self, **values: Any) -> None:
        """Set fields of the record; they are written with it the next time."""
        if values:
            self.record = replace(self.record, **values)

    def add(self, **values: Any) -> None:
        """Set fields of the record and write it."""
        self.note(**values)
        write_record(self.folder, self.record)
        self._written = self.record

    def end(self, error: BaseException | None) -> None:
        """Set status, time and reason by what ended the run, at the first call, and write the record if it changed."""
        if not self._has_ended:
            self._has_ended = True
            self.note(status=_status(error), ended=_now(), reason=_reason(error))
        # After a failure, writing may fail as well (a full disk): the first error is the one to tell.
        with suppress(OSError) if error is not None else nullcontext():
            if self.record is not self._written:
                self.add()

    def __enter__(self) -> Self:
        if damage := set_damaged_aside(self.folder):
            log.warning(
                "%s was damaged (%s): it is kept as %s.damaged, and the run begins anew.",
                self.folder / RECORD,
                damage,
                RECORD,
            )
        self.add(status="running", begun=self.record.begun or _now())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.end(error)


def installed_versions() -> dict[str, str]:
    """Return package → version of what a result may depend on."""
    found = {"python": platform.python_version(), "ptuning": ptuning.__version__}
    for name in ("torch", "lightning", "transformers", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _status(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    if isinstance(error, Pruned):
        return "pruned"
    return "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"


def _reason(error: BaseException | None) -> str:
    if isinstance(error, Pruned):
        return str(error)
    if isinstance(error, DivergedError):
        return str(error).removeprefix("Training ")
    if error is None or isinstance(error, Interrupted | KeyboardInterrupt):
        return ""
    return "".join(traceback.format_exception(error)[-3:]).strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
