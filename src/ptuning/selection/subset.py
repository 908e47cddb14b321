"""``subset=``: its grammar, and pure functions from tensors to the indices of the chosen weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256

import torch
from torch import Tensor

from ptuning.errors import SelectionError, nearest, shorten

SCOPES = ("tensor", "selection")

_RANKED = ("top", "bottom", "random", "fisher")
_KINDS = ("all", *_RANKED, "outlier")
_GRAMMAR = "all, top:N, bottom:N, random:N, fisher:N, the same with a share (top:1%), or outlier:3"
_NUMBER = r"(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})"


@dataclass(frozen=True)
class Subset:
    """The trainable weights inside the selected tensors, as an expression.

    Attributes
    ----------
    kind
        ``all``; ``top`` or ``bottom`` by magnitude of the pretrained value; ``random``; ``fisher``, the largest
        diagonal Fisher information; ``outlier``, far from the mean of their tensor.
    amount
        A number of weights, a percentage of them, or for ``outlier`` standard deviations.
    is_share
        True if ``amount`` is a percentage.
    scope
        ``tensor`` if ``amount`` counts in each tensor, ``selection`` if it counts across all of them. For outliers
        and ``all`` it is always ``tensor``.
    """

    kind: str = "all"
    amount: Decimal = Decimal(0)
    is_share: bool = False
    scope: str = "tensor"

    def __str__(self) -> str:
        """Return the canonical spelling, used in folder names and tables: ``top:1%`` for ``top:01.0%``."""
        if self.kind == "all":
            return "all"
        return f"{self.kind}:{_plain(self.amount)}{'%' if self.is_share else ''}"

    @property
    def is_ranked(self) -> bool:
        """True if weights are ranked and the first ones taken, so that the scope matters."""
        return self.kind in _RANKED


def parse_subset(text: str, scope: str = "tensor") -> Subset:
    """Return the :class:`Subset` of ``subset=text subset_scope=scope``.

    >>> parse_subset("top:1%")
    Subset(kind='top', amount=Decimal('1'), is_share=True, scope='tensor')

    Raises
    ------
    SelectionError
        If the expression is not of the grammar, or its number is out of range.
    """
    shown = shorten(text)
    kind, colon, number = text.partition(":")
    if scope not in SCOPES:
        raise SelectionError(
            f"subset_scope={shorten(scope)} is not known.{nearest(scope, SCOPES)} Allowed: {', '.join(SCOPES)}."
        )
    if kind not in _KINDS or (kind == "all" and colon):
        raise SelectionError(f"subset={shown} is not a subset.{nearest(kind, _KINDS)} Allowed: {_GRAMMAR}.")
    if kind == "all":
        return Subset()
    match = re.fullmatch(f"({_NUMBER})(%?)", number)
    if not match:
        example = "3" if kind == "outlier" else "100 or 1%"
        raise SelectionError(f"subset={shown} needs a number after {kind}:, e.g. {example}. Allowed: {_GRAMMAR}.")
    amount, is_share = Decimal(match[1]), match[2] == "%"
    if kind == "outlier":
        if is_share or amount == 0:
            raise SelectionError(
                f"subset={shown}: outlier takes a number of standard deviations above 0, e.g. outlier:3."
            )
        return Subset(kind, amount)
    if is_share and not 0 < amount <= 100:
        raise SelectionError(f"subset={shown}: a share lies above 0% and up to 100%, e.g. {kind}:1%.")
    if not is_share and (amount < 1 or amount != int(amount)):
        share = f", or a share: {kind}:{_plain(100 * amount)}%" if 0 < amount < 1 else f", or a share: {kind}:1%"
        raise SelectionError(f"subset={shown} counts weights: a whole number from 1, e.g. {kind}:100{share}.")
    return Subset(kind, amount, is_share, scope)


def count_weights(subset: Subset, sizes: Mapping[str, int]) -> dict[str, int] | int:
    """Return the number of weights in a ranked subset: per tensor, or in all if the scope is the selection.

    Shares are rounded to the nearest whole number, halves up.

    Parameters
    ----------
    subset
        Of a kind that ranks.
    sizes
        Name → number of weights of the selected tensors.

    Raises
    ------
    SelectionError
        If there are fewer weights than asked for, or a share of them is none.
    """
    if subset.scope == "selection":
        total = sum(sizes.values())
        count = _count(subset, total)
        if count > total:
            raise SelectionError(
                f"subset={subset} asks for {count:,} weights, but the selection has {total:,}: at most "
                f"{subset.kind}:{total}, or a share ({subset.kind}:10%)."
            )
        if count == 0:
            raise SelectionError(f"subset={subset} of {total:,} weights is none: {_least(subset, total)}.")
        return count
    counts = {name: _count(subset, size) for name, size in sizes.items()}
    smallest = min(sizes, key=sizes.__getitem__)
    if counts[smallest] > sizes[smallest]:
        raise SelectionError(
            f"subset={subset} asks for {counts[smallest]:,} weights of each tensor, but {smallest} has "
            f"{sizes[smallest]:,}: at most {subset.kind}:{sizes[smallest]}, or a share ({subset.kind}:10%), or "
            "subset_scope=selection."
        )
    if not any(counts.values()):
        largest = max(sizes.values())
        raise SelectionError(
            f"subset={subset} is no weight of any tensor, the largest having {largest:,}: {_least(subset, largest)}, "
            "or subset_scope=selection."
        )
    return counts


def choose_weights(
    subset: Subset, values: Mapping[str, Tensor], seed: int = 1, scores: Mapping[str, Tensor] | None = None
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

    Returns
    -------
    dict
        Name → sorted indices in the flattened tensor (int64), for tensors with a chosen weight.

    Raises
    ------
    SelectionError
        If the subset asks for more weights than there are, contains none, or has to rank what is no finite number.
    """
    flat = {name: value.detach().reshape(-1) for name, value in values.items()}
    if not subset.is_ranked:
        _refuse_nan(subset, flat, "weights")
        return _outliers(subset, flat)
    counts = count_weights(subset, {name: len(value) for name, value in flat.items()})
    ranks = {name: _rank(subset.kind, name, value, seed, scores or {}) for name, value in flat.items()}
    _refuse_nan(subset, ranks, "Fisher information" if subset.kind == "fisher" else "weights")
    if isinstance(counts, dict):
        found = {name: _largest(rank, counts[name]) for name, rank in ranks.items()}
    else:
        chosen = _largest(torch.cat(list(ranks.values())), counts)
        found = dict(zip(ranks, _split_indices(chosen, [len(rank) for rank in ranks.values()]), strict=True))
    return {name: indices for name, indices in found.items() if len(indices)}


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
    found = {name: outliers(value, float(subset.amount)) for name, value in flat.items()}
    if not any(len(indices) for indices in found.values()):
        furthest = max(float(_distance(value).max()) for value in flat.values())
        raise SelectionError(
            f"subset={subset} is no weight: the furthest lies {furthest:.2f} standard deviations from its tensor's "
            f"mean. A smaller number finds some: outlier:{_plain(Decimal(f'{0.9 * furthest:.1g}'))}."
            if furthest > 0
            else f"subset={subset} is no weight: each selected tensor holds one value throughout. Try subset=random:1%."
        )
    return {name: indices for name, indices in found.items() if len(indices)}


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


def _count(subset: Subset, size: int) -> int:
    if not subset.is_share:
        return int(subset.amount)
    return int(Fraction(subset.amount) * size / 100 + Fraction(1, 2))


def _least(subset: Subset, size: int) -> str:
    return f"at least {subset.kind}:1, or {subset.kind}:{_plain(Decimal(f'{100 / size:.2g}'))}%"


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"
