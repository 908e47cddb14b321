"""The table of docs/reliability.md: what was tried, class by class, and what came of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
COUNTS, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"
_MARK = "<!-- the table below is written by tests/chaos -->"


@dataclass(frozen=True)
class Class:
    """A class of cases: what is done, and how many at least."""

    what: str
    cases: int


CLASSES = {
    "killed": Class("a training process gets SIGKILL at a random moment, up to three times", 300),
    "asked_to_stop": Class("a training process gets SIGTERM or SIGINT at a random moment", 300),
    "crash_at_a_write": Class("a training process dies at its n-th change of the file system", 300),
    "disk_full": Class("from the n-th change on, the file system is full", 200),
    "read_only": Class("from the n-th change on, the file system is read-only", 200),
    "two_at_once": Class("the same command is typed in two processes", 300),
    "race_killed": Class("the processes of a race get SIGKILL at up to five random moments", 8),
    "finished_run": Class("a file of a finished run is cut, flipped, emptied, overwritten or another run's", 200),
    "checkpoint": Class("the same with the checkpoint of an interrupted run", 200),
    "caches": Class("the same with a file of a cache: tokens, hidden states, compiled C", 200),
    "configurations": Class("one to three overrides of any keys with any values are typed", 10_000),
    "grammars": Class("layers and subsets are typed", 10_000),
    "rows": Class("rows of any text are written and read back, then damaged and read", 10_000),
    "records": Class("a record's keys and values are changed, its bytes damaged", 10_000),
    "deltas": Class("a delta is damaged, or written by a stranger with digests that fit", 10_000),
}


@dataclass(frozen=True)
class Count:
    """Cases ``first`` to ``last - 1`` of a class, run at one commit, and how many were not right."""

    first: int
    last: int
    lost: int
    wrong: int
    unclear: int
    commit: str

    @property
    def failures(self) -> int:
        """Cases that were not right."""
        return self.lost + self.wrong + self.unclear


def next_seed(name: str) -> int:
    """Return the first seed of a class that was not run yet."""
    return max((count.last for count in _read().get(name, [])), default=0)


def add(name: str, count: Count) -> None:
    """Add a range of seeds; it replaces the ranges that lie inside it. Write counts and page."""
    counts = _read()
    kept = [one for one in counts.get(name, []) if not (count.first <= one.first and one.last <= count.last)]
    counts[name] = sorted([*kept, count], key=lambda one: one.first)
    COUNTS.write_text(
        json.dumps({key: [asdict(one) for one in found] for key, found in counts.items()}, indent=1) + "\n"
    )
    write_page()


def write_page() -> None:
    """Write the table of the counts that are kept into the page."""
    before, mark, _ = PAGE.read_text("utf-8").partition(_MARK)
    PAGE.write_text(f"{before}{mark}\n\n{_table(_read())}", "utf-8")


def _table(counts: dict[str, list[Count]]) -> str:
    lines = [
        "| class | what happens | cases | seeds | lost | wrong | unclear |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in CLASSES.items():
        if found := counts.get(name):
            tried = sum(count.last - count.first for count in found)
            sums = [sum(getattr(count, kind) for count in found) for kind in ("lost", "wrong", "unclear")]
            cells = [name, one.what, f"{tried:,}", _seeds(found), *map(str, sums)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seeds(counts: Sequence[Count]) -> str:
    """Return the ranges with their commits; neighbours of one commit are one range."""
    shown: list[tuple[int, int, str]] = []
    for count in counts:
        if shown and shown[-1][1:] == (count.first, count.commit):
            shown[-1] = (shown[-1][0], count.last, count.commit)
        else:
            shown.append((count.first, count.last, count.commit))
    return ", ".join(f"{first} to {last - 1} ({commit})" for first, last, commit in shown)


def _read() -> dict[str, list[Count]]:
    if not COUNTS.exists():
        return {}
    return {name: [Count(**one) for one in found] for name, found in json.loads(COUNTS.read_text()).items()}
