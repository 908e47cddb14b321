"""ptuning's part of Hydra: the schema, the resolvers, and ``backbone=<folder or Hub id>`` without a file for it.

Hydra asks its sources in order. A path (``./my_model``, ``/models/x``, ``~/x``) is a folder before it can be one of the
files; any other name is a file first, then a folder here, then a Hub id. So a folder or Hub id works wherever Hydra
takes a choice: in sweeps, in experiments, in ``ptuning modules``.
"""

import os
from functools import lru_cache
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from ptuning.backbones import resolvers
from ptuning.config.schema import Config

_GROUP = "backbone/"
_SCHEME = "backbone"


class PtuningSearchPath(SearchPathPlugin):
    """Registers schema and resolvers; puts paths before the files of ``conf/backbone``, other names behind them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Register the schema and the resolvers, and add the two sources."""
        ConfigStore.instance().store("schema", Config)
        resolvers.register()
        search_path.prepend("ptuning", f"{_SCHEME}://paths")
        search_path.append("ptuning", f"{_SCHEME}://names")


class BackboneConfigSource(ConfigSource):
    """Source of the configuration ``path: NAME`` for ``backbone/NAME``."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of this source in a search path."""
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the configuration of a backbone that has no file."""
        config = OmegaConf.create({"path": config_path.removeprefix(_GROUP)})
        return ConfigResult(self.provider, self.full_path(), config, header={"package": None})

    def is_config(self, config_path: str) -> bool:
        """Return true for a path, or (the source behind the files) for a name of a folder or a model on the Hub."""
        if not config_path.startswith(_GROUP):
            return False
        name = config_path.removeprefix(_GROUP)
        if self.path == "paths":
            return _is_path(name)
        return "/" in name or Path(name).is_dir() or _on_hub(name)

    def is_group(self, config_path: str) -> bool:
        """Return false: groups are Hydra's own."""
        return False

    def available(self) -> bool:
        """Return true: there is nothing that could be missing."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return nothing: any folder or Hub id is a choice."""
        return []


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~"))


@lru_cache(maxsize=64)
def _on_hub(name: str) -> bool:
    """Return true if a one-word name is a model on the Hub, or in its cache.

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
