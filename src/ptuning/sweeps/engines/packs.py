"""A task of a queue at work: it runs its pack of jobs one after the other, warm, and leaves each one's outcome."""

import pickle
import signal
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission

from ptuning.sweeps.job import FAILED, INTERRUPTED, JobSpec, Outcome
from ptuning.sweeps.worker import perform_elsewhere
from ptuning.system.files import write_whole
from ptuning.system.signals import stop

Pack = tuple[JobSpec, ...]


def packs(specs: Iterable[JobSpec], size: int) -> Iterator[Pack]:
    """Yield jobs by packs of at most ``size`` neighbours of one backbone and one task."""
    for _, alike in groupby(specs, key=lambda spec: repr([spec.config[part] for part in ("backbone", "task", "data")])):
        jobs = list(alike)
        yield from (tuple(jobs[start : start + size]) for start in range(0, len(jobs), size))


def outcome_of(spec: JobSpec) -> Path:
    """Return the file beside a job's announcement that holds its outcome once it has ended."""
    return spec.announcement.with_suffix(".outcome")


def read_outcome(spec: JobSpec) -> Outcome | None:
    """Return the outcome that a job has left, or ``None`` if it has not."""
    try:
        outcome: Outcome = pickle.loads(outcome_of(spec).read_bytes())
    except FileNotFoundError:
        return None
    return outcome


class Requeued:
    """A pack as submitit calls it: preempted, its job writes a checkpoint, and the pack goes into the queue again."""

    def __call__(self, pack: Pack) -> None:
        """Run the jobs that have not ended yet; after submitit's signal, ahead of the end, hand over to submitit.

        What it leaves without an outcome was never begun, as the process was asked to stop.
        """
        number = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        signalled = False

        def ask(number: int, frame: FrameType | None) -> None:
            nonlocal signalled
            signalled = stop.asked = True

        stop.listen(patient=True)
        requeue: Any = signal.signal(number, ask)
        left = [spec for spec in pack if not outcome_of(spec).exists()]
        for place, spec in enumerate(left):
            outcome = perform_elsewhere(spec)
            if outcome.status == INTERRUPTED and signalled:
                outcome = self._requeue(requeue, number, outcome)
            write_whole(outcome_of(spec), pickle.dumps(outcome))
            if outcome.status == INTERRUPTED:
                return
            if signalled:  # it came as this job ended, or a job has used up the last time
                if outcome.status != FAILED and place + 1 < len(left):
                    self._requeue(requeue, number, outcome)
                return

    def _requeue(self, requeue: Any, number: int, outcome: Outcome) -> Outcome:
        """End this process, unless submitit will not have it run once more: then return what became of the job."""
        try:
            requeue(number, None)
        except UncompletedJobError:
            reason = "ran into timeout_min; it goes on from its checkpoint (max_num_timeout=N requeues by itself)"
            return Outcome(FAILED, seconds=outcome.seconds, reason=reason)
        return outcome

    def checkpoint(self, pack: Sequence[JobSpec]) -> Any:
        """Return what submitit puts into the queue again: the same pack, whose jobs find their own checkpoints."""
        return DelayedSubmission(self, pack)
