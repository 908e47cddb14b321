"""What the runs of one sweep share."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sweep:
    """What the jobs of one sweep share.

    Attributes
    ----------
    name
        Groups its runs in trackers.
    grid
        The overrides as typed: ``module=layernorm,query``, ``seed=1,2``.
    """

    name: str
    grid: tuple[str, ...] = ()


def current_sweep() -> Sweep | None:
    """Return the multirun that Hydra runs in this process, or ``None`` outside of one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Sweep(Path(HydraConfig.get().sweep.dir).name)
    return None
