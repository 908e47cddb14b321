"""Checks of a model folder before loading: its files are there, whole, and of the format in their names."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ptuning.errors import BackboneError
from ptuning.system import json_files

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where transformers looks for weights, in its order."""
_INDEX = ".index.json"
_ADAPTER = "adapter_config.json"
"""PEFT's file. transformers applies the adapter beside it to whatever it loads from the folder, and says nothing."""

_LONGEST_HEADER = 100_000_000
"""Bytes of the format's own limit: more are another file's first bytes."""

_NO_FLOAT = re.compile("[IU](8|16|32|64)|F4|F[68]_.*")
"""Types of safetensors that hold quantised weights: numbers that mean something with their scales alone."""

_LFS, _SIZE = b"version https://git-lfs", "size "
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def check_folder(folder: Path) -> None:
    """Raise :class:`BackboneError` if configuration or weights are missing, cut short, or of another format.

    So it does for an adapter in the place of a model or beside it, and for quantised weights. The weights themselves
    are not read: of a safetensors file its header, of others the first bytes and the last.

    Raises
    ------
    BackboneError
        With the file and what is wrong with it.
    """
    try:
        if (folder / _ADAPTER).is_file():
            _refuse_adapter(folder)
        if not (folder / CONFIG).is_file():
            raise BackboneError(f"{folder} holds no {CONFIG}: backbone.path wants a Hugging Face model folder.")
        _check_config(folder)
        weights = weights_file(folder)
        check_content(weights)
        for file in _shards(weights) if weights.name.endswith(_INDEX) else [weights]:
            check_content(file)
            if file.suffix == ".safetensors":
                _check_safetensors(file)
            else:
                _check_torch(file)
    except OSError as error:
        raise BackboneError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _refuse_adapter(folder: Path) -> NoReturn:
    if any((folder / name).is_file() for name in _WEIGHTS):
        raise BackboneError(
            f"{folder} holds a PEFT adapter beside a model's weights, and transformers would apply it to them. If it "
            f"is merged into them, take {_ADAPTER} and the adapter's weights out of the folder; if not, merge it "
            "first: merge_and_unload()."
        )
    raise BackboneError(
        f"{folder} holds a PEFT adapter ({_ADAPTER}) and no whole model. Merge it and save the model in a folder of "
        "its own: merge_and_unload().save_pretrained(FOLDER), and its tokenizer."
    )


def weights_file(folder: Path) -> Path:
    """Return the file with the weights of a model folder, or the index of its shards.

    Raises
    ------
    BackboneError
        If there is none.
    """
    typed = read_json(folder / CONFIG).get("transformers_weights")
    names = (str(typed),) if typed else _WEIGHTS
    files = [folder / name for name in names]
    if found := next((file for file in files if file.is_file()), None):
        return found
    for file in files:
        if file.is_dir():
            raise BackboneError(f"{file} is a folder and not a file with weights. Put the file itself there.")
        if file.is_symlink():
            raise BackboneError(f"{file} is a link to {file.readlink()}, which is not there. Fetch the file again.")
    there = sorted(file.name for file in folder.iterdir() if file.is_file())
    raise BackboneError(
        f"{folder} holds no weights: there is neither {' nor '.join(names[::2])}, only {', '.join(there[:8])}. "
        "Save the model with save_pretrained, or fetch the file."
    )


def check_content(file: Path) -> None:
    """Raise :class:`BackboneError` for an empty file, a Git LFS pointer or a web page, left by a failed download."""
    with file.open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise BackboneError(f"{file} is empty. Fetch it again.")
    if start.startswith(_LFS):
        lines = start.decode(errors="replace").splitlines()
        size = next((line.removeprefix(_SIZE) for line in lines if line.startswith(_SIZE)), "")
        what = f"a file of {int(size):,} bytes" if size.isdecimal() else "the file"
        raise BackboneError(
            f"{file} is a Git LFS pointer to {what}, not the file itself. Fetch it: git lfs pull, in its repository."
        )
    if start.lstrip().lower().startswith(_PAGES):
        raise BackboneError(
            f"{file} is a web page and not a file of a model. Fetch the file itself, from its download link."
        )


