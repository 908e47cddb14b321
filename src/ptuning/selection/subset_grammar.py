"""``subset=``: its grammar, its one spelling, and how many weights it takes. Knows no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from ptuning.errors import SelectionError, nearest, shorten

SCOPES = ("tensor", "selection")

_RANKED = ("top", "bottom", "random", "fisher")
_KINDS = ("all", *_RANKED, "outlier", "dims", "not")
_GRAMMAR = (
    "all, top:N, bottom:N, random:N, fisher:N, the same with a share (top:1%), outlier:3, as many as those "
    "(random:outlier:3), dims:308+381, or all weights but these (not:top:1%)"
)
_NUMBER = r"(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})"


@dataclass(frozen=True)
class Subset:
    """The trainable weights inside the selected tensors, as an expression.

    Attributes
    ----------
    kind
        ``all``; ``top`` or ``bottom`` by magnitude of the pretrained value; ``random``; ``fisher``, the largest
        diagonal Fisher information; ``outlier``, far from the mean of their tensor; ``dims``, at dimensions of the
        hidden states.
    amount
        A number of weights, a percentage of them, or for ``outlier`` standard deviations.
    is_share
        True if ``amount`` is a percentage.
    scope
        ``tensor`` if ``amount`` counts in each tensor, ``selection`` if it counts across all of them. For outliers,
        ``dims`` and ``all`` it is always ``tensor``.
    dimensions
        Of ``dims``: numbers from 0, sorted.
    deviations
        Of a ranked kind that takes as many weights of each tensor as ``outlier`` does: its standard deviations.
    is_complement
        True for ``not:…``: all weights of the selected tensors but these.
    """

    kind: str = "all"
    amount: Decimal = Decimal(0)
    is_share: bool = False
    scope: str = "tensor"
    dimensions: tuple[int, ...] = ()
    deviations: Decimal | None = None
    is_complement: bool = False

    def __str__(self) -> str:
        """Return the canonical spelling, used in folder names and tables: ``top:1%`` for ``top:01.0%``."""
        if self.is_complement:
            return f"not:{self.without}"
        if self.kind == "all":
            return "all"
        if self.kind == "dims":
            return f"dims:{'+'.join(map(str, self.dimensions))}"
        if self.deviations is not None:
            return f"{self.kind}:outlier:{plain(self.deviations)}"
        return f"{self.kind}:{plain(self.amount)}{'%' if self.is_share else ''}"

    @property
    def without(self) -> "Subset":
        """What a complement leaves out: ``top:1%`` of ``not:top:1%``."""
        return replace(self, is_complement=False)

    @property
    def told(self) -> str:
        """The beginning of a sentence on it: ``subset=top:1%``; of a complement ``subset=not:top:1%: top:1%``."""
        return f"subset={self}{f': {self.without}' if self.is_complement else ''}"

    @property
    def is_ranked(self) -> bool:
        """True if weights are ranked and a number of the first ones taken, so that the scope matters."""
        return self.kind in _RANKED and self.deviations is None


def parse_subset(text: str, scope: str = "tensor") -> Subset:
    """Return the :class:`Subset` of ``subset=text subset_scope=scope``.

    >>> parse_subset("not:top:1%").without == parse_subset("top:01.0%")
    True

    Raises
    ------
    SelectionError
        If the expression is not of the grammar, or its number is out of range.
    """
    shown = shorten(text)
    text, is_complement = text.removeprefix("not:"), text.startswith("not:")
    kind, colon, number = text.partition(":")
    if scope not in SCOPES:
        raise SelectionError(
            f"subset_scope={shorten(scope)} is not known.{nearest(scope, SCOPES)} Allowed: {', '.join(SCOPES)}."
        )
    if kind not in _KINDS or (kind == "all" and colon):
        raise SelectionError(f"subset={shown} is not a subset.{nearest(kind, _KINDS)} Allowed: {_GRAMMAR}.")
    if kind == "not" or (kind == "all" and is_complement):
        raise SelectionError(f"subset={shown}: not: takes one subset that leaves weights, e.g. not:top:1%.")
    if kind == "all":
        return Subset()
    if kind == "dims":
        if not re.fullmatch(r"\d{1,9}(\+\d{1,9})*", number, flags=re.ASCII):
            raise SelectionError(f"subset={shown} needs dimensions of the hidden states from 0, e.g. dims:308+381.")
        dimensions = tuple(sorted({int(one) for one in number.split("+")}))
        return Subset(kind, dimensions=dimensions, is_complement=is_complement)
    like, outlier, number = number.rpartition("outlier:") if kind in _RANKED else ("", "", number)
    match = re.fullmatch(f"({_NUMBER})(%?)", number) if not like else None
    if not match:
        example = "3" if kind == "outlier" else "100 or 1%"
        raise SelectionError(f"subset={shown} needs a number after {kind}:, e.g. {example}. Allowed: {_GRAMMAR}.")
    amount, is_share = Decimal(match[1]), match[2] == "%"
    if kind == "outlier" or outlier:
        if is_share or amount == 0:
            raise SelectionError(
                f"subset={shown}: outlier takes a number of standard deviations above 0, e.g. outlier:3."
            )
        if outlier:
            return Subset(kind, deviations=amount, is_complement=is_complement)
        return Subset(kind, amount, is_complement=is_complement)
    if is_share and not 0 < amount <= 100:
        raise SelectionError(f"subset={shown}: a share lies above 0% and up to 100%, e.g. {kind}:1%.")
    if not is_share and (amount < 1 or amount != int(amount)):
        share = f", or a share: {kind}:{plain(100 * amount)}%" if 0 < amount < 1 else f", or a share: {kind}:1%"
        raise SelectionError(f"subset={shown} counts weights: a whole number from 1, e.g. {kind}:100{share}.")
    return Subset(kind, amount, is_share, scope, is_complement=is_complement)


def count_weights(subset: Subset, sizes: Mapping[str, int]) -> dict[str, int] | int:
    """Return the number of weights that are ranked first: per tensor, or in all if the scope is the selection.

    For a complement these are the weights that it leaves out.

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
        If there are fewer weights than asked for, a share of them is none, or a complement leaves none.
    """
    if subset.scope == "selection":
        total = sum(sizes.values())
        count = _count(subset, total)
        if count > total:
            raise SelectionError(
                f"{subset.told} asks for {count:,} weights, but the selection has {total:,}: at most "
                f"{subset.kind}:{total}, or a share ({subset.kind}:10%)."
            )
        if count == 0:
            raise SelectionError(f"{subset.told} of {total:,} weights is none: {_least(subset, total)}.")
        if subset.is_complement and count == total:
            raise SelectionError(f"{subset.told} is every weight of the selection, and none is left.")
        return count
    counts = {name: _count(subset, size) for name, size in sizes.items()}
    smallest = min(sizes, key=sizes.__getitem__)
    if counts[smallest] > sizes[smallest]:
        raise SelectionError(
            f"{subset.told} asks for {counts[smallest]:,} weights of each tensor, but {smallest} has "
            f"{sizes[smallest]:,}: at most {subset.kind}:{sizes[smallest]}, or a share ({subset.kind}:10%), or "
            "subset_scope=selection."
        )
    if not any(counts.values()):
        largest = max(sizes.values())
        raise SelectionError(
            f"{subset.told} is no weight of any tensor, the largest having {largest:,}: {_least(subset, largest)}, "
            "or subset_scope=selection."
        )
    if subset.is_complement and counts == dict(sizes):
        raise SelectionError(f"{subset.told} is every weight of the selection, and none is left.")
    return counts


def _count(subset: Subset, size: int) -> int:
    if not subset.is_share:
        return int(subset.amount)
    return int(Fraction(subset.amount) * size / 100 + Fraction(1, 2))


def _least(subset: Subset, size: int) -> str:
    return f"at least {subset.kind}:1, or {subset.kind}:{plain(Decimal(f'{100 / size:.2g}'))}%"


def plain(number: Decimal) -> str:
    """Return a number without an exponent or zeros at its end."""
    return f"{number.normalize():f}"
