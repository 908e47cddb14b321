"""A search: Optuna's trials are ordinary runs, bad ones end early, and the same command goes on."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from support.commands import TypeIt
from support.running import TINY
from support.sweeps import start, sweep, typed

pytest.importorskip("optuna", reason="the extra `optuna` is not installed")

from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import IntDistribution

from hydra_plugins.ptuning_optuna import _distribution

SEARCH = ("hydra/sweeper=optuna", "module=query", "layers=0", "trainer.max_epochs=1,3", "optim.lr=interval(1e-3,1e-2)")
ALL_LATE_ONES = (
    "hydra/sweeper/sampler=random",
    "hydra/sweeper/pruner=threshold",
    "hydra.sweeper.pruner.lower=1.1",
    "hydra.sweeper.pruner.n_warmup_steps=2",
)
"""Whatever reaches its second epoch without being at its end is pruned, for no score is above 1.1."""


def records(runs_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in runs_dir.rglob("record.json")]


@pytest.mark.slow
def test_a_search_prunes_keeps_its_trials_and_names_the_best(tmp_path: Path, type_it: TypeIt) -> None:
    out = typed(type_it, tmp_path, *SEARCH, *ALL_LATE_ONES, "hydra.sweeper.n_trials=4")
    found = records(tmp_path)
    short = [record for record in found if record["max_epochs"] == 1]
    long = [record for record in found if record["max_epochs"] == 3]
    assert {record["status"] for record in short} == {"finished"}
    assert {record["status"] for record in long} == {"pruned"}
    assert {len(record["history"]) for record in long} == {2}
    assert f"4 trials: {len(short)} complete, {len(long)} pruned; 0 of them from earlier calls" in out
    assert "best: trainer.max_epochs=1 optim.lr=" in out
    assert f"score {100 * max(record['score'] for record in short):.1f}" in out
    rows = out.split("score\n", 1)[1].split("best: ")[0].splitlines()
    scores = sorted((record["score"] for record in short), reverse=True)
    assert [row.split()[-1] for row in rows] == [f"{100 * score:.1f}" for score in scores]
    out = typed(type_it, tmp_path, *SEARCH, *ALL_LATE_ONES, "hydra.sweeper.n_trials=5")
    assert "4 of them from earlier calls" in out
    assert {record["ended"] for record in found} <= {record["ended"] for record in records(tmp_path)}
    assert len(records(tmp_path)) == 5


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("module=query",), "has nothing to search"),
        (("optim.lr=interval(2,1)",), "is not a range to search"),
        (("seed=1,2", "hydra.sweeper.n_trials=0"), "n_trials=0"),
        (("seed=1,2", "dry_run=true"), "no grid to print"),
        (("seed=1,2", "hydra.sweeper.pruner._target_=optuna.pruners.Medium"), "hydra.sweeper.pruner"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_sentence(
    overrides: tuple[str, ...], sentence: str, tmp_path: Path, type_it: TypeIt
) -> None:
    told = type_it("-m", *TINY, f"runs_dir={tmp_path}", "hydra/sweeper=optuna", *overrides)
    assert told.code == 2
    assert sentence in told.err
    assert "Traceback" not in told.out + told.err


@pytest.mark.slow
def test_a_search_whose_data_changed_is_another_and_goes_on_with_no_earlier_score(
    tmp_path: Path, type_it: TypeIt
) -> None:
    file = tmp_path / "train.csv"
    own = ("task=custom", f"data.train={file}", "data.text=text", "backbone=tiny", "logger=none", "module=frozen")
    search = ("hydra/sweeper=optuna", "hydra/launcher=basic", "seed=1,2", "hydra.sweeper.n_trials=1")
    told = []
    for word in ("good", "fine"):
        file.write_text("text,label\n" + f"{word} film,1\nbad film,0\n" * 20)
        told.append(type_it("-m", *own, *search, f"runs_dir={tmp_path}").out)
    assert all("1 complete; 0 of them from earlier calls" in out for out in told), told


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a=tag(log,range(1,100))", IntDistribution(1, 99, log=True)),
        ("a=range(1,100,2)", IntDistribution(1, 99, step=2)),
        ("a=tag(log,int(interval(1,99)))", IntDistribution(1, 99, log=True)),
    ],
)
def test_a_range_is_searched_as_it_says(typed: str, expected: IntDistribution) -> None:
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert _distribution(override) == expected


@pytest.mark.slow
def test_a_search_learns_from_what_is_held_out_goes_on_with_other_workers_and_tries_again(tmp_path: Path) -> None:
    search = ("hydra/sweeper=optuna", "module=query", "data.select_on=holdout", "layers=0,7", "optim.lr=1e-3,1e-2")
    search = (*search, "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1")
    out = sweep(tmp_path, *search, "hydra.sweeper.n_trials=4", code=1)
    (best,) = [line for line in out.splitlines() if line.startswith("best: ")]
    held = [record["best"]["holdout_score"] for record in records(tmp_path)]
    assert best.endswith(f"score {100 * max(held):.1f}")
    out = sweep(tmp_path, *search, "hydra.sweeper.n_trials=4", "workers=1", "job_timeout=300")
    assert "4 of them from earlier calls" in out  # layer 7 is refused at every call, and is not asked again


@pytest.mark.slow
def test_a_trial_that_is_typed_by_hand_is_refused(tmp_path: Path) -> None:
    out = sweep(tmp_path, "seed=1,2", "trial=seven", code=1)
    assert "trial=seven names no trial" in out


@pytest.mark.slow
def test_a_stopped_search_tries_the_stopped_trial_again(tmp_path: Path) -> None:
    search = ("hydra/sweeper=optuna", "module=query", "optim.lr=interval(1e-3,1e-2)", "hydra.sweeper.n_trials=3")
    process = start(tmp_path, *search)
    assert process.stdout
    while "done" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    out = sweep(tmp_path, *search)
    assert "3 trials: 3 complete" in out
    assert [record["status"] for record in records(tmp_path)] == ["finished"] * 3
