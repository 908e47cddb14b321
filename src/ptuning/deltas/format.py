"""The two files of a delta: the trained values in ``delta.safetensors``, their description in ``delta.json``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ptuning.backbones.source import BackboneRef
from ptuning.deltas.description import DESCRIPTION, MEND, WEIGHTS, DeltaDescription, read_description, write_description
from ptuning.errors import RunError, shorten
from ptuning.selection.parameters import split_head
from ptuning.system.files import write_whole
from ptuning.system.json_files import DamagedError, parse_json
from ptuning.tasks.glue import Task
from ptuning.tasks.metrics import fitting_metrics

VALUES, INDICES = ":values", ":indices"
"""Endings of the two tensors that stand for a parameter of which only a subset was trained."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
"""Type in the header of ``delta.safetensors`` → bytes of a number; values are floats, indices are integers."""
_LARGEST_HEADER = 16 * 2**20


class Shape(NamedTuple):
    """Type and sizes of a tensor in ``delta.safetensors``."""

    dtype: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Delta:
    """A delta whose values have not been read yet.

    Attributes
    ----------
    folder
        Where its two files lie.
    description
        The content of ``delta.json``.
    shapes
        Tensor name → type and sizes, from the header of ``delta.safetensors``.
    """

    folder: Path
    description: DeltaDescription
    shapes: Mapping[str, Shape]

    def read(self) -> dict[str, Tensor]:
        """Return the tensors by their names in the file.

        Raises
        ------
        RunError
            If a value is no finite number.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.folder / WEIGHTS
        try:
            values = load(path.read_bytes())
        except SafetensorError as error:
            raise RunError(f"{path} is damaged ({error}). {MEND}") from None
        for name, value in values.items():
            if not torch.isfinite(value).all():
                raise RunError(f"{path} has values that are no finite numbers (NaN or infinite), in '{name}'. {MEND}")
        return values


def save_delta(
    folder: Path,
    values: Mapping[str, Tensor],
    description: Mapping[str, Any],
    indices: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the two files of a delta, each of them whole.

    Parameters
    ----------
    folder
        Where they go.
    values
        Parameter name → trained values: the whole parameter, or [trained] for one with ``indices``.
    description
        The backbone (``path``, ``revision``, ``config``, ``hash``), the task, the selection and the score. A digest of
        the values is added, so that a pair torn apart by a crash is noticed, and one of the description itself.
    indices
        Parameter name → indices of the trained weights in the flattened parameter, [trained] of int64. The file holds
        such a parameter ``p`` as ``p:values`` and ``p:indices``.
    """
    from safetensors.torch import save

    indices = indices or {}
    tensors = {f"{name}{VALUES}" if name in indices else name: value for name, value in values.items()}
    tensors |= {f"{name}{INDICES}": index for name, index in indices.items()}
    content = save(tensors, metadata={"format": "pt"})
    write_whole(folder / WEIGHTS, content)
    write_description(folder, {"format": 1, "sha256": sha256(content).hexdigest(), **description})


