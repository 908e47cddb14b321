"""Seconds and memory that a run takes, added up over all of its processes."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

_ORDER = ("data", "model", "prefix", "train", "validate", "total")


class Timings:
    """The seconds of a run by phase and in all, and its peak memory.

    Earlier processes count as far as the checkpoint knows them from which the run goes on: what was computed after it
    and lost is in no number.

    Parameters
    ----------
    began
        When this process turned to the run, by ``time.perf_counter()``; the phase ``data`` begins there.
    peak_memory
        Returns this process's peak memory so far (MiB).
    """

    def __init__(self, began: float, peak_memory: Callable[[], float]) -> None:
        self._peak_memory = peak_memory
        self._start = self._since = began
        self._phase: str | None = "data"
        self._seconds: dict[str, float] = {}
        self._earlier: dict[str, float] = {"total": 0.0}
        self._earlier_peak = 0.0

    def enter(self, phase: str | None) -> None:
        """End the phase under way and begin another, or none."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what a GPU still has to do belongs to the phase that ends
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def begin_anew(self) -> None:
        """Forget the phases of an attempt that gave up and begin with ``data``; the total runs on."""
        self._phase, self._since = "data", time.perf_counter()
        self._seconds = {}
        self._earlier = {"total": self._earlier["total"]}

    def seconds(self) -> dict[str, float]:
        """Return phase → seconds, ``total`` last, all processes together."""
        self.enter(self._phase)
        now = {**self._seconds, "total": time.perf_counter() - self._start}
        phases = {"data", "model", "train", "validate", *now, *self._earlier}
        return {name: self._earlier.get(name, 0.0) + now.get(name, 0.0) for name in sorted(phases, key=_ORDER.index)}

    def peak_memory_mb(self) -> float:
        """Return the largest peak of all processes (MiB)."""
        return max(self._earlier_peak, self._peak_memory())

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.seconds(), "peak_memory_mb": self.peak_memory_mb()}

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Add what earlier processes took, as :meth:`state` gave it."""
        seconds = dict(state["seconds"])  # of a checkpoint from before there were totals: train and validate alone
        self._earlier = {**seconds, "total": seconds.get("total", sum(seconds.values()))}
        self._earlier_peak = state.get("peak_memory_mb", 0.0)
