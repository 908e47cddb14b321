"""What a person sees: a single run's lines, the screen of a sweep while it runs, and the answer at its end."""

import io
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console

from ptuning.config.compose import config_folder
from ptuning.display import progress_bar
from ptuning.display.console import CleanConsole
from ptuning.runs.progress import RunProgress, read_progress, write_progress
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.answer import show_answer
from ptuning.sweeps.durations import Durations
from ptuning.sweeps.engines import Engine
from ptuning.sweeps.grid_status import GridStatus
from ptuning.sweeps.job import DONE, FAILED, INTERRUPTED, NOT_BEGUN, Job, JobSpec, Outcome, announcement_of, progress_of
from ptuning.sweeps.progress import SweepProgress, show_end
from ptuning.sweeps.scheduler import run_jobs
from ptuning.training.run import execute
from ptuning.training.session import Session
from support.commands import TypeIt
from support.records import record, seeds
from support.running import TINY, Train

NOTHING_KNOWN = GridStatus({}, frozenset(), {}, Durations())


def screen(terminal: bool = True, height: int = 40) -> Console:
    return CleanConsole(
        file=io.StringIO(), force_terminal=terminal, width=120, height=height, highlight=False, soft_wrap=True
    )


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def shown(progress: SweepProgress) -> str:
    console = screen()
    console.print(progress.screen())
    return text(console)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("config", list(overrides))


def grid(*names: str) -> list[Job]:
    return [Job(number, name, "rte", "", {}) for number, name in enumerate(names)]


# A single run


def test_a_run_at_a_terminal_leaves_a_line_per_epoch(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen()
    monkeypatch.setattr(progress_bar, "console", console)
    train("module=query")
    lines = [line.strip() for line in text(console).splitlines()]
    assert [line.split("  ")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]


def test_the_start_table_says_epochs_batch_rates_precision_and_limits(tmp_path: Path, type_it: TypeIt) -> None:
    limits = ("trainer.limit_train_batches=4", "trainer.max_steps=3", "trainer.accumulate_grad_batches=2")
    rates = ("optim.lr=0.002", "optim.weight_decay=0.1", "optim.schedule=constant")
    out = type_it(*TINY, "module=query", "task=rte", *limits, *rates, f"runs_dir={tmp_path}").out
    rows = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line.strip()}
    assert "(96 train: 4 of 6 batches, 40 validation)" in rows["task"]
    assert rows["training"] == "training 2 epochs, batch 16 × 2, seed 1, at most 3 steps"
    assert rows["rates"] == "rates 0.002, head 0.002, constant schedule, weight decay 0.1"
    assert "32-true" in rows["on"]


# A job's word on how far it is


def test_a_run_tells_how_far_it_is_after_every_epoch_and_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar.ProgressReport, "every", 0.0)
    told: list[RunProgress] = []
    limits = ("trainer.limit_train_batches=3", "trainer.max_steps=5")
    cfg = composed(*TINY, "module=query", *limits, f"runs_dir={tmp_path}")
    execute(cfg, Session(keeps_backbone=False), report=told.append)
    assert [round(one.epoch, 1) for one in told] == [0.3, 0.7, 1.0, 1.0, 1.3, 1.7, 1.7]
    assert {one.epochs for one in told} == {1.67}  # five of three steps each
    assert all(0 < one.loss < 5 and one.examples_per_second > 0 for one in told)
    assert [one.score == one.score for one in told] == [False] * 3 + [True] * 4
    assert told[-1].seconds_left == 0 < told[0].seconds_left


def test_a_half_written_word_is_no_word(tmp_path: Path) -> None:
    file = tmp_path / "0.progress"
    assert read_progress(file) is None
    write_progress(file, RunProgress(epoch=1.5, epochs=3))
    found = read_progress(file)
    assert found is not None
    assert (found.epoch, found.epochs) == (1.5, 3)
    file.write_text(file.read_text()[:20])
    assert read_progress(file) is None
    write_progress(tmp_path / "no folder" / "0.progress", RunProgress())  # costs nobody anything


# The screen of a sweep


def test_the_screen_shows_what_runs_what_ended_newest_first_and_a_time_left_that_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    jobs = grid("module=query", "module=[key,value]", "module=ffn", "module=bias", "module=full")
    progress = SweepProgress(screen(), jobs, ["cpu", "cpu"], NOTHING_KNOWN, tmp_path)
    (tmp_path / "jobs").mkdir()
    for slot in (0, 1):
        progress.start(jobs[slot], slot)
    assert "left" not in shown(progress)
    now += 10
    progress.end(jobs[0], Outcome(DONE, 0.7, 10.0))
    progress.start(jobs[2], 0)
    said = RunProgress(epoch=2.4, epochs=4, loss=0.5123, score=0.66, examples_per_second=1234.5, seconds_left=30.0)
    write_progress(progress_of(announcement_of(tmp_path, jobs[1])), said)
    out = shown(progress)
    assert re.search(r"cpu +module=\[key,value\] +2.4/4 +0.512 +66.0 +1,234 +10 s", out), out
    assert re.search(r"done +module=query +70.0 +10 s", out), out
    assert re.search(r"best rte +module=query +70.0", out), out
    assert "about 30 s left" in out  # 30 of one, 10 of each of the others, on two workers
    now += 4
    assert "about 26 s left" in shown(progress)
    now += 6
    progress.end(jobs[2], Outcome(FAILED, None, 10.0, reason="it broke"))
    lines = shown(progress).splitlines()
    (failed,) = (number for number, line in enumerate(lines) if re.match(r"failed +module=ffn +it broke", line))
    assert lines[failed + 1].startswith("done")
    assert lines[0].startswith("2/5  0 skipped  1 failed")


