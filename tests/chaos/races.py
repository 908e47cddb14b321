"""Races whose processes are killed at random moments: they end with the answer of an undisturbed one."""

import hashlib
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

from chaos.forks import Process
from chaos.kills import seconds
from chaos.world import TINY, Verdict, World

RACE = (
    *("train.py", "-m", *TINY[1:]),
    *("module=layernorm,frozen,full", "hydra/sweeper=race", "race.margin=30", "race.runs=6"),
    *("trainer.max_epochs=1", "data.sizes.train=36", "optim.lr=0.01"),
    "hydra/launcher=basic",
)
"""Two rounds of three candidates, in the command's own process; 4 steps a run, a checkpoint after each."""
_WORKERS = (*RACE[:-1], "workers=2")
"""The same in two worker processes."""
KILLS = 5
"""Of a race, unless it ends before."""
_CLOCK = ("seconds", "runs")
"""What of a candidate depends on the time and the place."""


def result(runs: Path) -> Any:
    """Return the last ``race.json`` below a folder and digests of all trained values, or ``None`` before its end."""
    found = sorted(runs.glob(".sweeps/*/race.json"), key=lambda path: path.stat().st_mtime_ns)
    if not found or not (race := json.loads(found[-1].read_bytes()))["end"]:
        return None
    race["candidates"] = [{key: value for key, value in one.items() if key not in _CLOCK} for one in race["candidates"]]
    deltas = sorted(runs.rglob("delta.safetensors"))
    digests = {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in deltas}
    return race, digests


def race_killed(world: World, seed: int, place: Path) -> Verdict:
    """SIGKILL to the process group of a race after random times, then the same command to its end."""
    chance = random.Random(seed)
    command, longest = chance.choice(((RACE, seconds(world)), (_WORKERS, 2 * seconds(world))))  # workers import first
    for _ in range(KILLS):
        process = Process(place, command)
        time.sleep(chance.uniform(0.02, 0.6) * longest)
        is_killed = process.send(signal.SIGKILL, group=True)
        process.wait()
        if not is_killed:  # it had ended
            break
    return world.again(place, command)
