"""W&B's settings on this machine: its mode, by wish, key and network, and folders that can be written."""

import netrc
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from ptuning.errors import ConfigError, nearest
from ptuning.system.hub import server_answers

MODES = ("auto", "online", "offline", "disabled")
_OLD_NAMES = {"dryrun": "offline", "run": "online"}
_SERVER = "https://api.wandb.ai"


def asked_mode(typed: str) -> str:
    """Return one of ``MODES``: the environment's ``WANDB_MODE``, else what was typed as ``logger.wandb.mode``.

    Raises
    ------
    ConfigError
        For a mode that does not exist.
    """
    given = os.environ.get("WANDB_MODE") or typed
    mode = _OLD_NAMES.get(given.lower(), given.lower())
    if mode not in MODES:
        raise ConfigError(f"{_as_given(given)} is not known.{nearest(mode, MODES)} Allowed: {', '.join(MODES)}.")
    return mode


def choose_mode(typed: str) -> tuple[str, str | None]:
    """Return (``online``, ``offline`` or ``disabled``; why offline, if nobody asked for that).

    Parameters
    ----------
    typed
        ``logger.wandb.mode``. The environment's ``WANDB_MODE`` goes first.

    Raises
    ------
    ConfigError
        For a mode that does not exist, for ``online`` where there is no key, and for an odd ``WANDB_BASE_URL``.
    """
    mode = asked_mode(typed)
    if mode == "disabled":
        return mode, None
    host = _host()
    if mode == "online" and not _has_key(host):
        given = _as_given(os.environ.get("WANDB_MODE") or typed)
        raise ConfigError(
            f"{given}, but there is no W&B key: `wandb login` sets one. Leave {given} out, and the run is kept offline."
        )
    if mode != "auto":
        return mode, None
    reason = why_offline()
    return ("offline" if reason else "online"), reason


def _as_given(mode: str) -> str:
    return f"WANDB_MODE={mode}" if os.environ.get("WANDB_MODE") else f"logger.wandb.mode={mode}"


def why_offline() -> str | None:
    """Return why W&B cannot be reached from here (no key, no network), or ``None`` if it can. Takes 2 s at most."""
    host = _host()
    if not _has_key(host):
        return "no W&B key (wandb login sets one)"
    return None if server_answers(_address()) else f"{host} does not answer"


def writable_folders(instead: Path) -> Mapping[str, str]:
    """Return environment variables that replace W&B's unwritable folders: its cache, its staged artifacts.

    W&B would lose the artifact of a finished run, and write its log to the screen.

    Parameters
    ----------
    instead
        The folder to use instead. The answer is empty if W&B's own can be written.
    """
    from wandb import env

    own = {"WANDB_DATA_DIR": Path(env.get_data_dir()), "WANDB_CACHE_DIR": Path(env.get_cache_dir())}
    return {name: str(instead.absolute()) for name, folder in own.items() if not _is_writable(folder)}


def agent_run_id() -> str | None:
    """Return the id that W&B's agent gave to the run of this process, or ``None`` if no agent started it.

    W&B takes it, and the sweep's project, whatever the logger's settings say.
    """
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # RuntimeError: no home at all
        return False


def _address() -> str:
    return os.environ.get("WANDB_BASE_URL") or _SERVER


def _host() -> str:
    with suppress(ValueError):  # brackets that do not fit, a port that is none
        url = urlsplit(_address())
        if url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0):
            return url.hostname
    raise ConfigError(f"WANDB_BASE_URL={_address()} is no address of a server, such as {_SERVER}.")


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc"))
    try:
        return netrc.netrc(str(file.expanduser())).authenticators(host) is not None
    except (OSError, RuntimeError, ValueError, netrc.NetrcParseError):  # none, or one that W&B could not read either
        return False