def open_delta(folder: Path) -> Delta:
    """Return a delta by its description and its header, after comparing these with the file's size and digest.

    Raises
    ------
    RunError
        If the folder holds none, or a broken one.
    """
    description, path = read_description(folder), folder / WEIGHTS
    task = description.as_task()
    if unfit := [name for name in task.metrics if name not in fitting_metrics(task.labels)]:
        raise RunError(f"{folder} has the metric {shorten(repr(unfit[0]))}, which does not fit its task. {MEND}")
    try:
        shapes = _read_header(path)
        with path.open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise RunError(f"{folder} holds no finished run: it has no {WEIGHTS}.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except DamagedError as error:
        raise RunError(f"{path} is damaged ({error}). {MEND}") from None
    if digest != description.sha256:
        raise RunError(f"{path} and {DESCRIPTION} do not belong together: run it again with force=true.")
    return Delta(folder, description, shapes)


def read_delta(folder: Path) -> tuple[dict[str, Tensor], DeltaDescription]:
    """Return (tensors, description) of a delta; the tensors go by their names in the file.

    Raises
    ------
    RunError
        If the folder holds none, or a broken one.
    """
    delta = open_delta(folder)
    return delta.read(), delta.description


def check_fit(delta: Delta, model: nn.Module, task: Task, name: str) -> None:
    """Raise :class:`RunError` unless a delta has values of a model's parameters, in their shapes, and a whole head.

    Nothing of the size that a file claims is allocated before.

    Parameters
    ----------
    delta
        The delta.
    model
        The Hugging Face model; its last layer may be that of another task.
    task
        The task of the delta, which says how many outputs its head has.
    name
        What to call the delta in messages.
    """
    wanted = {parameter: tuple(p.shape) for parameter, p in model.named_parameters()}
    head = list(split_head(model)[0])
    last = head[-1].rpartition(".")[0] if head else ""
    outputs = {one: (task.num_outputs, *wanted[one][1:]) for one in head if one.startswith(f"{last}.")}
    wanted |= outputs
    shapes = delta.shapes
    if missing := [parameter for parameter in head if parameter not in shapes]:
        raise RunError(f"{name} has no head: there is no '{missing[0]}' in its {WEIGHTS}. {MEND}")
    floats = {shape.dtype for key, shape in shapes.items() if not key.endswith(INDICES)}
    if len(floats) > 1 or not all(one[0] != "I" for one in floats):
        raise RunError(f"{name} has values of the types {', '.join(sorted(floats))}, not of one float type. {MEND}")
    for parameter in sorted({key.removesuffix(VALUES).removesuffix(INDICES) for key in shapes}):
        if parameter in outputs and parameter in shapes and shapes[parameter].sizes != outputs[parameter]:
            raise RunError(
                f"{name} has a head of {(shapes[parameter].sizes or (0,))[0]} outputs, but its task {task.name} has "
                f"{task.num_outputs}. {MEND}"
            )
        if parameter not in wanted or not _has_shape(parameter, shapes, wanted[parameter]):
            raise RunError(f"{name} has a value for '{parameter[:80]}' that this model does not have in this shape.")


def find_damage(folder: Path) -> str:
    """Return why a delta's two files are not whole and a pair, in words; empty if they are."""
    try:
        open_delta(folder)
    except RunError as error:
        said = str(error).removeprefix(f"{folder} holds no finished run: ").removesuffix(f". {MEND}")
        return said.removesuffix(": run it again with force=true.").removesuffix(".")
    return ""


def value_type(shapes: Mapping[str, Shape]) -> torch.dtype:
    """Return the dtype of a run's weights: fp32, unless it was trained with ``bf16-true`` or ``64-true``."""
    found = {shape.dtype for shape in shapes.values()} & set(_FLOATS)
    return _FLOATS[found.pop()] if len(found) == 1 else torch.float32


_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def parameter_names(tensors: Iterable[str]) -> set[str]:
    """Return the names of the parameters that a delta has values for, whole ones and subsets."""
    return {key.removesuffix(VALUES) for key in tensors if not key.endswith(INDICES)}


def count_values(values: Mapping[str, Tensor], names: Iterable[str]) -> int:
    """Return the number of weights that a delta has for the named parameters."""
    return sum(values[name if name in values else f"{name}{VALUES}"].numel() for name in names)


def whole_values(values: Mapping[str, Tensor], pristine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameter name → whole value; a subset is written into a copy of the pretrained value.

    Raises
    ------
    RunError
        If the indices of a subset are not in order or beyond the parameter.
    """
    whole: dict[str, Tensor] = {}
    for name in parameter_names(values):
        if name in values:
            whole[name] = values[name]
            continue
        indices, subset = values[f"{name}{INDICES}"].to(torch.int64), values[f"{name}{VALUES}"]
        value = pristine[name].detach().clone()
        if len(indices) and not (indices[0] >= 0 and indices[-1] < value.numel() and (indices.diff() > 0).all()):
            raise RunError(f"The indices of '{name}' in the delta are not those of weights in order. {MEND}")
        value.view(-1).index_copy_(0, indices.to(value.device), subset.to(value))
        whole[name] = value
    return whole


def apply_delta(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write the values of a delta into a model that they fit (:func:`check_fit`), in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in whole_values(values, parameters).items():
            parameters[name].copy_(value)


def describe_backbone(ref: BackboneRef, path: str, digest: str) -> dict[str, Any]:
    """Return the entry ``backbone`` of a description: where to find the backbone, and its hash to recognize it.

    A folder typed as ``models/bert`` is told apart from a Hub id, also where there is no such folder.
    """
    if ref.folder and path == ref.location and not path.startswith(("/", ".", "~")):
        path = f"./{path}"
    return {"path": path, "revision": ref.revision, "config": dict(ref.config), "hash": digest}


def _read_header(path: Path) -> dict[str, Shape]:
    """Return tensor name → type and sizes, after comparing them with the size of the file.

    Raises
    ------
    DamagedError
        If the file is no safetensors file, or has more or less bytes than its header says.
    OSError
        If it cannot be read.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise DamagedError("no regular file")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise DamagedError("its header does not end where it says")
        header = parse_json(stream.read(length))
    header.pop("__metadata__", None)
    shapes, spans = {}, []
    for name, tensor in header.items():
        try:
            dtype, sizes, (begin, end) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
            whole = all(type(one) is int and one >= 0 for one in (*sizes, begin, end))
            if not whole or end - begin != prod(sizes) * _BYTES[dtype]:
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise DamagedError(f"its header says nothing that can be of '{name[:80]}'") from None
        shapes[name] = Shape(dtype, sizes)
        spans.append((begin, end))
    place = 0
    for begin, end in sorted(spans):
        place = end if begin == place else -1
    if place != size - 8 - length:
        raise DamagedError(f"it has {size:,} bytes, and its header describes others")
    return shapes


def _has_shape(name: str, shapes: Mapping[str, Shape], wanted: tuple[int, ...]) -> bool:
    """Return true if a delta has a parameter whole, or as so many values and indices as fit into it."""
    values, indices = shapes.get(f"{name}{VALUES}"), shapes.get(f"{name}{INDICES}")
    if name in shapes:
        return shapes[name].sizes == wanted and values is None and indices is None
    if values is None or indices is None or len(values.sizes) != 1:
        return False
    return indices.dtype[0] == "I" and values.sizes == indices.sizes and values.sizes[0] <= prod(wanted)
