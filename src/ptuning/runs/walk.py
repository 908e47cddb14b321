"""All records below a folder, one after the other. Knows no torch."""

import os
from collections.abc import Iterator
from pathlib import Path

from ptuning.runs.record import RECORD, RunRecord, read_record


def walk_records(root: str | Path) -> Iterator[tuple[str, RunRecord | str]]:
    """Yield (run folder, its record) and (file or folder, why it cannot be read), sorted by name, relative to ``root``.

    Hidden folders and links to folders are skipped; folders may be nested as deep as the system allows.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                inside = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            yield folder or ".", f"cannot be read ({error.strerror})"
            continue
        below = []
        for entry in inside:
            if entry.name == RECORD:
                found = read_record(entry.path)
                yield (folder or ".", found) if isinstance(found, RunRecord) else (os.path.join(folder, RECORD), found)
            elif entry.is_dir(follow_symlinks=False):
                below.append(os.path.join(folder, entry.name))
        waiting += reversed(below)
