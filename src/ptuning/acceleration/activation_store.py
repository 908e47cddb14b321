"""Hidden states of whole splits, without padding: in memory up to a budget, and in files that processes share."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ptuning.errors import Interrupted, RunError
from ptuning.system.cached_files import DIGEST_SIZE, digest_of
from ptuning.system.signals import stop

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What hidden states may be kept in, by the names of the configuration."""

Chunks = Iterator[tuple[int, Tensor]]
"""Tensors [tokens, hidden], each with the number of the token that it begins at."""


@dataclass(frozen=True)
class Request:
    """Hidden states that a run asks for.

    Attributes
    ----------
    key
        What they depend on, as a digest: the same key stands for the same states.
    shape
        (tokens, hidden).
    dtype
        What they are kept in.
    compute
        Yields them, in any order, where nobody has them yet.
    """

    key: str
    shape: tuple[int, int]
    dtype: torch.dtype
    compute: Callable[[], Chunks]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class PaddedActivations:
    """The hidden states of a split: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``, [tokens, hidden].

    Indexing with rows gives [rows, longest, hidden] in fp32, padded with zeros.
    """

    values: Tensor
    offsets: Tensor

    def __getitem__(self, rows: Tensor) -> Tensor:
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        padded = torch.zeros(*mask.shape, self.values.shape[1])
        padded[mask] = self.values[(starts[:, None] + steps)[mask]].float()
        return padded


