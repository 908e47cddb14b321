"""What our sources of configurations have in common, beside Hydra's files."""

from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf


class UnlistedSource(ConfigSource):
    """A source that answers for single names; it is always there, has no groups, and what it knows is not listed."""

    def result(self, content: Any) -> ConfigResult:
        """Return what :meth:`load_config` has to, from a plain container or a configuration."""
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(content), header={"package": None})

    def is_group(self, config_path: str) -> bool:
        """Return false: groups are Hydra's own."""
        return False

    def available(self) -> bool:
        """Return true: there is nothing that could be missing."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return nothing."""
        return []
