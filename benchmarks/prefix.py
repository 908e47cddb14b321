"""Time whole commands with the frozen prefix live and cached: python benchmarks/prefix.py GLUE_FOLDER [--rows N]."""

import argparse
import resource
import tempfile
from pathlib import Path

from commands import shorten, train

WORK = {
    "layernorm": ("module=layernorm", "layers=last:1", "trainer.max_epochs=5"),
    "head": ("module=frozen", "trainer.max_epochs=10"),
}


def main() -> None:
    """Print seconds, ratio and score, live and cached in turn; every command begins with empty caches.

    Beside seconds by the clock stand seconds of processor time, which neighbours on the machine disturb less.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("glue", type=Path)
    parser.add_argument("--work", choices=WORK, default="layernorm")
    parser.add_argument("--rows", type=int, default=600, help="rows of RTE's training file, from the first")
    parser.add_argument("--dev-rows", type=int, default=277, help="the same of its dev file")
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shorten(chosen.glue, Path(folder), chosen.rows, chosen.dev_rows)
        seconds: dict[str, list[tuple[float, float]]] = {"live": [], "cache": []}
        for number in range(chosen.rounds):
            for kind, taken in seconds.items():
                taken.append(_time(Path(folder), f"{kind}-{number}", kind, WORK[chosen.work]))
    for place, what in enumerate(("clock", "processor")):
        ratios = [live[place] / cached[place] for live, cached in zip(seconds["live"], seconds["cache"], strict=True)]
        print(f"{chosen.work}, {chosen.rows} rows, {what}: {', '.join(f'{ratio:.1f}' for ratio in ratios)} times")


def _time(folder: Path, name: str, kind: str, work: tuple[str, ...]) -> tuple[float, float]:
    """Run one command from its first import to its last file; return its seconds by the clock and of the processor."""
    began = _processor_seconds()
    typed = ["backbone=minilm", "data=local", f"data.dir={folder}", "task=rte", *work, f"frozen_prefix={kind}"]
    wall, records = train(folder / name, None, typed)
    taken, record = (wall, _processor_seconds() - began), records[0]
    phases = "  ".join(f"{phase} {value:.1f}" for phase, value in record["seconds"].items())
    print(
        f"{kind}: {taken[0]:.1f} s, processor {taken[1]:.1f} s  score {100 * record['score']:.1f}  ({phases})",
        flush=True,
    )
    return taken


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
