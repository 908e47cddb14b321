"""What the runs of one sweep share, also when it is stopped and typed again."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ptuning.system.files import write_json
from ptuning.system.json_files import DamagedError, read_json
from ptuning.system.typed_json import read_dataclass

SWEEP = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """What the jobs of one sweep share.

    Attributes
    ----------
    name
        Groups its runs in trackers: the name of the folder of its first call.
    grid
        The overrides as typed: ``module=layernorm,query``, ``seed=1,2``.
    summary_id
        W&B's id of the run that sums it up.
    params
        What files say on top: the name of a configuration of one's own, and ``hydra.sweeper.params`` of it or of an
        experiment of one's own. Those of a packaged experiment are in its name.
    """

    name: str
    grid: tuple[str, ...] = ()
    summary_id: str = ""
    params: tuple[str, ...] = ()


def find_sweep(folder: Path, grid: Sequence[str], params: Sequence[str] = ()) -> Sweep:
    """Return the sweep that a call of ``train.py -m`` begins, or goes on with: the first with this grid beside it.

    Parameters
    ----------
    folder
        The folder of this call, named by its time; its neighbours are those of others.
    grid
        The overrides as typed. Their order, and those that say how jobs run and who listens, make no other sweep.
    params
        What files say on top, as in :class:`Sweep`.
    """
    asked = (asked_of(grid), asked_of(params))
    for earlier in _noted(folder.parent):
        if (asked_of(earlier.grid), asked_of(earlier.params)) == asked:
            return earlier
    return Sweep(folder.name, tuple(grid), f"sweep-{os.urandom(6).hex()}", tuple(params))


def note_sweep(folder: Path, sweep: Sweep) -> None:
    """Write the sweep into the folder of a call, for later ones."""
    write_json(folder / SWEEP, asdict(sweep))


def current_sweep() -> Sweep | None:
    """Return the multirun that Hydra runs in this process, or ``None`` outside of one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Sweep(Path(HydraConfig.get().sweep.dir).name)
    return None


_HOW = ("workers", "jobs_per_gpu", "job_timeout", "checkpoint_seconds", "logger", "hydra")
"""First words of keys that say how jobs run and who listens, not which they are."""
_BUDGET = ("race.runs", "race.minutes", "race.order")
"""Keys of a race that say how far it goes, not which it is."""


def asked_of(grid: Sequence[str]) -> set[str]:
    """Return the overrides that say which jobs there are: not how they run, who listens or how far a race goes."""
    keys = {one: one.lstrip("+~").split("=")[0] for one in grid}
    return {one for one, key in keys.items() if key.split(".")[0].split("/")[0] not in _HOW and key not in _BUDGET}


def _noted(sweeps: Path) -> Iterator[Sweep]:
    """Yield the sweeps that calls noted, the earliest first; what is no note is passed over."""
    for file in sorted(sweeps.glob(f"*/{SWEEP}")):
        try:
            found = read_dataclass(Sweep, read_json(file))
        except (DamagedError, OSError):
            continue
        if found.name and found.summary_id:
            yield found