def read_json(file: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file.

    Raises
    ------
    BackboneError
        If it holds something else.
    """
    try:
        return json_files.read_json(file)
    except json_files.DamagedError as error:
        raise BackboneError(f"{file} is damaged: {error}. Fetch it again.") from None


def _check_config(folder: Path) -> None:
    check_content(folder / CONFIG)
    model_type = read_json(folder / CONFIG).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        given = "no model_type" if model_type is None else f"model_type={json.dumps(model_type)}"
        raise BackboneError(
            f"{folder / CONFIG} says {given}, and without one nobody knows the model. Add its family: "
            '"model_type": "bert", for example.'
        )


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names, after checking that they are there."""
    content = read_json(index)
    shards = content.get("weight_map")
    if not isinstance(shards, dict) or not shards or not isinstance(content.get("metadata"), dict):
        raise BackboneError(f"{index} is no index of weights: it wants a weight_map and metadata. Fetch it again.")
    files = [index.parent / name for name in sorted({str(name) for name in shards.values()})]
    if gone := [file.name for file in files if not file.is_file()]:
        raise BackboneError(
            f"{len(gone)} of the {len(files)} files that {index} names are not there, e.g. {gone[0]}. Fetch them too."
        )
    return files


def _check_safetensors(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        starts_so = stream.read(1) == b"{"
        if starts_so and size - 8 < length < _LONGEST_HEADER:
            _ends_early(file, size, 8 + length)
        if length > min(size - 8, _LONGEST_HEADER):
            _no_safetensors(file)
        stream.seek(8)
        header = stream.read(length)
    try:
        tensors = {name: tensor for name, tensor in json_files.parse_json(header).items() if name != "__metadata__"}
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
    except (ValueError, LookupError, TypeError, OverflowError):
        _no_safetensors(file)
    if size < end:
        _ends_early(file, size, end)
    quantised = [name for name, tensor in tensors.items() if _is_quantised(name, tensor)]
    if quantised:
        raise BackboneError(
            f"{file} holds quantised weights: {len(quantised)} tensors of type {tensors[quantised[0]]['dtype']}, e.g. "
            f"'{quantised[0]}'. ptuning trains floating-point weights: take the model before it was quantised."
        )
    if size > end:
        raise BackboneError(f"{file} is broken: it has {size:,} bytes and its header says {end:,}. Fetch it again.")


def _is_quantised(name: str, tensor: Mapping[str, Any]) -> bool:
    """Return True for a weight or a bias that is no plain float; GPT-2's masks, called ``attn.bias``, are of bytes."""
    shape = tensor.get("shape")
    is_bias = name.endswith(".bias") and isinstance(shape, list) and len(shape) == 1
    is_weight = name.endswith(".weight") or is_bias
    return is_weight and _NO_FLOAT.fullmatch(str(tensor.get("dtype"))) is not None


def _check_torch(file: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(2)
    if start == b"PK":
        if not zipfile.is_zipfile(file):
            _ends_early(file, file.stat().st_size)
    elif not start.startswith(b"\x80"):  # torch.save before 1.6 wrote a bare pickle
        raise BackboneError(f"{file} is not a file that torch.save wrote. Fetch it again.")


def _ends_early(file: Path, size: int, whole: int | None = None) -> NoReturn:
    told = f"it has {size:,} bytes" if whole is None else f"it has {size:,} of at least {whole:,} bytes"
    raise BackboneError(f"{file} ends early: {told}. Fetch it again.")


def _no_safetensors(file: Path) -> NoReturn:
    raise BackboneError(f"{file} is not a safetensors file, whatever its name says. Fetch it again.")
