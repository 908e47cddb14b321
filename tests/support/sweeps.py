"""Sweeps of the tiny BERT: begun as a command or typed in this process, and what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ptuning.deltas.format import read_delta
from support.commands import TypeIt
from support.running import ROOT, TINY


def start(runs_dir: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """Start a sweep of the tiny BERT in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "train.py", "-m", *TINY, *overrides, f"runs_dir={runs_dir}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def sweep(runs_dir: Path, *overrides: str, code: int = 0, **environment: str) -> str:
    process = start(runs_dir, *overrides, **environment)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def typed(type_it: TypeIt, runs_dir: Path, *overrides: str) -> str:
    """Type a sweep's command in this process; return what was said, and its exit code."""
    told = type_it("-m", *TINY, *overrides, f"runs_dir={runs_dir}")
    return f"{told.out}{told.err}exit {told.code}"


def records(runs_dir: Path) -> dict[str, dict[str, Any]]:
    found = [(path, json.loads(path.read_text())) for path in runs_dir.rglob("record.json")]
    named = {record["name"]: {**record, "path": path.parent} for path, record in found}
    assert len(named) == len(found)
    return named


def results(runs_dir: Path) -> dict[str, Any]:
    """What must not depend on how a run came about."""
    return {
        name: (record["status"], [entry["score"] for entry in record["history"]], _values(record["path"]))
        for name, record in records(runs_dir).items()
    }


def _values(folder: Path) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in sorted(read_delta(folder)[0].items())}


def children(process: int) -> list[int]:
    """Worker processes of a sweep (its direct children that run Python's spawn)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == process and b"spawn_main" in command:
                found.append(int(entry.name))
    return found
