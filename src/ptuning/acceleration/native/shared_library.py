"""The library of C functions, compiled where it runs: once for each source, compiler and processor.

Its functions take fp32 and bf16, and compute in fp32. Without a compiler there are none, and torch does it all.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from ctypes import POINTER, Structure, c_float, c_int, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptuning.acceleration.masks import DRAWN
from ptuning.system.cached_files import read_cached, write_cached
from ptuning.system.files import cache_folder

SWITCH = "PTUNING_NATIVE"
"""An environment variable: with 0 nothing is compiled, and nothing that was is used."""

_FOLDER = Path(__file__).parent
_ARGUMENTS = ("-O3", "-fPIC", "-shared", "-pthread")
_SECONDS = 120
_LARGEST = 1 << 26


class States(Structure):
    """Hidden states by head, [tokens, heads, width]: their address, and numbers from a token and a head to the next."""

    _fields_ = (("data", c_void_p), ("token", c_int64), ("head", c_int64))


class Shape(Structure):
    """What attention is computed of; ``attention.c`` says what each is."""

    _fields_ = (
        ("rows", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("cu_seqlens", c_void_p),
        ("scale", c_float),
        ("dropped", c_uint32),
        ("seed", c_uint64),
        ("bf16", c_int32),
    )


_FUNCTIONS: dict[str, list[Any]] = {
    "attend": [POINTER(Shape), *4 * [States], c_void_p],
    "attend_backward": [POINTER(Shape), *4 * [States], c_void_p, *4 * [States]],
    "drop": [c_void_p, c_void_p, c_int, c_int64, c_uint32, c_uint64],
}
"""Their arguments, but for the last of each: how many threads may compute it."""


def takes(given: Tensor) -> bool:
    """True if there are functions for a tensor: fp32 or bf16 on a CPU with a compiler, and not while torch compiles."""
    plain = given.dtype in DRAWN and given.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and prepare() is not None


def prepare() -> ctypes.CDLL | None:
    """Return :func:`library`, or ``None`` where it is switched off."""
    return library() if os.environ.get(SWITCH) != "0" else None


def call(name: str, *arguments: Any) -> None:
    """Compute, in as many threads as torch may use here.

    Raises
    ------
    MemoryError
        If there is none left.
    """
    if getattr(library(), name)(*arguments, torch.get_num_threads()):
        raise MemoryError(f"There is no memory left for {name}.")


@cache
def library() -> ctypes.CDLL | None:
    """Return the functions, from the cache on disk or compiled in two seconds; once for this process.

    ``None`` where there is no compiler (``$CC``, cc, gcc or clang), and where it or the processor cannot do it.
    """
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None or os.name != "posix":
        return None
    sources = [path.read_text("utf-8") for path in sorted(_FOLDER.glob("*.[ch]"))]
    what = "\n".join((*sources, str(Path(compiler).resolve()), platform.platform(), _processor()))
    kept = cache_folder() / "native" / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.so"
    try:
        content = read_cached(kept, _LARGEST, private=True)
        if content is None:
            content = _compile(compiler)
            write_cached(kept, content, private=True)
        found = _load(content)
    except (OSError, subprocess.SubprocessError):
        return None
    for name, arguments in _FUNCTIONS.items():
        getattr(found, name).argtypes = [*arguments, c_int64]
    return found


def _compile(compiler: str) -> bytes:
    """Return the compiled functions as a file's content."""
    sources = [str(source) for source in sorted(_FOLDER.glob("*.c"))]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "functions.so"
        for tuned in (("-march=native",), ("-mcpu=native",), ()):  # what compilers for ARM know it by, or not at all
            command = [compiler, *_ARGUMENTS, *tuned, "-o", str(made), *sources, "-lm"]
            if subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode == 0:
                return made.read_bytes()
    raise subprocess.SubprocessError(f"{compiler} cannot compile {_FOLDER}")


def _load(content: bytes) -> ctypes.CDLL:
    """Load a library from a copy of its own: whatever becomes of the file that it was read from, this stays whole."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("ptuning"), "wb") as stream:
            stream.write(content)
            stream.flush()
            return ctypes.CDLL(f"/proc/self/fd/{stream.fileno()}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "functions.so"
        copy.write_bytes(content)
        return ctypes.CDLL(str(copy))


def _processor() -> str:
    """Return what the processor is and can do, as nodes that share a home folder may differ."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor()
