"""Names of strangers reach no terminal and no page as anything but text."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.table import Table

from ptuning.cli.main import main
from ptuning.deltas.card_data import Base, Facts
from ptuning.deltas.model_card import write_card
from ptuning.display.console import CleanConsole
from ptuning.display.printable import code_span, escape_markdown, printable
from ptuning.results import read_results, write_report
from ptuning.runs.record import RunRecord
from ptuning.tasks.glue import Task
from ptuning.tracking.make_loggers import labels
from support.records import seeds

HOSTILE = "\x1b]0;owned\x07<script>alert(1)</script>[x](javascript:alert(1))`|\x9b31m\u202e"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


def test_control_characters_are_written_as_their_codes_and_texts_stay() -> None:
    assert printable("\x1b[31m\udcff\u202e") == r"\x1b[31m\xff\u202e"
    for text in ("", "Straße\n\tund mehr", "文字 ‡1 – ±", "a\u00a0b"):
        assert printable(text) == text


@pytest.mark.parametrize("text", ["plain_name", "a`b``c", "`", "a\nb|c"])
def test_code_in_markdown_holds_any_text(text: str) -> None:
    span = code_span(text)
    assert "\n" not in span
    fence = re.match("`+", span)
    assert fence
    assert fence[0] not in span[len(fence[0]) : -len(fence[0])].split()


def test_markdown_shows_markup_as_text() -> None:
    assert escape_markdown("attention_output 87.1 ± 0.4 [86.1, 88.1] (99.0)") == (
        "attention_output 87.1 ± 0.4 [86.1, 88.1] (99.0)"
    )
    assert escape_markdown("p <0.001 & more") == "p <0.001 & more"
    escaped = escape_markdown(HOSTILE)
    assert "<" not in escaped
    assert "](" not in escaped


def test_reports_and_terminals_show_hostile_names_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("full", "layernorm"):
        for folder in (tmp_path / "runs").glob("*"):
            assert folder.is_dir()
        seeds(tmp_path / "runs", 0.6, 0.7, module=module)
    for file in (tmp_path / "runs").rglob("record.json"):
        values = json.loads(file.read_text())
        values |= {"backbone": HOSTILE, "task": f"task {HOSTILE}", "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
        file.write_text(json.dumps(values))
    page = write_report(read_results(tmp_path / "runs"), tmp_path / "report")
    for file in [path for path in page.parent.rglob("*") if path.suffix in (".html", ".md", ".tex", ".csv", ".svg")]:
        assert not CONTROL.search(file.read_text()), file.name
        assert "<script>alert" not in (file.read_text() if file.suffix in (".md", ".html", ".svg") else "")
    capsys.readouterr()
    main(["results", str(tmp_path / "runs")])
    assert not CONTROL.search("".join(capsys.readouterr()))
    with pytest.raises(SystemExit):
        main(["results", "\x1b[31mnowhere"])
    assert "\\x1b[31mnowhere" in capsys.readouterr().err


def test_the_console_shows_texts_without_their_codes() -> None:
    shown = StringIO()
    screen = CleanConsole(file=shown, width=200)
    table = Table(title=f"title {HOSTILE}")
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    screen.print(table)
    screen.print(HOSTILE, markup=False)
    assert not CONTROL.search(shown.getvalue())


def test_a_model_card_and_a_trackers_names_are_text() -> None:
    facts = Facts(
        task=HOSTILE,
        source="files",
        module=HOSTILE,
        layers="all",
        subset=HOSTILE,
        moved=1,
        head=1,
        total=10,
        score=0.5,
        epoch=1.0,
        metrics={HOSTILE: 0.5},
        seed=1,
        scores={},
        versions={"torch": HOSTILE},
    )
    task = Task(HOSTILE, (HOSTILE,), (HOSTILE, "b"), ("accuracy",), ("accuracy",))
    card = str(write_card("delta", HOSTILE, task, facts, Base(f"./{HOSTILE}", None, None), 128))
    page = card.split("---\n", 2)[2]
    assert not CONTROL.search(page)
    beside_code = re.sub(r"(`+) .*? \1|```.*?```", "", page, flags=re.DOTALL)
    assert "<script>" not in beside_code
    assert not CONTROL.search("".join(labels(RunRecord(task=HOSTILE, module=HOSTILE)).values()))
