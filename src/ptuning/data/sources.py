"""Data sources of GLUE's tasks: the Hub, a folder, or the synthetic grammar. Each returns plain tables."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptuning.data.columns import Columns
from ptuning.data.hub_datasets import datasets_library
from ptuning.data.labels import read_glue, refuse_other_labels
from ptuning.data.readers import open_file, read_file, refuse_address
from ptuning.data.rows import Dialect
from ptuning.data.synthetic import generate
from ptuning.data.table import Table
from ptuning.errors import DataError, nearest
from ptuning.tasks.glue import TASKS, Task

GLUE = "nyu-mll/glue"
"""The dataset of the Hub that ``data=hub`` reads."""

_OTHER_WAYS = (
    "Without a network, two ways on: data=local data.dir=FOLDER with GLUE's files, or data=synthetic, whose scores "
    "measure no task. A backbone that needs none: backbone=minilm."
)


class DataSource(ABC):
    """Base class of data sources: the splits of one task, read on demand."""

    task: Task

    @property
    @abstractmethod
    def place(self) -> str:
        """The source's name in a record: ``hub``, ``local``, ``synthetic`` or ``files``."""

    @abstractmethod
    def read(self, split: str) -> Table:
        """Return the split called ``train``, or one of ``task.validation`` or ``task.test``.

        Raises
        ------
        DataError
            If it cannot be had, or has rows that the task does not allow.
        """

    @abstractmethod
    def identity(self) -> str:
        """Return the data's identity, equal for equal data: a digest of its files, or its name and seed."""

    def predictions_of(self, split: str) -> str:
        """Return the file name for predictions of a split, without its ending."""
        return split

    def about(self) -> dict[str, str]:
        """Return a summary of the data to show before training, by heading."""
        return {}


@dataclass(frozen=True)
class SyntheticSource(DataSource):
    """GLUE look-alikes made by the grammar of :mod:`ptuning.data.synthetic`."""

    place = "synthetic"
    task: Task
    sizes: dict[str, int]
    seed: int = 0

    def read(self, split: str) -> Table:
        """Return the generated split; its size is that of ``train``, ``validation`` or ``test``."""
        size = self.sizes[next(kind for kind in ("train", "validation", "test") if split.startswith(kind))]
        return generate(self.task, split, size, self.seed)

    def identity(self) -> str:
        """Return task, sizes and seed, with the word synthetic in front."""
        return f"synthetic {self.task.name} {sorted(self.sizes.items())} seed {self.seed}"


@dataclass(frozen=True)
class HubSource(DataSource):
    """``nyu-mll/glue`` through ``datasets``, with its cache; or a local folder laid out like a Hub dataset."""

    place = "hub"
    task: Task
    path: str = GLUE
    revision: str | None = None

    def read(self, split: str) -> Table:
        """Return one split of the dataset; ``HF_HUB_OFFLINE=1`` reads the cache alone."""
        failed = f"{self.path} ({self.task.name}, {split}) could not be had"
        with datasets_library(failed, f"{self.path} has a split without rows.", f" {_OTHER_WAYS}") as datasets:
            data = datasets.load_dataset(self.path, self.task.name, split=split, revision=self.revision)
        return _from_dataset(data, self.task, split, f"{self.path} {self.task.name}/{split}")

    def identity(self) -> str:
        """Return the dataset's id and revision."""
        return f"{self.path}@{self.revision or 'main'} {self.task.name}"


