"""Memory of a process: its peak in a run, and what is given back between runs."""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path


def reset_peak_memory() -> None:
    """Count from here on, where that can be had: on Linux, and on a GPU that this process uses.

    Elsewhere the peak of resident memory stays that of the process.
    """
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # no Linux, or a sandbox without it
        Path("/proc/self/clear_refs").write_text("5", "utf-8")


def peak_memory_mb(on_gpu: bool) -> float:
    """Return the peak of a GPU's allocated memory, or of this process's resident memory, in MiB."""
    if on_gpu:
        return round(float(sys.modules["torch"].cuda.max_memory_allocated()) / 2**20, 1)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def give_back_memory() -> None:
    """Collect garbage, and give free memory back to the system, which glibc would keep: 25 MB after 120 tiny runs."""
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
