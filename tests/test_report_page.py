"""The report's page as something to explore: figures that tell their runs, tables that sort, scripts that are ours."""

import json
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import vl_convert

from ptuning.results import collect, read_results, summarise, write_report
from ptuning.results.points import curve_points, describe_cells, layer_points, parameter_points
from ptuning.results.vega import vega_bundle
from ptuning.system.files import cache_folder
from support.browser import CHROMIUM, browser
from support.read_only import read_only
from support.records import NOW, record, seeds

HOSTILE = "</script><script>alert(1)</script>\u2028\"'`${x}"


class Page(HTMLParser):
    """The scripts of a page as a browser reads them, its data blocks, and what its policy allows."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.data: list[dict[str, Any]] = []
        self.policy = ""
        self._kind: str | None = None
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._kind = found.get("type") or "code" if tag == "script" else None
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._kind = None

    def handle_data(self, data: str) -> None:
        if self._kind == "code":
            self.scripts.append(data)
        elif self._kind:
            self.data.append(json.loads(data))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of modules with three seeds, one of them with single layers and a subset."""
    runs = tmp_path_factory.mktemp("place") / "runs"
    for number, module in enumerate(("query", "value", "layernorm", "full")):
        seeds(
            runs, *(0.5 + number / 10 + seed / 100 for seed in range(3)), module=module, trainable_parameters=10**number
        )
    for layer in (0, 1, 3):
        record(runs, layers=str(layer), score=0.5 + layer / 100)
    record(runs, module="value", subset="top:1%", score=0.55)
    return write_report(read_results(runs), runs.parent / "report", NOW)


def test_a_point_knows_its_runs_its_recipe_its_score_and_its_interval(report: Path) -> None:
    _, parameters, curves, layers = Page(report).data
    (full,) = (row for row in parameters["data"]["values"] if row["module"] == "full")
    assert full["score"] == "81.0 ± 1.0"
    assert full["interval"] == "78.5 to 83.5, over seeds"
    assert full["seeds"] == "1, 2, 3"
    assert full["recipe"] == "lr 0.001, epochs 2, batch 32, 32-true"
    folders = full["runs"].splitlines()
    assert len(folders) == 3
    assert all((report.parent.parent / "runs" / folder / "record.json").is_file() for folder in folders)
    (of_full,) = (row for row in curves["data"]["values"] if row["module"] == "full")
    assert (of_full["epoch"], of_full["mean"]) == ([1, 2], [40.5, 81])
    cells = {(row["layer"], row["text"]) for row in layers["data"]["values"]}
    assert cells == {(0, "50.0"), (1, "51.0"), (2, "–"), (3, "53.0")}


def test_the_specifications_draw(report: Path) -> None:
    forest, parameters, curves, layers = (vl_convert.vegalite_to_svg(spec) for spec in Page(report).data)
    for drawn in (forest, parameters, curves):
        named = ("query", "value", "layernorm", *(() if drawn is forest else ("full",)))
        assert all(f">{module}</text>" in drawn for module in named)
        assert "lr 0.001, epochs 2, batch 32" in drawn
    assert ">53.0</text>" in layers
    assert "undefined" not in forest + parameters + curves + layers


