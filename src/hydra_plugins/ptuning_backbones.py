"""``backbone=<folder or Hub id>`` without a file in ``conf/backbone``: a source of configurations beside Hydra's own.

Hydra asks its sources in order. A path (``./my_model``, ``/models/x``, ``~/x``) is a folder before it can be one of the
files; any other name is a file first, then a folder here, then a Hub id. So it works wherever Hydra takes a choice: in
sweeps, in experiments, in ``ptuning modules``.
"""

import os
from functools import lru_cache
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from ptuning.config.unlisted import UnlistedSource

_GROUP = "backbone/"
_SCHEME = "backbone"


class BackboneSearchPath(SearchPathPlugin):
    """Puts paths before the files of ``conf/backbone``, and every other name behind them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the two sources, if this is ptuning's configuration."""
        search_path.prepend("ptuning", f"{_SCHEME}://paths")
        search_path.append("ptuning", f"{_SCHEME}://names")


class BackboneConfigSource(UnlistedSource):
    """Answers for ``backbone/NAME`` with ``path: NAME``."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of this source in a search path."""
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the configuration of a backbone that has no file."""
        return self.result({"path": config_path.removeprefix(_GROUP)})

    def is_config(self, config_path: str) -> bool:
        """Return whether a name is for this source: for names that are no path, whether there is such a model."""
        if not config_path.startswith(_GROUP):
            return False
        name = config_path.removeprefix(_GROUP)
        if self.path == "paths":
            return _is_path(name)
        return "/" in name or Path(name).is_dir() or _on_hub(name)


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~"))


@lru_cache(maxsize=64)
def _on_hub(name: str) -> bool:
    """Return whether a one-word name is a model on the Hub, or in its cache.

    Only the oldest models have such names (``roberta-base``), and a misspelt choice looks the same; so this one is
    asked for, quickly, while a name with an owner is taken as it is.
    """
    from ptuning.system.hub import use_cache_if_unreachable

    use_cache_if_unreachable(name)
    from huggingface_hub import constants, file_exists

    if any(Path(constants.HF_HUB_CACHE, f"models--{name}").glob("snapshots/*/config.json")):
        return True
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        return file_exists(name, "config.json")
    except Exception:  # noqa: BLE001  (no such name, a proxy that refuses, a time-out: it was not found on the Hub)
        return False
