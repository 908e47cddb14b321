"""Types of options that commands share."""

from pathlib import Path

from ptuning.errors import ConfigError


def path(text: str) -> Path:
    """Return a file or folder as typed, for argparse: ``~`` is a home too where no shell reads it, as in ``--out=~/x``.

    Raises
    ------
    ConfigError
        If it begins with a user who has no home here.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text} begins with a user who has no home here. Type the whole path.") from None
