"""Real processes at the price of a fork: everything is imported once, every case is a process of its own."""

import faulthandler
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 120
"""After which a process counts as hung."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal that ended it, and what it printed."""

    code: int
    output: str

    @property
    def is_clear(self) -> bool:
        """True for success, and for a sentence without a traceback and an exit code that says so."""
        return self.code == 0 or (self.code in (1, 2, 130) and "Traceback" not in self.output and bool(self.output))


class Process:
    """A forked process that does what a command typed in a folder does."""

    def __init__(self, folder: Path, command: Sequence[str], before: Callable[[], None] = lambda: None) -> None:
        self.output = folder / ".output"
        sys.stdout.flush()
        sys.stderr.flush()
        self.number = os.fork()
        if not self.number:
            _become(folder, command, self.output, before)

    def send(self, number: signal.Signals, group: bool = False) -> bool:
        """Send a signal, if the process still runs."""
        if os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        (os.killpg if group else os.kill)(self.number, number)
        return True

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Wait for the end; after ``seconds`` kill the process, whose code is then that of SIGALRM."""
        until, hung = time.monotonic() + seconds, False
        while not (found := os.waitpid(self.number, os.WNOHANG))[0]:
            if time.monotonic() > until:
                hung = True
                os.killpg(self.number, signal.SIGKILL)
                found = os.waitpid(self.number, 0)
                break
            time.sleep(0.005)
        code = -signal.SIGALRM if hung else os.waitstatus_to_exitcode(found[1])
        return Ended(code, self.output.read_text("utf-8", "replace"))


def run(folder: Path, command: Sequence[str], before: Callable[[], None] = lambda: None) -> Ended:
    """Run a command in a process of its own and wait for its end."""
    return Process(folder, command, before).wait()


def _become(folder: Path, command: Sequence[str], output: Path, before: Callable[[], None]) -> None:
    code = 1
    try:
        os.setsid()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        faulthandler.enable()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        name, *rest = command
        sys.argv = [name, *rest]
        before()
        if name == "train.py":
            runpy.run_path(str(ROOT / name), run_name="__main__")
        else:
            from ptuning.cli.main import main

            main(rest)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(bool(left.code))
    except BaseException:  # noqa: BLE001  what a process does with whatever it did not catch
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
