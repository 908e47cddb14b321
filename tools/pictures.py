"""Draws the pictures of the pages, each from a real run: docs/demo.svg, what ``make demo`` prints, and docs/sweep.svg.

python tools/pictures.py {demo,sweep} [FILE]

The sweep's is of tiny jobs: its screen when that had most to say, and its end.
"""

import io
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group, RenderableType
from rich.text import Text

import ptuning.display.console
from ptuning.display.console import CleanConsole

ROOT = Path(__file__).parents[1]
DEMO = ("experiment=demo", "module=layernorm", "task=rte")
SWEEP = (
    *("backbone=tiny", "data=synthetic", "data.sizes.train=400", "task=sst2", "module=layernorm,query,ffn,full"),
    *("seed=1,2", "optim.lr=0.01", "trainer.max_epochs=6", "logger=none", "workers=2"),
)


def main() -> None:
    """Draw one picture."""
    kind = sys.argv[1] if sys.argv[1:] else ""
    if kind not in ("demo", "sweep"):
        sys.exit(__doc__)
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / f"{kind}.svg"
    typed, width, parts = ("make demo", 88, demo()) if kind == "demo" else ("", 112, sweep(112))
    picture = Console(file=io.StringIO(), record=True, **_options(width))
    picture.print(Text(f"$ {typed or 'python train.py -m ' + ' '.join(SWEEP)}", "dim"))
    for part in parts:
        picture.print(part)
    drawn = picture.export_svg(title="ptuning", code_format=CONSOLE_SVG_FORMAT, unique_id=kind)
    place.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S))


def demo() -> Iterable[RenderableType]:
    """Yield what the demo prints, as into a file: without the bar."""
    console = _recorded(88, force_terminal=False)
    yield _typed(console, *DEMO)


def sweep(width: int) -> Iterable[RenderableType]:
    """Yield the screen of a sweep and what it prints at its end."""
    console = _recorded(width)
    from ptuning.sweeps import scheduler
    from ptuning.sweeps.progress import SweepProgress

    frames: list[tuple[tuple[int, int], Group]] = []

    class Watched(SweepProgress):
        def screen(self) -> Group:
            drawn = super().screen()
            said = _text(drawn, width)
            frames.append(((len(re.findall(r"cpu .*/6", said)), len(said.split())), drawn))
            return drawn

        def __exit__(self, *error: object) -> None:
            super().__exit__(*error)
            console.export_text(clear=True)  # what follows is the end

    scheduler.SweepProgress = Watched  # type: ignore[attr-defined]
    end = _typed(console, "-m", *SWEEP)
    yield from ("", max(frames, key=lambda frame: frame[0])[1], Text("…", "dim"), end)


def _typed(console: Console, *overrides: str) -> Text:
    """Type a command in this process, with a folder of runs of its own, and return what is left to see."""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["train.py", *overrides, f"runs_dir={folder}/runs"]
        runpy.run_path("train.py", run_name="__main__")
        return Text.from_ansi(console.export_text(styles=True).replace(f"{folder}/", "").strip())


def _recorded(width: int, **options: Any) -> Console:
    """Put a console that records in the place of ptuning's own, before anything imports that, and return it."""
    console = CleanConsole(file=io.StringIO(), record=True, soft_wrap=True, **{**_options(width), **options})
    ptuning.display.console.console = console
    return console


def _options(width: int) -> dict[str, Any]:
    return {"force_terminal": True, "width": width, "height": 30, "highlight": False}


def _text(drawn: Group, width: int) -> str:
    console = Console(file=(file := io.StringIO()), width=width)
    console.print(drawn)
    return file.getvalue()


if __name__ == "__main__":
    main()
