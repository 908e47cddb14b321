"""Files that are read back, damaged: cut, flipped, emptied, overwritten, swapped for another run's."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from chaos.forks import Ended, run
from chaos.world import RIGHT, UNCLEAR, WRONG, Verdict, World

_NAMED = re.compile(r"damaged|edited|does not fit|broken|left out|set aside", re.IGNORECASE)


def damage(path: Path, chance: random.Random, other: Path | None = None) -> str:
    """Damage a file in one of seven ways; return which."""
    content = bytearray(path.read_bytes())
    kinds = ["cut", "flip", "flip", "digits", "empty", "zeros", "longer", *(["swap"] if other else [])]
    kind = chance.choice(kinds)
    place = chance.randrange(max(1, len(content)))
    if kind == "cut":
        del content[place:]
    elif kind == "flip" and content:
        content[place] ^= 1 << chance.randrange(8)
    elif kind == "digits":
        digits = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
        if digits:
            at = chance.choice(digits)
            content[at] = 48 + (content[at] - 48 + chance.randrange(1, 10)) % 10
    elif kind == "empty":
        content.clear()
    elif kind == "zeros":
        content[place : place + 512] = bytes(min(512, len(content) - place))
    elif kind == "longer":
        content += chance.randbytes(chance.randrange(1, 600))
    elif other is not None:
        content[:] = other.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content)
    return f"{kind} at {place} of {path.name}"


def finished_run(world: World, seed: int, place: Path) -> Verdict:
    """One file of a finished run is damaged; every command that reads it is typed."""
    chance = random.Random(seed)
    world_place = world.fresh(place.name, with_run=True)
    folder = next(world_place.rglob("record.json")).parent
    file = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"))
    what = damage(file, chance, _another(world.folder, file))
    texts = place / "texts.csv"
    texts.write_text("sentence1,sentence2\nA cat sat.,A cat sat down.\nNo.,Yes.\n")
    commands = {
        "train": world.command,
        "evaluate": ("ptuning", "evaluate", str(folder.relative_to(place))),
        "predict": ("ptuning", "predict", str(folder.relative_to(place)), "--input", "texts.csv"),
        "results": ("ptuning", "results", "runs"),
    }
    name = chance.choice(list(commands))
    ended = run(place, commands[name])
    whole = world.folder / f"whole-{name}"
    if not whole.exists():  # the same command beside an undamaged run, once
        calm = world.fresh("calm", with_run=True)
        shutil.copy(texts, calm)
        whole.write_text(run(calm, commands[name]).output)
    if name == "train" and ended.code == 0 and (found := world.compare(place)).kind == RIGHT:
        return found
    return _judge(ended, whole.read_text(), f"{what}, {name}")


def checkpoint(world: World, seed: int, place: Path) -> Verdict:
    """The checkpoint of an interrupted run is damaged; the same command ends with the whole result or says why not."""
    chance = random.Random(seed)
    shutil.copytree(world.folder / "interrupted", place / "runs")
    file = next((place / "runs").rglob("last.ckpt"))
    what = damage(file, chance, _another(world.folder, file))
    ended = run(place, world.command)
    if not ended.is_clear:
        return Verdict(UNCLEAR, f"{what}: {ended.code} {ended.output[-800:]}")
    if ended.code == 0:
        found = world.compare(place)
        return Verdict(found.kind, f"{what}: {found.why}")
    return Verdict(RIGHT)


def caches(world: World, seed: int, place: Path) -> Verdict:
    """A file of a cache is damaged; a new run ends with the whole result."""
    chance = random.Random(seed)
    shutil.copytree(world.folder / "cache", place / "cache")
    file = chance.choice(
        sorted(path for path in (place / "cache").rglob("*") if path.is_file() and path.stat().st_size)
    )
    what = damage(file, chance)
    ended = run(place, world.command, lambda: os.environ.update(PTUNING_CACHE=str(place / "cache")))
    if ended.code != 0:
        return Verdict(UNCLEAR, f"{what}: {ended.code} {ended.output[-800:]}")
    found = world.compare(place)
    return Verdict(found.kind, f"{what}: {found.why}")


def _judge(ended: Ended, whole: str, what: str) -> Verdict:
    if not ended.is_clear:
        return Verdict(UNCLEAR, f"{what}: {ended.code} {ended.output[-800:]}")
    if ended.code != 0 or ended.output == whole or _NAMED.search(ended.output):
        return Verdict(RIGHT)
    return Verdict(WRONG, f"{what}: {ended.output[-800:]}")


def _another(folder: Path, file: Path) -> Path | None:
    return next((path for path in sorted((folder / "other").rglob(file.name)) if path.is_file()), None)


Case = Callable[[World, int, Path], Verdict]
Cases = Iterable[Verdict]
