"""Processes that are ended from outside, and file systems that refuse: at random moments, and at every write."""

import errno
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.forks import Process, run
from chaos.world import LOST, RIGHT, UNCLEAR, WRONG, Verdict, World

_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}


def killed(world: World, seed: int, place: Path) -> Verdict:
    """SIGKILL after a random time, up to three times, then the same command to its end."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 2, 3))):
        process = Process(place, world.command)
        time.sleep(chance.uniform(0.05, 1.0) * seconds(world))
        process.send(signal.SIGKILL)
        process.wait()
    return world.again(place)


def asked_to_stop(world: World, seed: int, place: Path) -> Verdict:
    """SIGTERM or SIGINT after a random time: exit code 130 with a sentence, and the same command goes on."""
    chance = random.Random(seed)
    number = chance.choice((signal.SIGTERM, signal.SIGINT))
    process = Process(place, world.command)
    time.sleep(chance.uniform(0.05, 1.0) * seconds(world))
    sent = process.send(number)
    ended = process.wait()
    if ended.code not in (0, 130, -number):
        kind = UNCLEAR if sent else LOST
        return Verdict(kind, f"{number.name} ended with {ended.code}: {ended.output[-800:]}")
    if ended.code == -number and any(place.rglob("record.json")):
        return Verdict(UNCLEAR, f"{number.name} ended without a word: {ended.output[-800:]}")
    if "Traceback" in ended.output:
        return Verdict(UNCLEAR, f"{number.name}: {ended.output[-800:]}")
    if sent and ended.code == 0 and world.compare(place).kind != RIGHT:
        return Verdict(WRONG, f"{number.name} ended with 0 before the run had finished: {ended.output[-800:]}")
    return world.again(place)


def crash_at_a_write(world: World, seed: int, place: Path) -> Verdict:
    """The process dies at its n-th change of the file system, n = seed + 1; then the same command."""
    ended = run(place, world.command, lambda: _at_write(seed, place, lambda path: os.kill(os.getpid(), signal.SIGKILL)))
    if ended.code == 0:
        return world.compare(place)
    return world.again(place)


def disk_full(world: World, seed: int, place: Path) -> Verdict:
    """Every change of the file system is refused from the n-th on, as on a full disk; then the same command."""
    return _refused(world, seed, place, errno.ENOSPC)


def read_only(world: World, seed: int, place: Path) -> Verdict:
    """The file system becomes read-only at the n-th change; then the same command."""
    return _refused(world, seed, place, errno.EROFS)


def two_at_once(world: World, seed: int, place: Path) -> Verdict:
    """Two processes of the same command: one trains, one says that it is under way, nobody is lost."""
    chance = random.Random(seed)
    first = Process(place, world.command)
    time.sleep(chance.uniform(0.0, 1.0) * seconds(world))
    (place / "second").mkdir()
    other = place / "second"
    (other / "runs").symlink_to(place / "runs")
    (place / "runs").mkdir(exist_ok=True)
    second = Process(other, world.command)
    ended = [first.wait(), second.wait()]
    if any(not one.is_clear for one in ended):
        return Verdict(UNCLEAR, "\n".join(one.output[-500:] for one in ended))
    (other / "runs").unlink()
    return world.again(place)


def _refused(world: World, seed: int, place: Path, number: int) -> Verdict:
    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    ended = run(place, world.command, lambda: _at_write(seed, place, refuse, stays=True))
    if not ended.is_clear:
        return Verdict(UNCLEAR, f"refused with {ended.code}: {ended.output[-800:]}")
    if ended.code == 0 and (found := world.compare(place)).kind != RIGHT:
        return found
    return world.again(place)


def _at_write(number: int, place: Path, act: Callable[[str], None], stays: bool = False) -> None:
    """Act at the n-th event by which this process changes something below a folder, and at every later one."""
    left = number
    inside = os.fspath(place)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "open":
            changes = isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            changes = event in _WRITES
        if not changes or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith(inside) or path == f"{inside}/.output":
            return
        if left == 0:
            act(path)
        if left or stays:
            left = max(0, left - 1)

    sys.addaudithook(watch)


def seconds(world: World) -> float:
    """Return how long the undisturbed command took."""
    return float((world.folder / "seconds").read_text())
