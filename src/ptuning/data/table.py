"""One split of a task as plain columns, as every data source returns it."""

import hashlib
import json
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

    @property
    def text_digest(self) -> str:
        """SHA-256 of the texts."""
        return hashlib.sha256(json.dumps([self.texts], ensure_ascii=False).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.texts[0])
