"""Digests beside files: damage is seen, a crash between the two writes is none, files without one are taken."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ptuning.system import digests
from ptuning.system.digests import is_damaged, remove_sealed, seal_of, set_aside, write_sealed
from ptuning.system.files import write_whole
from ptuning.system.json_files import DamagedError, read_json


def test_a_sealed_file_is_whole_and_sha256sum_reads_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    write_sealed(file, b"one")
    assert not is_damaged(file)
    assert subprocess.run(["sha256sum", "--check", "--quiet", seal_of(file).name], cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("damage", [b"", b"on", b"onf", b"one more"])
def test_a_changed_file_is_damaged(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "last.ckpt"
    write_sealed(file, b"one")
    file.write_bytes(damage)
    assert is_damaged(file)
    assert set_aside(file).read_bytes() == damage
    assert not file.exists()
    assert not seal_of(file).exists()


def test_a_crash_between_the_two_writes_leaves_a_pair_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.ckpt"
    write_sealed(file, b"one")

    def crash_at_the_file(path: Path, content: bytes) -> None:
        if path == file:
            raise KeyboardInterrupt
        write_whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(digests, "write_whole", crash_at_the_file)
        for content in (b"two", b"three"):
            with pytest.raises(KeyboardInterrupt):
                write_sealed(file, content)
    assert file.read_bytes() == b"one"
    assert not is_damaged(file)
    write_sealed(file, b"four")
    assert not is_damaged(file)


def test_a_file_without_a_digest_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"of an earlier version")
    assert not is_damaged(file)
    remove_sealed(file)
    remove_sealed(file)
    assert not file.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b'{"a": 1', "broken JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[1]", "no JSON object"),
        (b'{"a": 1' + b"0" * 400 + b"}", "401 digits"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "5,001 digits"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "broken JSON"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"\\udfff": 1}', "half a character"),
    ],
)
def test_json_that_nobody_here_wrote_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=words):
        read_json(file)


def test_json_that_people_write_is_read(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    values = {"seed": 2**63 - 1, "path": "/runs/\udcff", "words": "Grüße 👋", "score": 0.1234567890123456789}
    file.write_text(json.dumps(values))
    assert read_json(file) == values


def test_a_pipe_a_folder_and_a_device_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link"):
        with pytest.raises(DamagedError, match="no regular file"):
            read_json(tmp_path / name)
    with pytest.raises((DamagedError, OSError)):
        read_json(tmp_path)
