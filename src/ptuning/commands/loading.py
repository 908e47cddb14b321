"""What the commands that take a run share: loading it with no word on the screen and no wait for a silent Hub."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ptuning.hub import use_cache_if_unreachable

if TYPE_CHECKING:
    from ptuning.model.delta import Loaded


def load_quietly(run: str, backbone: str | None = None) -> "Loaded":
    """Return a run, a delta folder or a Hub id of a delta with its backbone; see :func:`ptuning.load`."""
    mind_the_hub(run, backbone)

    from ptuning.console import quiet
    from ptuning.model.delta import load_run

    quiet()
    return load_run(run, backbone)


def mind_the_hub(run: str, backbone: str | None = None) -> None:
    """Look whether the Hub answers, if the run or its backbone would come from there; call it before heavy imports."""
    if backbone is None:
        try:
            backbone = str(json.loads((Path(run).expanduser() / "delta.json").read_text())["backbone"]["path"])
        except (OSError, ValueError, KeyError, TypeError):  # a Hub id, or a mistake that loading will tell
            backbone = run
    use_cache_if_unreachable(backbone)
