"""Pure functions from tensors to the indices of the weights that a subset chooses."""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from hashlib import sha256

import torch
from torch import Tensor

from ptuning.errors import SelectionError
from ptuning.selection.subset_grammar import SCOPES, Subset, count_weights, parse_subset, plain

__all__ = ["SCOPES", "Subset", "check_subset", "choose_weights", "count_weights", "outliers", "parse_subset"]


def check_subset(subset: Subset, values: Mapping[str, Tensor], axes: Mapping[str, int]) -> None:
    """Refuse what shapes alone show to be impossible; the arguments are those of :func:`choose_weights`.

    Raises
    ------
    SelectionError
        If more weights are asked for than there are, none are left, or a dimension is not to be had.
    """
    if subset.is_ranked:
        count_weights(subset, {name: value.numel() for name, value in values.items()})
    if subset.kind == "dims":
        _check_dimensions(subset, values, axes)


def choose_weights(
    subset: Subset,
    values: Mapping[str, Tensor],
    seed: int = 1,
    scores: Mapping[str, Tensor] | None = None,
    axes: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Return tensor name → indices of the weights in a subset.

    Of equal weights the one that comes first is taken, so the answer is the same everywhere.

    Parameters
    ----------
    subset
        Any but ``all``.
    values
        Name → pretrained values of the selected tensors, of any shape, in the model's order.
    seed
        Of ``random``. Each tensor draws from a generator of its own, seeded by this and its name, so that its draw
        does not depend on what else is selected; a larger ``random`` subset of a tensor contains the smaller ones.
    scores
        Name → Fisher information, in the shape of the values; only for ``fisher``.
    axes
        Name → axis of the hidden states' dimensions (:func:`ptuning.selection.dimensions.hidden_axes`); only for
        ``dims``.

    Returns
    -------
    dict
        Name → sorted indices in the flattened tensor (int64), for tensors with a chosen weight.

    Raises
    ------
    SelectionError
        If the subset asks for more weights than there are, contains none, or has to rank what is no finite number.
    """
    check_subset(subset, values, axes or {})
    if subset.kind == "dims":
        found = {name: _at(subset.dimensions, values[name].shape, axis) for name, axis in (axes or {}).items()}
    else:
        flat = {name: value.detach().reshape(-1) for name, value in values.items()}
        found = _outliers(subset, flat) if not subset.is_ranked else {}
        if subset.kind != "outlier":
            found = _ranked(subset, flat, seed, scores or {}, {name: len(found.get(name, ())) for name in flat})
    if subset.is_complement:
        found = {name: _others(found.get(name), value.numel()) for name, value in values.items()}
        if not any(len(indices) for indices in found.values()):
            raise SelectionError(f"{subset.told} is every weight of the selection, and none is left.")
    return {name: found[name] for name in values if len(found.get(name, ()))}


def _ranked(
    subset: Subset, flat: Mapping[str, Tensor], seed: int, scores: Mapping[str, Tensor], outliers: Mapping[str, int]
) -> dict[str, Tensor]:
    counts = count_weights(subset, {name: len(value) for name, value in flat.items()}) if subset.is_ranked else outliers
    ranks = {name: _rank(subset.kind, name, value, seed, scores) for name, value in flat.items()}
    _refuse_nan(subset, ranks, "Fisher information" if subset.kind == "fisher" else "weights")
    if not isinstance(counts, int):
        return {name: _largest(rank, counts[name]) for name, rank in ranks.items()}
    chosen = _largest(torch.cat(list(ranks.values())), counts)
    return dict(zip(ranks, _split_indices(chosen, [len(rank) for rank in ranks.values()]), strict=True))


def _check_dimensions(subset: Subset, values: Mapping[str, Tensor], axes: Mapping[str, int]) -> None:
    if not axes:
        raise SelectionError(
            f"subset={subset}: no selected tensor has the dimensions of the hidden states. LayerNorms and dense layers "
            "do: module=layernorm, module=output."
        )
    size = min(values[name].shape[axis] for name, axis in axes.items())
    if subset.dimensions[-1] >= size:
        raise SelectionError(
            f"subset={subset} names dimension {subset.dimensions[-1]}, but hidden states have {size:,} dimensions: 0 "
            f"to {size - 1}."
        )


def _at(dimensions: Sequence[int], shape: Sequence[int], axis: int) -> Tensor:
    """Return the sorted indices, in the flattened tensor, of what lies at these places along an axis."""
    places = torch.arange(math.prod(shape)).reshape(tuple(shape))
    return places.index_select(axis, torch.tensor(dimensions)).reshape(-1).sort().values


def _others(indices: Tensor | None, count: int) -> Tensor:
    """Return the sorted indices below ``count`` that are not among ``indices``."""
    left = torch.ones(count, dtype=torch.bool)
    if indices is not None:
        left[indices] = False
    return torch.nonzero(left)[:, 0]


def _refuse_nan(subset: Subset, ranked: Mapping[str, Tensor], what: str) -> None:
    """Raise :class:`SelectionError` for values that have no order, among which too few would be chosen."""
    for name, values in ranked.items():
        if number := int((~torch.isfinite(values)).sum()):
            raise SelectionError(
                f"subset={subset} cannot rank '{name}': {number:,} of its {what} are no finite numbers (NaN or "
                "infinite). Take a backbone whose weights are finite, or subset=random:1%."
            )


def outliers(values: Tensor, deviations: float) -> Tensor:
    """Return the indices (sorted, int64) of the values further than so many standard deviations from their mean.

    Mean and (population) standard deviation are taken over the whole tensor, in double precision.
    """
    distance = _distance(values.detach().reshape(-1))
    return torch.nonzero(distance > deviations)[:, 0]


def _outliers(subset: Subset, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    _refuse_nan(subset, flat, "weights")
    found = {name: outliers(value, float(subset.deviations or subset.amount)) for name, value in flat.items()}
    if not any(len(indices) for indices in found.values()):
        furthest = max(float(_distance(value).max()) for value in flat.values())
        raise SelectionError(
            f"{subset.told} is no weight: the furthest lies {furthest:.2f} standard deviations from its tensor's "
            f"mean. A smaller number finds some: outlier:{plain(Decimal(f'{0.9 * furthest:.1g}'))}."
            if furthest > 0
            else f"{subset.told} is no weight: each selected tensor holds one value throughout. Try subset=random:1%."
        )
    return found


def _distance(flat: Tensor) -> Tensor:
    """Return |w - mean| in standard deviations, [weights]; 0 where all are equal."""
    away = (flat.double() - flat.double().mean()).abs()
    deviation = away.square().mean().sqrt()
    return away / deviation if deviation > 0 else torch.zeros_like(away)


def _rank(kind: str, name: str, flat: Tensor, seed: int, scores: Mapping[str, Tensor]) -> Tensor:
    """Return the rank of a tensor's weights, [weights]; the largest comes first."""
    if kind == "fisher":
        return scores[name].reshape(-1)
    if kind == "random":
        digest = sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return torch.randint(2**31 - 1, (len(flat),), generator=generator, dtype=torch.int32)
    return flat.abs() if kind == "top" else -flat.abs()


def _largest(ranks: Tensor, count: int) -> Tensor:
    """Return the sorted indices of the ``count`` largest; of equal ones, the first."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    least = ranks.kthvalue(len(ranks) - count + 1).values
    above = torch.nonzero(ranks > least)[:, 0]
    equal = torch.nonzero(ranks == least)[: count - len(above), 0]
    return torch.cat([above, equal]).sort().values


def _split_indices(indices: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return sorted indices into concatenated tensors as indices into each."""
    ends = torch.tensor(sizes).cumsum(0)
    cuts = torch.searchsorted(indices, ends[:-1]).tolist()
    starts = [0, *ends[:-1].tolist()]
    return [part - start for part, start in zip(torch.tensor_split(indices, cuts), starts, strict=True)]
