"""Standard streams that take every character, and that may close without a failure of the writer."""

import io
import os
import sys
from typing import Any, TextIO


class _Output(io.FileIO):
    """The file below a standard stream; after a write that failed it writes into nothing.

    Attributes
    ----------
    error
        The failure.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or let go of the descriptor: child processes and C code have it too."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return len(data)


def renew_streams() -> None:
    """Let standard output and standard error take every character, a closed descriptor, and a reader who leaves.

    Characters that the encoding lacks are written as their code. A training whose words nobody takes (``| head``,
    a full disk, ``>&-``) goes on; :func:`lost_output` tells. Streams that somebody else put in place (a notebook, a
    test) stay.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _renewed(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _renewed(sys.stderr, 2)


def lost_output() -> OSError | None:
    """Return why standard output is written no more, or ``None`` if it is; what was printed so far is flushed."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _Output) else None


def _renewed(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        stream.flush()
    raw = _Output(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=descriptor == 2 or raw.isatty() or getattr(stream, "write_through", False),
    )
