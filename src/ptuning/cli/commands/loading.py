"""What the commands that take a run share: loading it with no word on the screen and no wait for a silent Hub."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptuning.system.hub import use_cache_if_unreachable
from ptuning.system.imports import large_imports

if TYPE_CHECKING:
    from ptuning.deltas.loading import Loaded


def load_quietly(run: str, backbone: str | None = None, data: Sequence[str] | None = None) -> "Loaded":
    """Return a run, a delta folder or a Hub id of a delta with its backbone; see :func:`ptuning.load`.

    ``data`` is what was typed about the data, if the command reads any.
    """
    mind_the_hub(run, backbone, data)

    with large_imports():
        from ptuning.deltas.loading import load_run
        from ptuning.display.console import quiet

    quiet()
    return load_run(run, backbone)


def mind_the_hub(run: str, backbone: str | None = None, data: Sequence[str] | None = None) -> None:
    """Look whether the Hub answers, if run, backbone or data would come from there; call it before heavy imports."""
    try:
        described = json.loads((Path(run).expanduser() / "delta.json").read_text("utf-8"))
        path, source = str(described["backbone"]["path"]), str(described["source"])
    except (OSError, ValueError, KeyError, TypeError):  # a Hub id, or a mistake that loading will tell
        path, source = run, ""
    if data is None:
        source = ""
    else:
        source = next((word.removeprefix("data=") for word in data if word.startswith("data=")), source)
    use_cache_if_unreachable(backbone or path, source)