def test_only_the_pages_own_scripts_run(report: Path) -> None:
    page = Page(report)
    digests = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in page.scripts]
    assert len(digests) == 3
    policy = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"].split() == digests


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two modules whose names would be markup, and of a task and a backbone like these."""
    runs = tmp_path_factory.mktemp("place") / "runs"
    for seed in (1, 2):
        for name in (HOSTILE, "<img src=x onerror=alert(1)>"):
            about = record(runs, seed=seed, score=0.5 + seed / 10, module=name[1:4], task="t") / "record.json"
            text = about.read_text().replace('"t"', json.dumps(HOSTILE)).replace('"minilm"', json.dumps(HOSTILE))
            about.write_text(text.replace(f'"{name[1:4]}"', json.dumps(name)))
    return write_report(read_results(runs), runs.parent / "report")


def test_names_cannot_leave_their_data(hostile: Path) -> None:
    page = Page(hostile)
    assert len(page.scripts) == 3
    assert not any("alert(1)" in script for script in page.scripts)
    assert len(page.data) == 2
    for spec in page.data:
        assert {row["module"][:8] for row in spec["data"]["values"]} == {HOSTILE[:8], "<img src"}
        assert "</script>" in spec["description"]


def test_what_a_figure_leaves_out_is_said(tmp_path: Path) -> None:
    record(tmp_path, module="full", epochs=500)
    for number in range(8):
        record(tmp_path, layers=f"0-{number}", score=number / 10)
    collected = collect(tmp_path, history=True)
    runs, history = collected.runs, collected.history
    assert history is not None
    cells = describe_cells(summarise(runs), runs)
    some = cells[~cells["is_whole"]]
    many = pd.concat([cells[cells["is_whole"]], *[some] * 200], ignore_index=True)
    drawn = parameter_points(many)
    assert drawn is not None
    assert (len(drawn.rows), drawn.rows["mean"].min(), drawn.rows["mean"].max()) == (1000, 0, 70)
    assert drawn.remark == " 999 of 1,600 hollow marks are drawn, evenly by score; the table has all."
    modules = [f"m{number}" for number in range(100)]
    single = pd.concat([some.head(1)] * 100).assign(layers="3", module=modules)
    grid = layer_points(single)
    assert grid is not None
    assert len(set(grid.rows["module"])) == 60
    assert grid.remark == " 60 of 100 modules are drawn; the table has all."
    curves = curve_points(cells, history, runs)
    assert curves is not None
    epochs = curves.rows["epoch"].iloc[0]
    assert (len(epochs), epochs[0], epochs[-1]) == (200, 1, 500)
    assert curves.remark == " Of longer curves 200 evaluations are drawn, evenly."
    selections = curve_points(pd.concat([some] * 4, ignore_index=True), history, runs)
    assert selections is not None
    assert selections.remark == " 24 of 32 selections are drawn."


def test_a_page_without_room_for_a_figure_says_so(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = read_results(report.parent.parent / "runs")
    first = len(results.pictures[0][1].inline)
    monkeypatch.setattr("ptuning.results.report._LARGEST", report.stat().st_size - first)
    page = write_report(results, report.parent.parent / "small")
    assert page.stat().st_size < report.stat().st_size - first
    assert 0 < len(Page(page).data) < 4
    assert "Only in its files, so that this page stays small." in page.read_text()


def test_the_bundle_is_made_once_and_again_if_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = vega_bundle()
    (kept,) = (cache_folder() / "vega").iterdir()
    whole = kept.read_bytes()
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda _: "made again")
    assert vega_bundle() == bundle
    kept.write_bytes(whole[:1000] + b"alert(1)" + whole[1008:])
    assert vega_bundle() == "made again"
    kept.write_bytes(whole)
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    with read_only(tmp_path):
        assert vega_bundle() == "made again"
    monkeypatch.setenv("PTUNING_CACHE", "/dev/null/nowhere")
    assert vega_bundle() == "made again"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_draws_tells_picks_and_sorts(report: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        page.open(report)
        page.wait("document.querySelectorAll('figure.drawn').length === 4")
        points = "document.querySelectorAll('figure.drawn')[1].querySelectorAll('path[aria-label*=\"module: full\"]')"
        page.point_at(f"{points}[0]")
        tooltip = "document.querySelector('#vg-tooltip-element.visible')"
        page.wait(f"{tooltip} && {tooltip}.innerText.includes('minilm/rte/full/all/seed=3')")
        assert "78.5 to 83.5" in page.ask(f"{tooltip}.innerText")
        page.point_at("document.querySelector('figure.drawn .role-legend-label text')", click=True)  # query
        page.wait(f"{points}[0].getAttribute('opacity') < 0.5")

        column = "[...document.querySelector('table').tBodies[0].rows].map((row) => parseFloat(row.cells[2].innerText))"
        head = "document.querySelector('table').tHead.rows[0].cells[2]"
        rising = sorted(page.ask(column))
        page.point_at(f"{head}.firstChild", click=True)
        assert (page.ask(column), page.ask(f"{head}.ariaSort")) == (rising, "ascending")
        page.press("Enter")
        assert (page.ask(column), page.ask(f"{head}.ariaSort")) == (rising[::-1], "descending")
        page.press(" ")
        assert page.ask(column) == rising

        ink = "document.querySelector('figure.drawn .role-axis-title text').getAttribute('fill')"
        light = page.ask(ink)
        page.colours(dark=True)
        page.wait(f"{ink} !== '{light}'")
        page.open(report, width=420, height=6000, dark=True)
        page.wait("document.querySelectorAll('figure.drawn').length === 4")
        assert page.ask("document.documentElement.scrollWidth") <= 420
        assert page.console == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_hostile_names_do_nothing_in_a_browser(hostile: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        page.open(hostile)
        page.wait("document.querySelectorAll('figure.drawn').length === 2")
        page.point_at("document.querySelector('figure.drawn path[aria-label*=onerror]')")
        tooltip = "document.querySelector('#vg-tooltip-element.visible')"
        page.wait(f"{tooltip} && {tooltip}.innerText.includes('<img')")
        assert page.ask("document.querySelectorAll('img').length") == 0
        assert page.console == []
