"""Tokens of a split: a flat table, made once per text, tokenizer and length, and kept on disk for later runs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ptuning.data.table import Table
from ptuning.system.cached_files import read_cached, write_cached

Batch = dict[str, Tensor]
"""``input_ids``, ``token_type_ids``, ``attention_mask`` [batch, seq]; ``labels``, ``index`` [batch]; all padded to
the longest of the batch."""


@dataclass(frozen=True)
class TokenTable(Dataset[Batch]):
    """A split as token ids, without padding: row ``i`` is ``input_ids[offsets[i]:offsets[i + 1]]``.

    Indexing with a list of rows gives the padded batch of these rows.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    offsets: Tensor
    labels: Tensor | None
    pad_token_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens per row, [rows]."""
        return self.offsets[1:] - self.offsets[:-1]

    def take(self, rows: Tensor) -> "TokenTable":
        """Return a table of the given rows, [rows] of int64; ``index`` of its batches counts within it."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = torch.cat([torch.zeros(1, dtype=lengths.dtype), lengths.cumsum(0)])
        indices = torch.arange(int(offsets[-1])) + torch.repeat_interleave(starts - offsets[:-1], lengths)
        labels = None if self.labels is None else self.labels[rows]
        return TokenTable(self.input_ids[indices], self.token_type_ids[indices], offsets, labels, self.pad_token_id)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        starts, lengths = self.offsets[index], self.lengths[index]
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        indices = torch.where(mask, starts[:, None] + steps, 0)
        batch = {
            "input_ids": torch.where(mask, self.input_ids[indices].long(), self.pad_token_id),
            "token_type_ids": torch.where(mask, self.token_type_ids[indices].long(), 0),
            "attention_mask": mask.long(),
            "index": index,
        }
        if self.labels is not None:
            batch["labels"] = self.labels[index]
        return batch


_TOKEN_BYTES, _OFFSET_BYTES, _HEADER_BYTES = 5, 8, 1 << 20
"""What a token, a row and the header take in a file."""


def tokenize(table: Table, tokenizer: Any, max_length: int, cache: Path | None) -> TokenTable:
    """Return the tokens of a split, from ``cache`` if it has this text under this tokenizer.

    Parameters
    ----------
    table
        Texts of one or two columns; two become one sequence, as the tokenizer joins pairs.
    tokenizer
        A fast Hugging Face tokenizer.
    max_length
        Tokens kept per row, special ones included; the longer text of a pair is cut first.
    cache
        A folder, or ``None`` to keep nothing. A folder that cannot be written is ignored.
    """
    from safetensors.torch import load, save

    labels = None
    if table.labels is not None:
        kind = torch.float32 if table.labels and isinstance(table.labels[0], float) else torch.int64
        labels = torch.tensor(table.labels, dtype=kind)
    file = cache / f"{_key(table, tokenizer, max_length)}.tokens" if cache else None
    largest = (len(table) + 1) * (max_length * _TOKEN_BYTES + _OFFSET_BYTES) + _HEADER_BYTES
    if file and (kept := read_cached(file, largest)) is not None:
        columns = load(kept)
    else:
        columns = _encode(table, tokenizer, max_length)
        if file:
            write_cached(file, save(columns))
    return TokenTable(**columns, labels=labels, pad_token_id=tokenizer.pad_token_id or 0)


def _encode(table: Table, tokenizer: Any, max_length: int) -> dict[str, Tensor]:
    encoded = tokenizer(
        *(list(column) for column in table.texts),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=True,
    )
    lengths = torch.tensor([0, *map(len, encoded["input_ids"])])
    return {
        "input_ids": torch.tensor([i for row in encoded["input_ids"] for i in row], dtype=torch.int32),
        "token_type_ids": torch.tensor([i for row in encoded["token_type_ids"] for i in row], dtype=torch.uint8),
        "offsets": lengths.cumsum(0),
    }


def _key(table: Table, tokenizer: Any, max_length: int) -> str:
    digest = hashlib.sha256(f"3 {max_length} {tokenizer.truncation_side} ".encode())
    # The backend remembers how it cut and padded last, so a tokenizer that was used would not equal a fresh one.
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    digest.update(json.dumps(rules).encode())
    for column in table.texts:
        digest.update(json.dumps(list(column)).encode())
    return digest.hexdigest()[:32]