@dataclass(frozen=True)
class LocalSource(DataSource):
    """A folder: the benchmark's own download, or what ``datasets`` saves (``save_to_disk``, Parquet)."""

    place = "local"
    task: Task
    folder: Path

    def read(self, split: str) -> Table:
        """Return one split, from whichever layout the folder has."""
        files = self._files(split)
        if files[0].suffix == ".tsv":
            return _read_tsv(files[0], self.task, split)
        from pyarrow import parquet

        with datasets_library(f"{files[0]} could not be read", f"{files[0]} has no rows.") as datasets:
            if files[0].suffix == ".parquet":
                # Not Dataset.from_parquet, which copies every file into the cache of `datasets`.
                data: Any = datasets.Dataset(parquet.read_table(files, partitioning=None))
            else:
                data = datasets.load_from_disk(str(files[0].parent))
        return _from_dataset(data, self.task, split, str(files[0]))

    def identity(self) -> str:
        """Return a digest of the training and dev files' bytes, or of the test file if there are none."""
        digest = hashlib.sha256()
        for split in ("train", *self.task.validation) if self.task.trains else self.task.test:
            for file in self._files(split):
                folder = [file] if file.suffix != ".json" else sorted(file.parent.glob("*.arrow"))
                for part in folder:
                    with open_file(part) as stream:
                        digest.update(f"{split} {part.suffix}\n".encode())
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
        return f"sha256:{digest.hexdigest()}"

    def _files(self, split: str) -> list[Path]:
        try:
            return self._find_files(split)
        except PermissionError as error:
            raise DataError(f"{error.filename} may not be read.") from None

    def _find_files(self, split: str) -> list[Path]:
        if not self.folder.is_dir():
            refuse_address(str(self.folder))
            raise DataError(f"There is no folder {self.folder}. Set data.dir to the folder that holds GLUE's files.")
        stem = {**self.task.validation, **self.task.test, "train": "train"}[split]
        homes = [
            child
            for child in sorted(self.folder.iterdir())
            if child.is_dir() and child.name.lower() in {self.task.folder.lower(), self.task.name}
        ]
        for home in (*homes, self.folder):
            if home is self.folder:
                self._refuse_other_folder()
            tsv = home / f"{stem}.tsv"
            if tsv.is_file():
                return [tsv]
            saved = home / split / "dataset_info.json"
            if saved.is_file():
                return [saved]
            for base in (home, home / "data"):
                if parquet := sorted((*base.glob(f"{split}.parquet"), *base.glob(f"{split}-*.parquet"))):
                    return parquet
        where = homes[0] if homes else self.folder / self.task.folder
        raise DataError(
            f"{self.folder} has no {split} split of {self.task.name}: neither {where / stem}.tsv (the benchmark's "
            f"download) nor {split}/ or {split}*.parquet (saved by datasets)."
        )

    def _refuse_other_folder(self) -> None:
        """Raise :class:`DataError` for another task's folder, whose files may have the same columns."""
        if not self.task.trains:  # AX's one file may lie in any folder
            return
        folders = [Path(os.path.abspath(self.folder)), self.folder.resolve()]
        for name in (folder.name.lower() for folder in folders):
            if name in (self.task.name, self.task.folder.lower()):
                return
            for other in TASKS.values():
                if name in (other.name, other.folder.lower()):
                    raise DataError(
                        f"{self.folder} is {other.name}'s folder by its name, and has none of {self.task.name} in it: "
                        f"task={other.name}, or data.dir=FOLDER with {self.task.folder} in it."
                    )


def _read_tsv(file: Path, task: Task, split: str) -> Table:
    """Return one file of the benchmark's download as a table."""
    labelled = split not in task.test
    wanted = (*task.file_text, *((task.file_label,) if labelled else ()))
    columns: dict[str, list[str]] = {name: [] for name in (*task.text, *((task.label,) if labelled else ()))}
    numbers: list[int] = []
    for row in read_file(file, benchmark_dialect(task)):
        try:
            cells = [row.values[column] for column in wanted]
        except KeyError as error:
            names = row.head.names if row.head else ()
            if error.args[0] not in names:
                raise DataError(
                    f"{file} has no column '{error.args[0]}'.{nearest(error.args[0], names)} Its first line names: "
                    f"{', '.join(names)}.{_whose(names, task)}"
                ) from None
            if task.skips_damaged_rows:
                continue
            raise DataError(f"{file}, line {row.number} has only {len(row.values)} of {len(names)} fields.") from None
        numbers.append(row.number)
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    if not numbers:
        raise DataError(f"{file} has no rows.")
    return read_glue(Columns(columns, str(file), numbers, "line"), task, labelled)


def benchmark_dialect(task: Task) -> Dialect:
    """Return the dialect of the TSV files of a task's download."""
    return Dialect("tsv", verbatim=True, names=task.header, labels=task.labels)


def file_dialect(task: Task, written: str) -> Dialect:
    """Return the dialect of any file for a task: GLUE's keep white space, and their TSV is the benchmark's."""
    if written == "lines":
        return Dialect(written, names=task.text)
    if task.is_custom:
        return Dialect(written)
    return benchmark_dialect(task) if written == "tsv" else Dialect(written, verbatim=True)


def _whose(names: Iterable[str], task: Task) -> str:
    """Return a sentence on other tasks with such columns, or an empty string."""
    there = set(names)
    others = [
        other.name
        for other in TASKS.values()
        if other.trains
        and other != task
        and ({*other.file_text, other.file_label} <= there or {*other.text, other.label} <= there)
    ]
    return f" {', '.join(others)} has such columns: task={others[0]}." if others else ""


def _from_dataset(data: Any, task: Task, split: str, origin: str) -> Table:
    labelled = split not in task.test
    wanted = (*task.text, *((task.label,) if labelled else ()))
    for column in wanted:
        if column not in data.column_names:
            raise DataError(
                f"{origin} has no column '{column}'.{nearest(column, data.column_names)} "
                f"It has: {', '.join(data.column_names)}.{_whose(data.column_names, task)}"
            )
    if labelled:
        refuse_other_labels(getattr(data.features[task.label], "names", None), task, origin)
    if not len(data):
        raise DataError(f"{origin} has no rows.")
    return read_glue(Columns({column: data[column][:] for column in wanted}, origin), task, labelled)
