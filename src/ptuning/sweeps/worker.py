"""A job's side of a sweep: in a warm worker of this machine, or in a process of another engine's."""

import contextlib
import faulthandler
import gc
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ptuning.runs.progress import write_progress
from ptuning.runs.record import find_record, write_record
from ptuning.sweeps.job import BUSY, DONE, FAILED, INTERRUPTED, PRUNED, SKIPPED, JobSpec, Outcome, progress_of
from ptuning.system.imports import large_imports
from ptuning.system.memory import give_back_memory
from ptuning.system.streams import renew_streams

_session: Any = None


def prepare(device: str | None, threads: int, parent: int) -> None:
    """Set up a fresh worker, before anything heavy is imported.

    Parameters
    ----------
    device
        The one GPU that it sees, as ``CUDA_VISIBLE_DEVICES`` names it, or ``None``.
    threads
        CPU threads for its computations.
    parent
        Process id of the sweep; the worker ends when that process is gone.
    """
    from ptuning.system.signals import stop

    stop.listen(patient=True)
    renew_streams()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(threads)


def warm_up() -> None:
    """Import what every job needs, while the sweep still looks at its grid."""
    with large_imports():
        import ptuning.training.run
        import ptuning.training.session  # noqa: F401
    gc.freeze()  # half a million objects that stay: a search for garbage takes 3 ms without them


def perform_elsewhere(spec: JobSpec) -> Outcome:
    """Run one job in a process that knows nothing of the sweep, maybe on another machine, and return its outcome."""
    os.environ.update(spec.environment)
    if spec.fetched and all(path.exists() for path in spec.fetched):  # not so where a node has a cache of its own
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        os.chdir(spec.directory)
    except OSError:
        return Outcome(
            FAILED, reason=f"{spec.directory} is not on {socket.gethostname()}: start in a folder that all nodes share"
        )
    from ptuning.system.hub import use_cache_for_run
    from ptuning.system.signals import stop

    stop.listen(patient=True)
    use_cache_for_run(spec.config)
    with _time_limit(spec):
        return perform(spec)


@contextlib.contextmanager
def _time_limit(spec: JobSpec) -> Iterator[None]:
    """End this process when the job takes too long, whatever it hangs in; its stack is left beside the announcement."""
    if spec.timeout is None:
        yield
        return
    spec.announcement.parent.mkdir(parents=True, exist_ok=True)
    file = trace_of(spec.announcement)
    with file.open("w") as trace:
        faulthandler.dump_traceback_later(spec.timeout, exit=True, file=trace)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    file.unlink()


def trace_of(announcement: Path) -> Path:
    """Return the file that holds the stack of a job that took too long."""
    return announcement.with_suffix(".hung")


def perform(spec: JobSpec) -> Outcome:
    """Run one job and return its outcome, whatever it raises."""
    global _session
    from ptuning.config.compose import restore
    from ptuning.config.explain import explain
    from ptuning.display.console import console
    from ptuning.errors import BusyError, Interrupted, Pruned, first_line
    from ptuning.system.signals import stop
    from ptuning.training.run import execute
    from ptuning.training.session import Session

    began = time.monotonic()  # a worker's first job imports for all of them
    console.quiet = True
    if _session is None:
        _session = Session()
    try:
        if stop.asked:
            return Outcome(INTERRUPTED)
        announce = partial(_announce, spec.announcement)
        report = partial(write_progress, progress_of(spec.announcement))
        done = execute(restore(spec.config), _session, spec.sweep, announce, report)
    except BusyError:
        return Outcome(BUSY)
    except Interrupted:
        return Outcome(INTERRUPTED, seconds=time.monotonic() - began)
    except Pruned as error:
        return Outcome(PRUNED, seconds=time.monotonic() - began, reason=str(error), error=error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a job's failure is its own: it becomes its outcome
        _session = None
        reason = first_line(explain(error) or f"{type(error).__name__}: {error}")
        return Outcome(FAILED, seconds=time.monotonic() - began, reason=reason, error=_sendable(error))
    finally:
        give_back_memory()
        stop.asked = False  # a signal to this process alone costs the job it was on; a sweep that stops sends no more
    status = SKIPPED if done.earlier else DONE
    seconds = time.monotonic() - began
    said = "" if done.earlier else done.record.logger_failed or ""
    return Outcome(status, done.score, seconds, said, folder=str(done.folder.resolve()), chooses=done.record.chooses)


def _announce(file: Path, folder: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(folder.resolve()), "utf-8")


def note_failure(announcement: Path, reason: str) -> None:
    """Write a failure into the record of a job that could not do so itself: killed, hung, or its machine gone."""
    with contextlib.suppress(FileNotFoundError):  # it died before it had a folder
        folder = Path(announcement.read_text("utf-8"))
        record = find_record(folder)
        # A job that is ended for its time may still have written a checkpoint and called itself interrupted.
        if record is not None and record.status in ("running", "interrupted"):
            write_record(folder, replace(record, status="failed", reason=reason))


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - any failure to travel is answered in the same way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)
