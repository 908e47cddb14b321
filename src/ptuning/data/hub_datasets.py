"""Datasets of the Hub, and folders that the library ``datasets`` wrote."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ptuning.data.columns import Columns
from ptuning.errors import ConfigError, DataError, UserError, first_line


@contextmanager
def datasets_library(failed: str, no_rows: str, mend: str = "") -> Iterator[Any]:
    """Yield the module ``datasets`` without progress bars; its errors become :class:`DataError`.

    Parameters
    ----------
    failed
        What to say of a dataset that cannot be had; the library's reason follows, then ``mend``.
    no_rows
        What to say of a split that was saved without rows.
    mend
        What to do, after a space.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        yield datasets
    except IndexError as error:  # how datasets 5.2 meets a split that was saved without rows
        raise DataError(no_rows) from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of any kind, if what it reads is damaged
        raise DataError(f"{failed}: {first_line(error)}.{mend}") from error


def folder_stamp(path: str) -> tuple[Any, ...]:
    """Return the place of a folder, and size and time of change of its files; nothing for a dataset of the Hub."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return ()
    stats = {str(file): file.stat() for file in sorted(folder.rglob("*")) if file.is_file()}
    return (str(folder.resolve()), *((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()))


def load_splits(path: str, config: str | None, revision: str | None) -> Any:
    """Return a dataset's splits by name; a split that ``save_to_disk`` wrote alone is ``train``."""
    return _load_splits(path, config, revision, folder_stamp(path))


@lru_cache(maxsize=2)
def _load_splits(path: str, config: str | None, revision: str | None, stamp: tuple[Any, ...]) -> Any:
    folder = Path(path).expanduser()
    if folder.is_file():
        raise ConfigError(f"data.path={path} is a file: data.train={path}. data.path takes a dataset or a folder.")
    if re.match("https?://", path):
        raise ConfigError(f"data.path={path} is an address; it takes a dataset's name, owner/name, or a folder.")
    failed = f"The dataset {path}{f' ({config})' if config else ''} could not be had"
    mend = (
        " data.path takes a dataset of the Hub or a folder, data.config one of its configurations; files need no "
        "network: data.train=FILE."
    )
    with datasets_library(failed, f"{path} has a split without rows.", mend) as datasets:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(folder))
            return found if isinstance(found, datasets.DatasetDict) else {"train": found}
        return datasets.load_dataset(str(folder) if folder.is_dir() else path, config, revision=revision)


def dataset_columns(data: Any, origin: str) -> Columns:
    """Return a split as columns; features that hold more than one value per row are left out."""
    import datasets

    plain = {n: f for n, f in data.features.items() if isinstance(f, datasets.Value | datasets.ClassLabel)}
    if not len(data):
        raise DataError(f"{origin} has no rows.")
    classes = {name: list(feature.names) for name, feature in plain.items() if isinstance(feature, datasets.ClassLabel)}
    others = {name: str(feature) for name, feature in data.features.items() if name not in plain}
    return Columns({name: data[name][:] for name in plain}, origin, classes=classes, others=others)
