"""C that is compiled where it runs, once for each source, compiler and processor; without a compiler, none of it."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from ptuning.files import cache_folder, write_whole

SWITCH = "PTUNING_NATIVE"
"""An environment variable: with 0 nothing is compiled and torch does it all."""

_ARGUMENTS = ("-O3", "-fPIC", "-shared", "-pthread")
_SECONDS = 120


@cache
def load(source: Path) -> ctypes.CDLL | None:
    """Return a C file as a library, from the cache or compiled in a second or two.

    ``None`` where there is no compiler (``$CC``, cc, gcc or clang), where it or the processor cannot do it, and where
    nothing can be written.

    Parameters
    ----------
    source
        A file that needs nothing but the C library and threads.
    """
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None or os.environ.get(SWITCH) == "0" or os.name != "posix":
        return None
    what = "\n".join((source.read_text(), str(Path(compiler).resolve()), platform.platform(), _processor()))
    library = cache_folder() / "native" / f"{source.stem}-{hashlib.sha256(what.encode()).hexdigest()[:16]}.so"
    try:
        if not library.exists():
            _compile(source, compiler, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(source: Path, compiler: str, library: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / library.name
        for tuned in (("-march=native",), ("-mcpu=native",), ()):  # what compilers for ARM know it by, or not at all
            command = [compiler, *_ARGUMENTS, *tuned, "-o", str(made), str(source), "-lm"]
            if subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode == 0:
                write_whole(library, made.read_bytes())
                return
    raise subprocess.SubprocessError(f"{compiler} cannot compile {source}")


def _processor() -> str:
    """Return what the processor is and can do, as nodes that share a home folder may differ."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor()
