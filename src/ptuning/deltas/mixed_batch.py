"""One forward pass over rows of several deltas."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning.errors import RunError
from ptuning.selection.parameters import locate_parameters

Values = Mapping[str, Tensor]
"""Parameter name → value, of a whole model."""


class Mixture:
    """Context in which a model computes each row of a batch with the row's own delta.

    LayerNorms and biases are element-wise: rows get their values by indexing, ``y = norm(x) * w[row] + b[row]``. Linear
    layers of the head, whose matrices differ too, are applied to the rows of each delta in turn.

    Parameters
    ----------
    model
        The Hugging Face model.
    values
        Per delta, the values of all parameters of the model.
    which
        [rows], the delta of each row.
    differing
        Names of the parameters that differ between deltas.
    """

    def __init__(self, model: nn.Module, values: Sequence[Values], which: Tensor, differing: set[str]) -> None:
        self._forwards: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
        for name, module in model.named_modules():
            own = [key for key, _ in module.named_parameters(recurse=False) if f"{name}.{key}" in differing]
            if not own:
                continue
            parts = [
                {key: one[f"{name}.{key}"] for key in module._parameters if f"{name}.{key}" in one} for one in values
            ]
            if isinstance(module, nn.LayerNorm):
                forward = _layernorm(module, _per_row(parts, which))
            elif own == ["bias"]:
                forward = _linear_bias(module, _per_row([{"bias": part["bias"]} for part in parts], which))
            else:
                forward = _linear_by_groups(parts, which)
            self._forwards.append((module, _with_all_rows(name, len(which), forward)))

    def __enter__(self) -> None:
        for module, forward in self._forwards:
            module.__dict__["forward"] = forward

    def __exit__(self, *_: object) -> None:
        for module, _forward in self._forwards:
            del module.__dict__["forward"]


def check_mixable(model: nn.Module, delta: str, names: Mapping[str, Any], head: set[str]) -> None:
    """Raise :class:`RunError` if a delta has values that rows of one batch cannot differ in."""
    modules = dict(model.named_modules())
    located = locate_parameters(model)
    for name in names:
        owner, _, key = name.rpartition(".")
        module = modules[owner]
        shared_by_rows = name in located and located[name].module in ("relative_positions", "convolution")
        layernorm = isinstance(module, nn.LayerNorm) and not shared_by_rows
        bias = isinstance(module, nn.Linear) and key == "bias" and not shared_by_rows
        in_head = name in head and isinstance(module, nn.Linear | nn.LayerNorm)
        if not (layernorm or bias or in_head):
            raise RunError(
                f"The delta '{delta}' has '{name}', which all rows of a batch share: only LayerNorms and biases of "
                "linear layers can differ by row, and no RMSNorms and Conv1D layers, which some decoders have. "
                f'Answer its rows apart: stack.use("{delta}").'
            )


def _per_row(parts: Sequence[Values], which: Tensor) -> dict[str, Tensor]:
    """Return key → [rows, features]."""
    return {key: torch.stack([part[key] for part in parts])[which] for key in parts[0]}


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Return [rows, features] as [rows, 1, …, features], to meet x [rows, …, features]."""
    return values.view(len(values), *[1] * (x.dim() - 2), values.shape[-1])


def _layernorm(module: nn.LayerNorm, rows: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y = functional.layer_norm(x, module.normalized_shape, eps=module.eps)
        y = y * _spread(rows["weight"], x) if "weight" in rows else y
        return y + _spread(rows["bias"], x) if "bias" in rows else y

    return forward


def _linear_bias(module: nn.Module, rows: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return functional.linear(x, module.weight) + _spread(rows["bias"], x)  # type: ignore[arg-type]

    return forward


def _linear_by_groups(parts: Sequence[Values], which: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a forward that applies each delta's matrix to its rows; narrower outputs are padded with zeros."""
    width = max(len(part["weight"]) for part in parts)

    def forward(x: Tensor) -> Tensor:
        y = x.new_zeros(*x.shape[:-1], width)
        for number, part in enumerate(parts):
            rows = which == number
            y[rows, ..., : len(part["weight"])] = functional.linear(x[rows], part["weight"], part.get("bias"))
        return y

    return forward


def _with_all_rows(name: str, rows: int, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return ``forward`` with a check: inputs without a row each are refused (DeBERTa's relative positions)."""

    def checked(x: Tensor) -> Tensor:
        if len(x) != rows:
            raise RunError(
                f"This model applies '{name}' to something that all rows of a batch share, so rows cannot differ in "
                "it. Answer the rows of each delta apart: stack.use(…)."
            )
        return forward(x)

    return checked
