"""The long attack itself: a case of several classes runs, and what is kept of counts is what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import table
from support.running import ROOT


@pytest.mark.slow
def test_a_case_of_each_kind_is_right(tmp_path: Path) -> None:
    classes = ("killed", "crash_at_a_write", "disk_full", "checkpoint", "caches", "grammars", "records")
    command = [sys.executable, str(ROOT / "tests" / "chaos"), *classes, "--seeds", "7:8", "--keep"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"\{'right': 1\}", done.stdout)) == len(classes)


def test_the_page_says_what_was_counted() -> None:
    before = table.PAGE.read_text("utf-8")
    table.write_page()
    assert table.PAGE.read_text("utf-8") == before
