"""Sentences for what the operating system refuses, with the mend."""

import errno
import os
from pathlib import Path

_SENTENCES = {
    errno.ENOSPC: (
        "The disk is full ({place}). Make room, or put runs elsewhere (runs_dir=FOLDER), and type the same command "
        "again: it goes on from the last checkpoint."
    ),
    errno.EROFS: "{place} lies on a file system that is read-only. {mend}",
    errno.ENOTDIR: "{place} cannot be there: what should be a folder above it is a file. {mend}",
    errno.EEXIST: "{place} cannot be made: something else has that name. {mend}",
    errno.EISDIR: "{place} is a folder where a file is wanted.",
    errno.ELOOP: "{place} leads through links that go in a circle. {mend}",
    errno.ENAMETOOLONG: "{place} is too long: {length}. {mend}",
    errno.EMFILE: "Too many files are open ({place}). `ulimit -n` says how many may be; fewer workers open fewer.",
}
_SENTENCES[errno.EDQUOT] = _SENTENCES[errno.ENOSPC]

_ELSEWHERE = "Name another place; of runs that is runs_dir=FOLDER."

_CACHES = {
    "HF_HOME": ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "~/.cache/huggingface"),
    "PTUNING_CACHE": ("PTUNING_CACHE", "~/.cache/ptuning"),
    "WANDB_CACHE_DIR": ("WANDB_CACHE_DIR", "~/.cache/wandb"),
    "WANDB_DATA_DIR": ("WANDB_DATA_DIR", "~/.local/share/wandb"),
    "XDG_CACHE_HOME": ("XDG_CACHE_HOME", "~/.cache"),
}
"""Variable that puts a cache elsewhere → variables and folders that say where it is now."""


def explain_os_error(error: BaseException) -> str | None:
    """Return the sentence for what a file system refuses, or ``None`` for any other error."""
    if isinstance(error, ValueError) and "null byte" in str(error):
        return "A path holds the character NUL, which no file's name can. Look at runs_dir and the files of data."
    if not isinstance(error, OSError):
        return None
    if isinstance(error, PermissionError):
        return _explain_permission(error)
    sentence = _SENTENCES.get(error.errno or 0)
    if sentence is None:
        return None
    name = _name(error)
    return sentence.format(place=_shown(name), mend=_mend(name), length=_length(name))


def _explain_permission(error: PermissionError) -> str:
    name = _name(error)
    if name is None:  # raised by a package, which says the rest itself
        return f"{str(error).rstrip('.')}."
    if Path(name).is_file() and not os.access(name, os.R_OK):
        return f"{_shown(name)} may not be read."
    return f"{_shown(name)} may not be written. {_mend(name)}"


def _name(error: OSError) -> str | None:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None


def _mend(name: str | None) -> str:
    path = os.path.abspath(name or "")
    for variable, places in _CACHES.items():
        for place in places:
            root = os.path.expanduser(place) if place.startswith("~") else os.environ.get(place)
            if root and f"{path}/".startswith(f"{os.path.abspath(root)}/"):
                return f"Name another folder in the environment: {variable}=FOLDER."
    return _ELSEWHERE


def _length(name: str | None) -> str:
    path = os.fsencode(name or "")
    longest = max(len(part) for part in path.split(b"/"))
    if longest > 255:
        return f"the name of a file or folder has {longest:,} bytes, and 255 fit"
    return f"{len(path):,} bytes in all"


def _shown(name: str | None) -> str:
    """Return a path for a sentence, cut in the middle if it is very long."""
    if name is None:
        return "while writing the run folder"
    return name if len(name) <= 160 else f"{name[:80]}…{name[-60:]}"