class ActivationStore:
    """Hands out hidden states that this process holds, or a file has; what nobody has is computed and kept.

    A file is written by one process, whole, while others that want the same wait for it. Where files cannot be written,
    memory alone has to do.

    Parameters
    ----------
    folder
        Where the files lie. They may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, Tensor] = {}
        self._sound: set[tuple[Path, int]] = set()  # files that were written or checked here, with their inodes

    def get(
        self, requests: Sequence[Request], memory: int, disk: int, tell: Callable[[str], None] = lambda _: None
    ) -> list[Tensor]:
        """Return the states that a run wants, [tokens, hidden] each.

        Parameters
        ----------
        requests
            In the order in which memory is given.
        memory
            Bytes that this process may hold; what is beyond is mapped from its file.
        disk
            Bytes that the folder may hold; the files that were not used for longest go first.
        tell
            Called with a sentence where files cannot be written and memory has to do.

        Raises
        ------
        RunError
            If the states fit neither in memory nor on disk.
        Interrupted
            If the process is asked to stop.
        """
        room, in_memory = memory, set()
        for one in requests:
            if one.size <= room:
                in_memory.add(one.key)
                room -= one.size
        keys = {one.key for one in requests}
        others = [key for key in self._held if key not in keys]
        while others and sum(self._held[key].nbytes for key in others) > room:
            del self._held[others.pop(0)]
        return [self._get(one, one.key in in_memory, disk, tell) for one in requests]

    def find(self, key: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
        """Return states if this process or a file has them."""
        if key in self._held:
            return self._held[key]
        path = self._path(key)
        if not path.is_file():
            return None
        with suppress(OSError):
            with self._locked(path):
                found = _open(path, shape, dtype)
            return self._checked(path, *found) if found else None
        return None

    def _get(self, request: Request, in_memory: bool, disk: int, tell: Callable[[str], None]) -> Tensor:
        values = self._held.pop(request.key, None)
        if values is None:
            try:
                values = self._from_file(request, disk, tell)
                if in_memory:
                    values = values.clone()
            except OSError as error:
                what = f"{self.folder} cannot take {request.size / 1e6:,.1f} MB of hidden states ({error.strerror})"
                if not in_memory:
                    raise RunError(
                        f"{what}. Make room, name another folder with PTUNING_CACHE, allow more with "
                        "frozen_prefix_disk_mb or frozen_prefix_memory_mb, or compute them each time: "
                        "frozen_prefix=live."
                    ) from error
                tell(f"The frozen prefix is kept in memory alone: {what}.")
                values = torch.empty(request.shape, dtype=request.dtype)
                for start, chunk in request.compute():
                    values[start : start + len(chunk)] = chunk
        if in_memory:
            self._held[request.key] = values
        return values

    def _from_file(self, request: Request, disk: int, tell: Callable[[str], None]) -> Tensor:
        """Return the file's content, mapped; the file is written first where there is none, or a damaged one."""
        path = self._path(request.key)
        while True:
            with self._locked(path):
                found = _open(path, request.shape, request.dtype)
                if found is None:
                    self._make_room(request.size, disk)
                    _write(path, request)
                    self._sound.add((path, path.stat().st_ino))
                    found = _open(path, request.shape, request.dtype)
                    assert found is not None
                os.utime(path)  # the time of its last use
            if (values := self._checked(path, *found)) is not None:
                return values
            tell(f"{path} was damaged: its hidden states are computed again.")

    def _checked(self, path: Path, stream: BinaryIO, values: Tensor) -> Tensor | None:
        """Return mapped states if their file has its digest, which is looked at once in a process; else delete it."""
        with stream:
            inode = os.fstat(stream.fileno()).st_ino
            if (path, inode) not in self._sound:
                if digest_of(stream, path, values.nbytes) != stream.read():
                    with self._locked(path):
                        if path.is_file() and path.stat().st_ino == inode:  # and no other process's new one
                            path.unlink()
                    return None
                self._sound.add((path, inode))
        return values

    def _make_room(self, size: int, disk: int) -> None:
        """Delete what was not used for longest, and what killed writers left, until ``size`` more bytes are allowed."""
        if size > disk:
            raise OSError(errno.EDQUOT, f"frozen_prefix_disk_mb={disk / 1e6:g}")
        for part in self.folder.glob("*.part"):
            self._delete(part)
        files = {path: path.stat() for path in self.folder.glob("*.states")}
        total = sum(status.st_size - DIGEST_SIZE for status in files.values())
        for path in sorted(files, key=lambda path: files[path].st_mtime):
            if total + size > disk or shutil.disk_usage(self.folder).free < size:
                self._delete(path)
                total -= files[path].st_size - DIGEST_SIZE
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _delete(self, path: Path) -> None:
        """Delete a file unless a process is at it; who has it mapped keeps what it has."""
        with suppress(Timeout), FileLock(path.with_suffix(".lock"), timeout=0):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.states"

    @contextmanager
    def _locked(self, path: Path) -> Iterator[Path]:
        """Wait until no other process is at this file, or until this one is asked to stop."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        while not lock.is_locked:
            check_stop()
            with suppress(Timeout):
                lock.acquire(timeout=1)
        try:
            yield path
        finally:
            lock.release()


def check_stop() -> None:
    """Raise :class:`Interrupted` if the process was asked to stop."""
    if stop.asked:
        raise Interrupted("Stopped before the frozen prefix was computed. The same command begins anew.")


def _open(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> tuple[BinaryIO, Tensor] | None:
    """Return a file, and its states without reading them; writing into these would not reach the file."""
    size = prod(shape)
    if not path.is_file() or path.stat().st_size != size * dtype.itemsize + DIGEST_SIZE:
        return None
    return path.open("rb"), torch.from_file(str(path), shared=False, size=size, dtype=dtype).view(shape)


def _write(path: Path, request: Request) -> None:
    """Compute and write activations, to a second file, which takes the first one's name when it is whole."""
    part = path.with_suffix(".part")
    try:
        with part.open("w+b") as stream:
            for start, chunk in request.compute():
                stream.seek(start * request.shape[1] * request.dtype.itemsize)
                stream.write(chunk.to(request.dtype).contiguous().view(torch.uint8).numpy().data)
            stream.seek(0)
            digest = digest_of(stream, path, request.size)
            stream.seek(request.size)
            stream.write(digest)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
