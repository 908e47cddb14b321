"""What runs a sweep's jobs: this machine's workers, Slurm through submitit, or Ray, each behind one interface.

The plug-ins of Slurm and Ray give up a whole sweep at the first job that is lost. Here one lost job is one failure.
"""

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ptuning.errors import ConfigError
from ptuning.sweeps.job import JobSpec, Outcome

_SHARED = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_DATASETS_CACHE",
    "HF_ENDPOINT",
    "PTUNING_CACHE",
    "WANDB_MODE",
)
"""Environment variables that a job takes from the process that started the sweep."""


class LostError(Exception):
    """A job will not return; the message says what its engine knows of it."""


class Engine(ABC):
    """Base class of the engines. A handle stands for a submitted job; any hashable object will do.

    Attributes
    ----------
    pause
        Seconds between two looks at the jobs.
    busy_pause
        Seconds before a job whose folder another sweep works in is submitted again.
    is_elsewhere
        True if each job runs in a process that knows nothing of this one, maybe on another machine.
    stop_is_due
        True if the user asked to stop as the last jobs of a batch ended: a search or a race begins no other one.
    """

    pause = 0.2
    busy_pause = 5.0
    is_elsewhere = True
    stop_is_due = False

    def get_ready(self, jobs: int | None) -> None:  # noqa: B027
        """Begin what can begin before it is known which jobs are left; ``None`` if more will follow these."""

    def connected(self) -> AbstractContextManager[None]:
        """Return a context within which jobs can be submitted."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027
        """End what :meth:`get_ready` began."""

    @abstractmethod
    def slots(self) -> list[str]:
        """Return a name for each job that can run at once, for the screen and for estimates."""

    @abstractmethod
    def describe(self) -> str:
        """Return where the jobs go: ``through Slurm, partition gpu, 240 minutes each``."""

    def capacity(self) -> int:
        """Return how many jobs may be submitted at once; the engine queues what does not run yet."""
        return 10**6

    def environment(self) -> dict[str, str]:
        """Return the environment variables that a job takes from here."""
        return {name: os.environ[name] for name in _SHARED if name in os.environ}

    @abstractmethod
    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        """Submit jobs and return a handle for each that was taken, the first ones; the others are offered again."""

    def slot_of(self, handle: Any) -> int | None:
        """Return in which of :meth:`slots` a job runs, or ``None`` where that is not known."""
        return None

    @abstractmethod
    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Wait a moment and return the handles of the jobs that have ended."""

    @abstractmethod
    def result(self, handle: Any) -> Outcome:
        """Return the outcome of a job that has ended.

        Raises
        ------
        TimeoutError
            If the engine ended it at its timeout.
        LostError
            If it was killed, or its machine is gone.
        """

    @abstractmethod
    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Have running jobs write a checkpoint and end, or end them at once; take waiting ones out of the queue."""


def require(choice: str, extra: str, packages: Sequence[str]) -> None:
    """Refuse a choice whose packages are not installed, and name the extra that brings them."""
    missing = [name.rpartition(".")[2] for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{choice} needs packages that are not installed ({', '.join(missing)}): pip install 'ptuning[{extra}]'"
        )
