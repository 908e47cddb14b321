"""The schema, the first entry of ``conf/config.yaml``'s defaults, as a source of configurations.

Hydra copies its ``ConfigStore`` for every look into a group; kept there, the schema took a third of ``--help``.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

NAME = "schema"


class SchemaSearchPath(SearchPathPlugin):
    """Puts the schema behind all other sources."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the source."""
        search_path.append("ptuning", f"{NAME}://")


class SchemaSource(ConfigSource):
    """Answers for ``schema``."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of this source in a search path."""
        return NAME

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the schema."""
        from ptuning.schema import Config

        return ConfigResult(self.provider, self.full_path(), OmegaConf.structured(Config), header={"package": None})

    def is_config(self, config_path: str) -> bool:
        """Return whether a name is the schema's."""
        return config_path == NAME

    def is_group(self, config_path: str) -> bool:
        """Return false: it stands alone."""
        return False

    def available(self) -> bool:
        """Return true: there is nothing that could be missing."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return nothing: it is no choice of a group."""
        return []
