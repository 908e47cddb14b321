"""What is written under a name that a user typed: links, pipes and devices stay what they are, parts are never left."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ptuning.errors import RunError
from ptuning.system.files import whole_file, whole_folder, write_whole


def part_files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


def test_of_a_link_the_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "answers.jsonl", tmp_path / "answers.jsonl"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_link_to_nothing_makes_its_target(tmp_path: Path) -> None:
    link = tmp_path / "answers.jsonl"
    link.symlink_to("there.jsonl")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "there.jsonl").read_bytes() == b"new"


def test_a_circle_of_links_is_an_error_of_the_system_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as caught:
        write_whole(tmp_path / "a", b"new")
    assert caught.value.errno == errno.ELOOP


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with whole_file(pipe) as stream:
        stream.write(b"one\n")
        stream.write(b"two\n")
    reader.join(10)
    assert read == [b"one\ntwo\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_its_reader_leaves_is_one_sentence(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    closing = threading.Timer(0.1, os.close, [reader])
    closing.start()
    with pytest.raises(RunError, match="closed by its reader"):
        write_whole(pipe, b"x" * 1_000_000)
    closing.join()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_device_stays_a_device(tmp_path: Path) -> None:
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    for path in (Path("/dev/full"), link):
        with pytest.raises(OSError, match="No space") as caught:
            write_whole(path, b"x")
        assert caught.value.filename == str(path)
    write_whole(Path("/dev/null"), b"x")
    assert all(stat.S_ISCHR(os.stat(device).st_mode) for device in ("/dev/full", "/dev/null"))
    assert link.is_symlink()


def test_what_is_open_under_a_name_is_written(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w+b") as stream:
        write_whole(Path(f"/dev/fd/{stream.fileno()}"), b"answers")
        assert (tmp_path / "out").read_bytes() == b"answers"


@pytest.mark.parametrize("name", ["a folder", "a folder/"])
def test_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "a folder").mkdir()
    with pytest.raises(RunError, match="is a folder"):
        write_whole(tmp_path / name, b"")


def test_a_file_keeps_its_mode_and_a_new_one_has_that_of_its_neighbours(tmp_path: Path) -> None:
    script, new, plain = tmp_path / "script", tmp_path / "new", tmp_path / "plain"
    script.write_bytes(b"")
    script.chmod(0o750)
    plain.write_bytes(b"")
    write_whole(script, b"new")
    write_whole(new, b"new")
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    assert new.stat().st_mode == plain.stat().st_mode


def stop_in_file(place: Path) -> None:
    with whole_file(place) as stream:
        stream.write(b"part")
        raise KeyboardInterrupt


def stop_in_folder(place: Path) -> None:
    with whole_folder(place) as folder:
        (folder / "part").write_bytes(b"part")
        raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [stop_in_file, stop_in_folder])
@pytest.mark.parametrize("is_link", [False, True])
def test_what_stops_half_way_leaves_nothing(tmp_path: Path, stop: Callable[[Path], None], is_link: bool) -> None:
    place = tmp_path / "place"
    if is_link:
        place.symlink_to(tmp_path / "target")
    with pytest.raises(KeyboardInterrupt):
        stop(place)
    assert not place.exists()
    assert place.is_symlink() == is_link
    assert not part_files(tmp_path)


def test_of_a_link_to_an_empty_folder_the_target_is_filled(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    link = tmp_path / "link"
    link.symlink_to("target")
    with whole_folder(link) as folder:
        (folder / "file").write_bytes(b"whole")
        (folder / "file").chmod(0o600)
    assert link.is_symlink()
    assert (tmp_path / "target" / "file").read_bytes() == b"whole"
    (tmp_path / "beside").write_bytes(b"")
    assert (link / "file").stat().st_mode == (tmp_path / "beside").stat().st_mode


def test_a_link_to_a_full_folder_and_the_present_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for place, why in ((tmp_path / "link", "exists already"), (Path("."), "cannot be replaced")):
        with pytest.raises(RunError, match=why), whole_folder(place):
            raise AssertionError
    assert (tmp_path / "full" / "file").read_bytes() == b"mine"
