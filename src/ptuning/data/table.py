"""One split of a task as plain columns, as every data source returns it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Texts and labels of one split, in the source's own order.

    Attributes
    ----------
    texts
        One list of strings per text column of the task (one or two), all of equal length.
    labels
        Class ids (``int``) or scores (``float``), or ``None`` if the split has none.
    origin
        The origin of the rows, for messages: a file, a Hub dataset, "synthetic rte, seed 0".
    """

    texts: tuple[Sequence[str], ...]
    labels: Sequence[int] | Sequence[float] | None
    origin: str

    def __len__(self) -> int:
        return len(self.texts[0])
