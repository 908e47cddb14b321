"""C that is compiled where it runs: once, for what it can do, and never as a condition."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ptuning.acceleration import kernels, native
from support.running import needs_compiler


@needs_compiler
def test_only_fp32_and_bf16_on_a_cpu_are_taken() -> None:
    assert native.takes(torch.empty(1))
    assert native.takes(torch.empty(1, dtype=torch.bfloat16))
    assert not native.takes(torch.empty(1, dtype=torch.float64))
    assert not native.takes(torch.empty(1, dtype=torch.float16))
    assert not native.takes(torch.empty(1, device="meta"))


def compiled(folder: Path) -> list[Path]:
    return sorted((folder / "native").glob("*.so"))


@pytest.fixture
def library() -> Iterator[Callable[[], object]]:
    """Return a function that gets the library as a process does that had none before."""

    def get() -> object:
        native.library.cache_clear()
        return native.library()

    yield get
    native.library.cache_clear()


@needs_compiler
def test_a_library_is_compiled_once_on_each_kind_of_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[], object]
) -> None:
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path))
    assert library() is not None
    (made,) = compiled(tmp_path)
    before = made.stat().st_mtime_ns
    assert library() is not None
    assert [made.stat().st_mtime_ns] == [path.stat().st_mtime_ns for path in compiled(tmp_path)] == [before]
    monkeypatch.setattr("platform.platform", lambda: "another node's")
    assert library() is not None
    assert len(compiled(tmp_path)) == 2


def test_where_it_is_switched_off_nothing_is_taken_and_nothing_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[], object]
) -> None:
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path))
    monkeypatch.setenv("PTUNING_NATIVE", "0")
    native.library.cache_clear()
    assert not native.takes(torch.empty(1))
    kernels.prepare()
    assert not compiled(tmp_path)


def test_where_it_cannot_be_compiled_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[], object]
) -> None:
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "bin" / "cc"
    broken.parent.mkdir()
    monkeypatch.setenv("PATH", str(broken.parent))
    monkeypatch.delenv("CC", raising=False)
    assert library() is None  # there is no compiler
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    assert library() is None  # there is one that fails
    assert not compiled(tmp_path / "cache")


@needs_compiler
def test_a_cache_that_cannot_be_written_costs_the_compiling_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Callable[[], object]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "file" / "cache"))
    assert library() is not None
