"""The reachability of the Hugging Face Hub, asked once and quickly: no network never means waiting."""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def use_cache_if_unreachable(backbone: str, source: str = "", dataset: str | None = None) -> None:
    """Set ``HF_HUB_OFFLINE=1`` for this process if the run wants the Hub and it does not answer within 2 s.

    The Hub's client would otherwise try for half a minute before it looks into its cache. Call it before
    ``huggingface_hub`` is imported, which reads the variable once.
    """
    if (wants_dataset(source, dataset) or wants_backbone(backbone)) and not hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"


def wants_backbone(path: str) -> bool:
    """Return true if ``backbone.path`` names something of the Hub."""
    return not (":" in path or Path(path).expanduser().is_dir())


def wants_dataset(source: str, path: str | None) -> bool:
    """Return true if ``data.source`` or ``data.path`` names something of the Hub."""
    return source == "hub" or bool(path and not Path(path).is_dir())


def use_cache_for_run(config: Mapping[str, Any]) -> None:
    """Call :func:`use_cache_if_unreachable` with what a composed configuration loads."""
    data = config["data"]
    use_cache_if_unreachable(str(config["backbone"]["path"]), str(data["source"]), data["path"])


def hub_answers() -> bool:
    """Return true if the Hub takes a connection within 2 s, or a proxy is set; offline mode is false."""
    if "HF_HUB_OFFLINE" in os.environ:
        return os.environ["HF_HUB_OFFLINE"].upper() not in ("1", "ON", "YES", "TRUE")
    return server_answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))


def server_answers(address: str) -> bool:
    """Return true if a server takes a connection within 2 s, or a proxy is set: then the first request will tell."""
    if any(name in os.environ for name in _PROXIES):
        return True
    url = urlsplit(address)
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((url.hostname or address, port), timeout=2).close()
    except OSError:
        return False
    return True


def looks_like_hub_id(name: str) -> bool:
    """Return true if a name can be a repository on the Hub: ``owner/name``, not a path."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None
