"""All records below a folder, one after the other. Knows no torch."""

import os
from collections.abc import Iterator
from pathlib import Path

from ptuning.runs.record import RECORD, RunRecord, read_record


def walk_records(root: str | Path) -> Iterator[tuple[str, RunRecord | str]]:
    """Yield (run folder, its record) and (file or folder, why it cannot be read), sorted by name, relative to ``root``.

    Hidden folders are skipped; folders may be nested as deep as the system allows. Links to folders are followed after
    all else, each folder once, and never to a folder above ``root``.
    """
    top = os.path.realpath(root)
    seen: set[str] = set()
    links: list[str] = []
    yield from _walk("", top, seen, links)
    for link in links:  # to which these add those that lie below them
        place = os.path.realpath(os.path.join(top, link))
        if place not in seen and os.path.commonpath([top, place]) != place:
            yield from _walk(link, place, seen, links)


def _walk(start: str, place: str, seen: set[str], links: list[str]) -> Iterator[tuple[str, RunRecord | str]]:
    """Yield the same below one folder, shown as ``start``; fill what was seen, and links to folders."""
    waiting = [(start, place)]
    while waiting:
        folder, place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        try:
            with os.scandir(place) as entries:
                inside = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            yield folder or ".", f"cannot be read ({error.strerror})"
            continue
        below = []
        for entry in inside:
            shown = os.path.join(folder, entry.name)
            if entry.name == RECORD:
                found = read_record(entry.path)
                yield (folder or ".", found) if isinstance(found, RunRecord) else (shown, found)
            elif entry.is_dir(follow_symlinks=False):
                below.append((shown, entry.path))
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(shown)
        waiting += reversed(below)
