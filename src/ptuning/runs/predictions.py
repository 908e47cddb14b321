"""Predictions that a run keeps: Parquet files with checksums in them and a digest beside them. Knows no torch."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptuning.errors import first_line
from ptuning.system.digests import is_damaged, write_sealed
from ptuning.system.json_files import DamagedError, read_regular

_LARGEST = 8 * 2**30
"""Bytes of the largest file that is read: QQP's test set has 4 MB."""


@dataclass(frozen=True)
class KeptPredictions:
    """Predictions on one split, in the file's order.

    Attributes
    ----------
    index
        Numbers of the rows in the data, [rows].
    labels
        Labels, where they are known, [rows].
    logits
        [rows, outputs], fp32.
    """

    index: NDArray[np.int64]
    labels: NDArray[Any] | None
    logits: NDArray[np.float32]


_TEXTS = b"texts"
"""Key of the digest of the texts that were answered, in a file's own metadata."""


def keep_predictions(
    path: Path, index: ArrayLike, labels: ArrayLike | None, logits: ArrayLike, texts: str | None = None
) -> None:
    """Write predictions as Parquet: ``index``, ``label`` (where known), ``logits`` (a list per row, fp32).

    ``texts`` is a digest of what was answered, for :func:`texts_answered`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"index": pa.array(np.asarray(index))}
    if labels is not None:
        columns["label"] = pa.array(np.asarray(labels))
    columns["logits"] = pa.array(np.asarray(logits).tolist(), type=pa.list_(pa.float32()))
    buffer = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata({_TEXTS: texts.encode()} if texts else None)
    pq.write_table(table, buffer, write_page_checksum=True)
    write_sealed(path, buffer.getbuffer())


def texts_answered(path: Path) -> str | None:
    """Return the digest of the texts that kept predictions answer, or ``None`` if the file does not say.

    Raises
    ------
    DamagedError
        If the file is not what was written.
    OSError
        If it is not there or may not be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _content(path)
    try:
        said = (pq.read_schema(pa.BufferReader(content)).metadata or {}).get(_TEXTS)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(first_line(error)) from error
    return said.decode(errors="replace") if said else None


def _content(path: Path) -> bytes:
    content = read_regular(path, _LARGEST)
    if is_damaged(path):
        raise DamagedError("not what was written: its digest is another")
    return content


def read_predictions(path: Path) -> KeptPredictions:
    """Return the predictions in a file.

    Raises
    ------
    DamagedError
        If it is not what was written: its digest, a page's checksum or its columns do not fit. A file without a digest
        was written by an earlier version.
    OSError
        If it is not there or may not be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _content(path)
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        index, lists = table["index"].to_numpy(), table["logits"].combine_chunks()
        labels = table["label"].to_numpy() if "label" in table.column_names else None
        logits = lists.flatten().to_numpy().reshape(len(index), -1)
        widths = set(lists.value_lengths().to_pylist())
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError, MemoryError) as error:
        raise DamagedError(first_line(error)) from error
    if len(widths) != 1 or index.dtype.kind != "i" or logits.dtype.kind != "f":
        raise DamagedError("other columns than predictions have")
    if not np.isfinite(logits).all():
        raise DamagedError("its logits are no finite numbers")
    return KeptPredictions(index, labels, logits)
