"""Check the built site: it loads nothing from elsewhere, and its API page shows docstrings as they are meant."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOADED = {"link": ("href",), "script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src",)}
ELSEWHERE = re.compile(r"(https?:)?//")


class Loads(HTMLParser):
    """Collects what a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the addresses that a tag loads."""
        self.found += [value for name, value in attrs if name in LOADED.get(tag, ()) and value]


def mistakes(site: Path) -> list[str]:
    """Return a line for each thing that is wrong with the site in this folder."""
    found = []
    pages = list(site.rglob("*.html"))
    if len(pages) <= 10:
        found.append(f"{site} has {len(pages)} pages")
    for page in pages:
        loads, text = Loads(), page.read_text("utf-8")
        loads.feed(text)
        if "| --- |" in text:
            found.append(f"{page} shows a table as text: it wants an empty line before it")
        if len(loads.found) <= 3:
            found.append(f"{page} loads too little for a page of the site")
        found += [f"{page} loads {load} from elsewhere" for load in loads.found if ELSEWHERE.match(load)]
    for sheet in site.rglob("*.css"):
        if re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text("utf-8")):
            found.append(f"{sheet} loads something from elsewhere")
    if 'href="benchmarks/index.html"' not in (site / "speed.html").read_text("utf-8"):
        found.append("speed.html has no link to the benchmarks: tools/site_hooks.py turns it")
    page_of_api = (site / "api.html").read_text("utf-8")
    for shown in ("ptuning.load", "ModuleSelectionCallback", "GlueDataModule", "Which blocks:", "trainable_percent"):
        if shown not in page_of_api:
            found.append(f"api.html does not show {shown}")
    for mark in (r":(?:func|class|meth|data|attr|mod):", "code-block"):
        if re.search(mark, page_of_api):
            found.append(f"api.html shows a mark of another system: {mark}")
    return found


if __name__ == "__main__":
    wrong = mistakes(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
    sys.exit("\n".join(wrong) or 0)
