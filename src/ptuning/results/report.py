"""The report on a folder of runs: one HTML page that needs no network, with tables and figures as files."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import ptuning
from ptuning.display.printable import printable
from ptuning.errors import RunError
from ptuning.results.analysis import Results
from ptuning.results.claims import claims_markdown
from ptuning.results.summary import write_table
from ptuning.results.tables import describe_choice
from ptuning.results.text_table import MARK, hide_folders, to_latex, to_markdown
from ptuning.results.vega import vega_bundle
from ptuning.selection.names import module_key, task_key
from ptuning.system.files import write_whole

if TYPE_CHECKING:
    from ptuning.results.picture import Picture

PAGE, CLAIMS, TABLES, FIGURES = "index.html", "claims.md", "tables", "figures"
_LISTED = 200
"""Lines of a list on the page; what is left is in runs.csv."""
_LARGEST = 5_000_000
"""Bytes of the page; figures that would make it larger are in files alone."""
_WITHOUT_REASON = {
    "interrupted": "stopped from outside; the same command goes on from its checkpoint",
    "running": "still running, or killed before it could say so; the same command goes on or begins anew",
    "failed": "no reason was recorded",
}

_EDITED = "its digest does not fit; its numbers are in the tables as they stand there"


def write_report(results: Results, out: Path, now: datetime | None = None) -> Path:
    """Return the path of ``index.html``, after writing it with ``claims.md``, ``tables/`` and ``figures/``.

    Parameters
    ----------
    results
        What :func:`ptuning.results.read_results` found.
    out
        The folder of the report; made where it is missing, files of an earlier report are replaced.
    now
        The time that the page names; the present if left out.

    Raises
    ------
    RunError
        If ``out`` cannot be written into.
    """
    tables = [*results.tables, *(table for _, table in (*results.compared, *results.rankings)), *results.appendix]
    page = _page(results, now or datetime.now(UTC))
    try:
        for folder in (out / TABLES, out / FIGURES):
            folder.mkdir(parents=True, exist_ok=True)
        written = {PAGE: page.encode(), CLAIMS: claims_markdown(results.claims).encode()}
        for table in tables:
            written[f"{TABLES}/{table.slug}.md"] = to_markdown(table).encode()
            written[f"{TABLES}/{table.slug}.tex"] = to_latex(table).encode()
        for _, picture in results.pictures:
            written[f"{FIGURES}/{picture.slug}.png"] = picture.png
            written[f"{FIGURES}/{picture.slug}.svg"] = picture.svg
            written[f"{FIGURES}/{picture.slug}.pdf"] = picture.pdf
        for name, content in written.items():
            write_whole(out / name, content)
        write_table(results.runs, out / TABLES / "runs.csv")
        write_table(results.summary, out / TABLES / "summary.csv")
        write_table(results.comparisons, out / TABLES / "comparisons.csv")
        _remove_stale(out, set(written))
    except OSError as error:
        raise RunError(f"The report cannot be written into {out} ({error.strerror}). Name another folder.") from error
    return out / PAGE


def _remove_stale(out: Path, written: set[str]) -> None:
    """Remove the files of an earlier report in ``out`` that this one does not have, and no others."""
    list_file = out / ".report-files"
    earlier = set(list_file.read_text("utf-8").splitlines()) if list_file.exists() else set()
    for name in earlier - written:
        (out / name).unlink(missing_ok=True)
    write_whole(list_file, "\n".join(sorted(written)).encode())


def unfinished(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return (folder, status, reason in one line) of the runs without a result, in the tables' order."""
    rest = runs[runs["status"] != "finished"].to_dict("records")
    rest.sort(key=lambda row: (row["backbone"], task_key(row["task"]), module_key(row["module"]), row["folder"]))
    return [
        (row["folder"], row["status"], one_line(row["reason"]) or _WITHOUT_REASON.get(row["status"], ""))
        for row in rest
    ]


