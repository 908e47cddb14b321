"""The schema, the first entry of ``conf/config.yaml``'s defaults, as a source of configurations.

Hydra copies its ``ConfigStore`` for every look into a group; kept there, the schema took a third of ``--help``.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from ptuning.config.unlisted import UnlistedSource

NAME = "schema"


class SchemaSearchPath(SearchPathPlugin):
    """Puts the schema behind all other sources."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the source."""
        search_path.append("ptuning", f"{NAME}://")


class SchemaSource(UnlistedSource):
    """Answers for ``schema``."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of this source in a search path."""
        return NAME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the schema."""
        from ptuning.config.schema import Config

        return self.result(OmegaConf.structured(Config))

    def is_config(self, config_path: str) -> bool:
        """Return whether a name is the schema's."""
        return config_path == NAME
