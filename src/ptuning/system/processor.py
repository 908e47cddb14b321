"""The name of this machine's processor, for records."""

import platform
import sys
from contextlib import suppress
from pathlib import Path


def processor_name() -> str:
    """Return the processor's name and, once torch is imported, the instructions that torch computes with.

    For example ``AMD EPYC 7763 64-Core Processor (AVX2)``.
    """
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux alone has it
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    torch = sys.modules.get("torch")
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})" if torch else name