def one_line(traceback: str) -> str:
    r"""Return the line of a traceback with the error's message, without folders of the machine.

    >>> one_line('  File "a.py", line 1\nOSError: no space left on /scratch/me/runs/x')
    'OSError: no space left on …/x'
    """
    lines = [line for line in traceback.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
    return hide_folders((named or lines or [""])[-1].strip())[:300]


def _page(results: Results, now: datetime) -> str:
    runs, summary = results.runs, results.summary
    sections = [
        (
            backbone,
            [table for table in results.tables if table.backbone == backbone]
            + [table for name, table in (*results.compared, *results.rankings) if name == backbone],
            [picture for name, picture in results.pictures if name == backbone],
        )
        for backbone in dict.fromkeys(summary["backbone"])
    ]
    environment = Environment(
        autoescape=True, finalize=_clean, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"data": _data, "digest": _digest}
    environment.filters["inline"] = Markup  # our own scripts, and our own SVG, whose texts matplotlib has escaped
    template = environment.from_string(_own_file("report.html.j2"))
    pictures = [picture for _, _, shown in sections for picture in shown]
    own = [_own_file("report_tables.js"), *([vega_bundle(), _own_file("report_figures.js")] if pictures else [])]
    render = partial(
        template.render,
        scripts=own,
        folder=results.runs_dir.resolve().name,
        counts=runs["status"].value_counts().to_dict(),
        total=len(runs),
        first=_day(runs["begun"], min),
        last=_day(runs["ended"], max),
        now=now.strftime("%Y-%m-%d %H:%M UTC"),
        version=ptuning.__version__,
        versions=_versions(runs),
        devices=sorted({device for device in runs["device"] if device}),
        precisions=sorted({precision for precision in summary["precision"] if precision}),
        synthetic=bool((summary["source"] == "synthetic").any()),
        choice=describe_choice(summary) if len(summary) else "",
        optimistic=bool((summary["select_on"] == "dev").any()),
        sections=sections,
        claims=results.claims if sections else [],
        claims_file=CLAIMS,
        appendix=results.appendix,
        lists=[
            ("Runs without a result", unfinished(runs)),
            (
                "Records that were edited by hand, or damaged",
                [(file, "", _EDITED) for file in results.collected.edited],
            ),
            ("Files left out", [(left.file, "", hide_folders(left.reason)) for left in results.collected.left_out]),
        ],
        mark=MARK,
        listed=_LISTED,
        tables=TABLES,
        figures=FIGURES,
    )
    room = _LARGEST - len(render(inline=()).encode())
    return render(inline=_with_room(pictures, room))


def _own_file(name: str) -> str:
    return (files("ptuning.results") / name).read_text("utf-8")


def _with_room(pictures: "Sequence[Picture]", room: int) -> set[str]:
    """Return the slugs of the first pictures that take so many bytes of the page at most."""
    sizes = accumulate(len(picture.inline.encode()) + len(_data(picture.spec)) + 500 for picture in pictures)
    return {picture.slug for picture, size in zip(pictures, sizes, strict=True) if size <= room}


def _data(value: Any) -> Markup:
    """Return a value as JSON that no name in it can end: ASCII alone, without ``<``."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", r"\u003c"))


def _digest(script: str) -> str:
    """Return the name under which a Content-Security-Policy allows a script."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def _clean(value: Any) -> Any:
    """Return a text without control characters; what a macro or a filter has made is markup already."""
    return printable(value) if type(value) is str else value


def _versions(runs: pd.DataFrame) -> dict[str, str]:
    """Return library → the versions that the runs used."""
    columns = [name for name in runs.columns if name.startswith("version/")]
    found = {name.removeprefix("version/"): sorted({v for v in runs[name] if v}) for name in columns}
    return {name: ", ".join(versions) for name, versions in found.items() if versions}


def _day(times: pd.Series, choose: Callable[[list[str]], str]) -> str:
    """Return the first or last day among ISO times, which sort as text."""
    days = [time[:10] for time in times if time]
    return choose(days) if days else ""
