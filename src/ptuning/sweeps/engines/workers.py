"""The engine of this machine: one warm worker process per GPU, or on the cores, over pebble."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from ptuning.errors import ConfigError
from ptuning.sweeps.engines import Engine, LostError
from ptuning.sweeps.job import JobSpec, Outcome
from ptuning.sweeps.worker import perform, prepare, warm_up

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of the drivers of NVIDIA, AMD and WSL."""


@dataclass(frozen=True)
class Slot:
    """Room for one worker: the GPU that it sees (or none), and its CPU threads."""

    device: str | None
    threads: int


class WorkersEngine(Engine):
    """Runs jobs in worker processes, one per slot, which stay warm between jobs.

    One pebble pool of one process per slot: pebble replaces a worker that dies or outlasts its time and fails only
    the job it was on, where ``concurrent.futures`` and loky break the whole pool; a pool of its own gives every slot
    its own device for life.

    Parameters
    ----------
    workers, jobs_per_gpu
        As in ``conf/config.yaml``.
    """

    pause = 0.1
    busy_pause = 1.0
    is_elsewhere = False

    def __init__(self, workers: int | str, jobs_per_gpu: int) -> None:
        self._slots = make_slots(workers, jobs_per_gpu, visible_gpus())
        self._pools: list[ProcessPool] = []
        self._busy: dict[Any, int] = {}

    def get_ready(self, jobs: int | None) -> None:
        """Start the workers, no more than jobs: they import while the grid is looked at."""
        if self._pools:
            return
        self._slots = self._slots[:jobs]
        for slot in self._slots:
            initial = (slot.device, slot.threads, os.getpid())
            pool = ProcessPool(max_workers=1, context=get_context("spawn"), initializer=prepare, initargs=initial)
            pool.schedule(warm_up)
            self._pools.append(pool)

    def close(self) -> None:
        """End the workers, whatever they are on: what is worth keeping lies in files, whole or not at all."""
        self._send(signal.SIGKILL)
        for pool in self._pools:
            pool.stop()
        for pool in self._pools:
            with contextlib.suppress(TimeoutError):
                pool.join(timeout=10)
        self._pools = []

    def slots(self) -> list[str]:
        """Return ``cpu`` or ``GPU 0`` for each worker."""
        return [f"GPU {slot.device}" if slot.device is not None else "cpu" for slot in self._slots]

    def describe(self) -> str:
        """Return the number of workers and their devices."""
        names = self.slots()
        return f"on {len(names)} worker{'s' if len(names) > 1 else ''} ({', '.join(names)})"

    def capacity(self) -> int:
        """Return the number of workers."""
        return len(self._slots)

    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        """Hand jobs to free workers."""
        free = [slot for slot in range(len(self._pools)) if slot not in self._busy.values()]
        started = {
            self._pools[slot].schedule(perform, args=(spec,), timeout=spec.timeout): slot
            for slot, spec in zip(free, specs, strict=False)
        }
        self._busy |= started
        return list(started)

    def slot_of(self, handle: Future[Outcome]) -> int:
        """Return the number of the worker that a job is on."""
        return self._busy[handle]

    def ended(self, handles: Sequence[Future[Outcome]]) -> list[Future[Outcome]]:
        """Wait for the first job that ends, a moment at most."""
        return list(wait(handles, timeout=self.pause, return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future[Outcome]) -> Outcome:
        """Return a job's outcome; its worker is free again."""
        del self._busy[handle]
        try:
            return handle.result()
        except ProcessExpired as error:
            raise LostError(_died(error.exitcode)) from error

    def stop(self, handles: Sequence[Future[Outcome]], at_once: bool) -> None:
        """Send SIGINT, on which jobs checkpoint; at once, leave them to :meth:`close`."""
        if not at_once:
            self._send(signal.SIGINT)

    def _send(self, number: signal.Signals) -> None:
        for pool in self._pools:
            for worker in list(pool._pool_manager.worker_manager.workers):  # pebble does not tell process ids otherwise
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, number)


def make_slots(workers: int | str, jobs_per_gpu: int, gpus: Sequence[str]) -> list[Slot]:
    """Return the slots for workers: spread over the GPUs, or over the CPU's threads."""
    if workers != "auto" and not (isinstance(workers, int) and not isinstance(workers, bool) and workers >= 1):
        raise ConfigError(f"workers={workers} is neither auto nor a whole number from 1.")
    if jobs_per_gpu < 1:
        raise ConfigError(f"jobs_per_gpu={jobs_per_gpu} must be at least 1.")
    devices: list[str | None] = [gpu for _ in range(jobs_per_gpu) for gpu in gpus] or [None]
    count = len(devices) if workers == "auto" else int(workers)
    threads = max(1, _threads() // count)
    return [Slot(devices[number % len(devices)], threads) for number in range(count)]


def _threads() -> int:
    """Return how many CPU threads a plain run would use."""
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine, or their MIG instances, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return _gpus_of_torch()
    if listed.returncode != 0:
        return _gpus_of_torch()
    gpus: list[str] = []
    for line in listed.stdout.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            gpus.append(gpu[1])
        elif instance := re.search(r"UUID: (MIG-[^)]+)", line):  # a part of the GPU above it, which is not used whole
            if gpus and gpus[-1].isdigit():
                gpus.pop()
            gpus.append(instance[1])
    return gpus


def _gpus_of_torch() -> list[str]:
    """Return what torch finds where there is a driver; elsewhere it is not worth the seconds of importing it."""
    if not any(Path(file).exists() for file in _DRIVERS):
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _died(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was killed ({signal.Signals(-code).name})"
    return f"its process died (exit code {code})"