def test_a_screen_with_little_room_says_how_many_more_run(tmp_path: Path) -> None:
    jobs = grid(*(f"seed={seed}" for seed in range(300)))
    progress = SweepProgress(screen(height=24), jobs, ["slurm"] * 256, NOTHING_KNOWN, tmp_path)
    for job in jobs[:256]:
        progress.start(job, None)
    for job in jobs[256:]:
        progress.end(job, Outcome(DONE, 0.5, 1.0))
    out = shown(progress)
    assert len(out.rstrip().splitlines()) <= 24
    assert "more that run" in out
    assert "seed=299" in out


def test_a_log_has_a_plain_line_per_job(tmp_path: Path) -> None:
    jobs, console = grid("module=[query,value]", "module=ffn"), screen(terminal=False)
    with SweepProgress(console, jobs, ["cpu"], NOTHING_KNOWN, tmp_path) as progress:
        progress.start(jobs[0], 0)
        progress.draw()
        progress.end(jobs[0], Outcome(DONE, 0.7, 2.0))
        progress.end(jobs[1], Outcome(FAILED, None, 1.0, reason="[it] broke"))
    lines = ["[1/2] done module=[query,value]  score 70.0  (2.0 s)", "[2/2] failed module=ffn  [it] broke  (1.0 s)"]
    assert text(console).splitlines() == lines


class Stopped(Engine):
    """Runs one job at a time; Ctrl-C comes while the second is at work."""

    is_elsewhere = False

    def slots(self) -> list[str]:
        return ["cpu"]

    def describe(self) -> str:
        return "here"

    def capacity(self) -> int:
        return 1

    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        specs[0].announcement.parent.mkdir(exist_ok=True)
        specs[0].announcement.write_text("a run folder")
        return [specs[0].announcement.stem]

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        if handles == ["1"]:
            os.kill(os.getpid(), signal.SIGINT)
        return list(handles)

    def result(self, handle: Any) -> Outcome:
        return Outcome(DONE if handle == "0" else INTERRUPTED, 0.5 if handle == "0" else None)

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        pass


def test_after_ctrl_c_interrupted_counts_what_ran_and_the_rest_is_not_begun(tmp_path: Path) -> None:
    jobs = grid("seed=1", "seed=2", "seed=3", "seed=4")
    outcomes = run_jobs(Stopped(), jobs, Sweep("a sweep", ()), NOTHING_KNOWN, tmp_path)
    assert [outcomes[job.number].status for job in jobs] == [DONE, INTERRUPTED, NOT_BEGUN, NOT_BEGUN]
    console = screen(terminal=False)
    show_end(console, jobs, outcomes, 3.0)
    assert "1 done, 1 interrupted, 2 not begun  in 3.0 s" in text(console)
    assert "The same command goes on" in text(console)


# Its end


def test_a_sweep_ends_with_the_table_of_its_own_cells_and_the_way_to_the_report(tmp_path: Path) -> None:
    seeds(tmp_path, 0.70, 0.72, module="layernorm")
    record(tmp_path, module="query", score=0.6)
    ours = [folder.parent for folder in tmp_path.rglob("record.json")]
    record(tmp_path, module="ffn", score=0.9)  # of another sweep
    outcomes = {number: Outcome(DONE, 0.7, folder=str(folder)) for number, folder in enumerate(ours)}
    outcomes[9] = Outcome(FAILED, reason="no run folder")
    console = screen(terminal=False)
    show_answer(console, outcomes, tmp_path)
    out = text(console)
    assert re.search(r"layernorm +0.92 +71.0 ± 1.4 \[58.3, 83.7\] \*", out), out
    assert re.search(r"query +0.92 +60.0$", out, flags=re.M), out
    assert "ffn" not in out
    assert "3 runs of this sweep." in out
    assert f"ptuning report {tmp_path}" in out


def test_a_long_table_is_cut_with_a_sentence(tmp_path: Path) -> None:
    folders = [record(tmp_path, layers=str(layer), score=0.5) for layer in range(50)]
    console = screen(terminal=False)
    show_answer(console, {n: Outcome(DONE, 0.5, folder=str(folder)) for n, folder in enumerate(folders)}, tmp_path)
    assert len(re.findall(r"^layernorm ", text(console), flags=re.M)) == 40
    assert "… and 10 more rows." in text(console)


def test_an_answer_that_cannot_be_given_costs_a_sentence(tmp_path: Path) -> None:
    folder = record(tmp_path)
    (folder / "record.json").write_text("{")
    console = screen(terminal=False)
    show_answer(console, {0: Outcome(DONE, 0.5, folder=str(folder))}, tmp_path)
    assert "The table of scores could not be made: No record of a run" in text(console)
    console = screen(terminal=False)
    show_answer(console, {0: Outcome(FAILED), 1: Outcome(NOT_BEGUN)}, tmp_path)
    assert text(console) == ""


def test_a_head_that_was_fitted_exactly_foretells_no_training_time() -> None:
    durations = Durations()
    exact = {"module": "frozen", "trainer": {"max_epochs": 1}, "optimisation": {"head": "exact"}}
    trained = {"module": "query", "trainer": {"max_epochs": 8}, "optimisation": {"lr": 0.001, "head_lr": 0.01}}
    durations.add(exact, 20.0)
    assert durations.estimate(trained) is None
    durations.add(trained | {"module": "key", "trainer": {"max_epochs": 2}}, 10.0)
    assert (durations.estimate(trained), durations.estimate(exact)) == (40.0, 20.0)
