"""What a cache keeps is believed only with its digest: whatever became of a file, the answer is the undamaged one's."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptuning.acceleration import native
from ptuning.acceleration.activation_store import ActivationStore, Chunks, Request
from ptuning.backbones import source
from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer
from ptuning.data.table import Table
from ptuning.data.tokenize import tokenize
from ptuning.system.cached_files import read_cached, write_cached
from support.damage import DAMAGES, KINDS, damage
from support.running import needs_compiler

SHORT = settings(deadline=None, max_examples=30, derandomize=True)
ONE = Table((["Anna found the lamp in Rome .", "Paul saved the desk in June ."],), None, "here")
OTHER = Table((["Paul saved the desk in June .", "Anna found the lamp in Rome ."],), None, "here")  # as long as ONE


# Any file


@SHORT
@given(st.binary(max_size=200), st.binary(max_size=200), DAMAGES)
def test_a_file_is_what_was_written_or_it_is_absent(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, other: bytes, done: tuple[str, float, int]
) -> None:
    one, two = (tmp_path_factory.mktemp("cache") / name for name in ("one", "two"))
    write_cached(one, content)
    write_cached(two, other)
    assert read_cached(one, 200) == content
    damage(one, *done, two.read_bytes())
    assert read_cached(one, 200) in (content, None)
    assert read_cached(one, len(content) - 1) is None


def test_a_file_that_is_none_or_too_large_is_absent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "vast").open("wb") as stream, suppress(OSError):
        os.truncate(stream.fileno(), 1 << 42)  # takes no room
    for name in ("pipe", "folder", "vast", "nothing"):
        assert read_cached(tmp_path / name, 1 << 20) is None


# Tokens


@SHORT
@given(DAMAGES)
def test_damaged_tokens_are_made_again(tmp_path_factory: pytest.TempPathFactory, done: tuple[str, float, int]) -> None:
    folder, tokenizer = tmp_path_factory.mktemp("tokens"), synthetic_tokenizer()
    expected = tokenize(ONE, tokenizer, 16, folder)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    tokenize(OTHER, tokenizer, 16, folder)
    (other,) = set(folder.iterdir()) - {file}
    damage(file, *done, other.read_bytes())
    found = tokenize(ONE, tokenizer, 16, folder)
    for name in ("input_ids", "token_type_ids", "offsets"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert file.read_bytes() == whole


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/full")], ids=["a pipe", "a device"])
def test_where_no_file_is_one_is_made(tmp_path: Path, make: Callable[[Path], None]) -> None:
    tokenizer = synthetic_tokenizer()
    tokenize(ONE, tokenizer, 16, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.unlink()
    make(file)
    tokenize(ONE, tokenizer, 16, tmp_path)
    assert not file.is_symlink()
    assert file.read_bytes() == whole


# Hidden states


def request(key: str, values: Tensor, asked: list[str]) -> Request:
    def compute() -> Chunks:
        asked.append(key)
        yield 3, values[3:]
        yield 0, values[:3]

    return Request(key, (len(values), values.shape[1]), values.dtype, compute)


@SHORT
@given(DAMAGES, st.booleans(), st.booleans())
def test_damaged_hidden_states_are_computed_again(
    tmp_path_factory: pytest.TempPathFactory, done: tuple[str, float, int], in_memory: bool, sought_first: bool
) -> None:
    folder, asked, told = tmp_path_factory.mktemp("states"), [], []
    values = torch.randn(8, 5)
    one, two = request("one", values, asked), request("two", -values, asked)
    memory = 10_000 if in_memory else 0
    ActivationStore(folder).get([one, two], memory, 10_000)
    file = folder / "one.states"
    whole = file.read_bytes()
    damage(file, *done, (folder / "two.states").read_bytes())
    changed = file.read_bytes() != whole
    store = ActivationStore(folder)  # of another process
    if sought_first:
        found = store.find("one", one.shape, one.dtype)
        assert found is None if changed else torch.equal(found, values)
    for _ in range(2):
        (found,) = store.get([one], memory, 10_000, told.append)
        assert torch.equal(found, values)
    assert asked == ["one", "two", *["one"] * changed]
    assert file.read_bytes() == whole
    assert all("was damaged" in sentence for sentence in told)


def test_a_file_of_states_is_checked_once_in_a_process(tmp_path: Path) -> None:
    values, asked = torch.randn(8, 5), []
    store, one = ActivationStore(tmp_path), request("one", torch.randn(8, 5), asked)
    (found,) = store.get([one], 0, 10_000)
    before = found.clone()
    damage(tmp_path / "one.states", "flipped", 0.0, 3, b"")
    (again,) = store.get([one], 0, 10_000)  # as long as this process lasts, it is the file that it wrote
    assert asked == ["one"]
    assert not torch.equal(again, before)
    assert torch.equal(ActivationStore(tmp_path).get([one], 0, 10_000)[0], before) == (asked == ["one", "one"])
    del values


# Digests of large files


@SHORT
@given(DAMAGES)
def test_a_damaged_digest_is_never_a_backbones_identity(
    tmp_path_factory: pytest.TempPathFactory, done: tuple[str, float, int]
) -> None:
    folder = tmp_path_factory.mktemp("digests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTUNING_CACHE", str(folder))
        weights = folder / "weights.bin"
        weights.write_bytes(bytes(source._LARGE + 1))
        expected = source._sha256(weights)
        (kept,) = (folder / "digests").iterdir()
        damage(kept, *done, b"0" * 64)
        source._remembered.cache_clear()  # another process
        assert source._sha256(weights) == expected


# The library of C functions


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiler's work, done once."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("compiled")
        patch.setenv("PTUNING_CACHE", str(cache))
        native.library.cache_clear()
        assert native.library() is not None
        native.library.cache_clear()
    (file,) = (cache / "native").iterdir()
    content = file.read_bytes()[:-32]
    (cache / "functions.so").write_bytes(content)
    return cache / "functions.so"


class Machine:
    """A cache, and a compiler that is fast and counts."""

    def __init__(self, folder: Path, compiled: Path) -> None:
        self.cache, self.calls = folder / "cache", folder / "calls"
        self.compiler = folder / "cc"
        self.compiler.write_text(
            f'#!/bin/sh\necho >> "{self.calls}"\nwhile [ "$1" != -o ]; do shift; done\ncp "{compiled}" "$2"\n'
        )
        self.compiler.chmod(0o700)

    def drop(self) -> Tensor:
        """Return what a process that begins here computes with the library."""
        native.library.cache_clear()
        assert native.library() is not None
        return native.drop(torch.ones(1000), 20000, 7)

    @property
    def compilations(self) -> int:
        return len(self.calls.read_text()) if self.calls.exists() else 0

    @property
    def file(self) -> Path:
        (file,) = (self.cache / "native").glob("*.so")
        return file


@pytest.fixture
def machine(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, compiled)
    monkeypatch.setenv("PTUNING_CACHE", str(made.cache))
    monkeypatch.setenv("CC", str(made.compiler))
    yield made
    native.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9999])
def test_a_damaged_library_is_never_loaded_and_compiled_again(machine: Machine, kind: str, share: float) -> None:
    expected = machine.drop()
    whole = machine.file.read_bytes()
    damage(machine.file, kind, share, 3, b"\x7fELF" + bytes(len(whole)))
    changed = machine.file.read_bytes() != whole
    assert torch.equal(machine.drop(), expected)
    assert machine.compilations == 1 + changed
    assert machine.file.read_bytes() == whole
    assert torch.equal(machine.drop(), expected)
    assert machine.compilations == 1 + changed


@needs_compiler
@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_a_library_that_others_may_write_is_not_loaded(machine: Machine, what: str, mode: int) -> None:
    expected = machine.drop()
    loose = machine.file if what == "file" else machine.file.parent
    loose.chmod(stat.S_IMODE(loose.stat().st_mode) | mode)
    assert torch.equal(machine.drop(), expected)
    assert machine.compilations == 2
    assert not loose.stat().st_mode & 0o022  # it is kept again, for this user alone
    machine.drop()
    assert machine.compilations == 2


@needs_compiler
def test_another_users_library_is_neither_loaded_nor_replaced(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = machine.drop()
    before = machine.file.stat().st_mtime_ns
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert torch.equal(machine.drop(), expected)
    assert machine.compilations == 2
    assert machine.file.stat().st_mtime_ns == before


@needs_compiler
def test_a_cache_that_takes_nothing_costs_the_compiling_and_no_other_masks(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = machine.drop()
    machine.cache.rename(machine.cache.with_name("gone"))
    machine.cache.write_bytes(b"")  # a file where the folder should be
    for number in (2, 3):
        assert torch.equal(machine.drop(), expected)
        assert machine.compilations == number
