"""The request to stop this process: one flag that training looks at where stopping is exact."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Turns SIGINT and SIGTERM into a flag, for as long as it listens.

    Attributes
    ----------
    asked
        True if a signal has come since listening began.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}
        self._patient = False

    def listen(self, patient: bool = False) -> None:
        """Begin to listen; nothing happens outside the main thread, or when listening already.

        A second signal has the effect that it had before, so that a second Ctrl-C stops at once; not if ``patient``:
        then someone else (the parent of a worker) decides about that.
        """
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self.asked, self._patient = False, patient
        self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}

    def cease(self) -> None:
        """Give the signals back, unless listening is for the life of the process."""
        if not self._patient:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before, self.asked = {}, False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._before:  # a library has put this handler back after listening had ended
            raise KeyboardInterrupt
        self.asked = True
        if not self._patient:
            for one, handler in self._before.items():
                signal.signal(one, handler)


stop = StopRequest()
"""The process's one request."""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt, as Ctrl-C does; a handler that somebody else has for it stays."""
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
