"""Races as commands: one answer whatever the number of workers, and two at once on one folder."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.sweeps import records, results, start, sweep

RACE = (
    *("hydra/sweeper=race", "module=layernorm,frozen,full", "race.margin=30", "race.runs=6"),
    *("trainer.max_epochs=1", "optim.lr=0.01", "trainer.enable_progress_bar=false"),
)


def ended(runs_dir: Path) -> list[dict[str, Any]]:
    """What the races below a folder left, without times and places."""
    races = [json.loads(file.read_text()) for file in sorted(runs_dir.glob(".sweeps/*/race.json"))]
    for race in races:
        for one in race["candidates"]:
            del one["seconds"], one["runs"]
    return races


@pytest.mark.slow
def test_the_number_of_workers_changes_neither_the_answer_nor_a_weight(tmp_path: Path) -> None:
    for workers in (1, 2):
        sweep(tmp_path / str(workers), *RACE, f"workers={workers}")
    one, two = (ended(tmp_path / str(workers)) for workers in (1, 2))
    assert one == two
    assert one[0]["runs"] == 6
    assert results(tmp_path / "1") == results(tmp_path / "2")


@pytest.mark.slow
def test_two_races_on_one_folder_run_no_job_twice_and_both_end_with_the_answer(tmp_path: Path) -> None:
    both = [start(tmp_path, *RACE, "workers=1") for _ in range(2)]
    said = [_said(process) for process in both]
    first, second = ended(tmp_path)
    assert first == second
    assert first["end"] == "runs spent"
    trained = re.findall(r"\] done (module=\w+ seed=\d)", "".join(said))
    assert sorted(trained) == sorted(
        {f"module={one['module']} seed={one['seed']}" for one in records(tmp_path).values()}
    )


def _said(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return out
