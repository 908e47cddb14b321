"""Sweeps through worker processes: nothing done twice, nothing lost, a failure stays one job's own."""

import errno
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ptuning.errors import ConfigError
from ptuning.sweeps.engines.workers import Slot, make_slots, visible_gpus
from support.commands import TypeIt
from support.running import TINY, run_in
from support.sweeps import children, records, results, start, sweep, typed

GRID = ("module=query,bias", "layers=all,0", "seed=1,2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The grid's results, each run alone in one process that keeps nothing."""
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for module in ("query", "bias"):
        for layers in ("all", "0"):
            for seed in ("1", "2"):
                run_in(runs_dir, *TINY, f"module={module}", f"layers={layers}", f"seed={seed}")
    torch.set_num_threads(threads)
    return results(runs_dir)


def test_a_sweep_gives_what_plain_runs_give_and_is_not_done_twice(
    tmp_path: Path, undisturbed: dict[str, Any], type_it: TypeIt
) -> None:
    out = typed(type_it, tmp_path, *GRID, "workers=2")
    assert "8 done" in out
    assert "tiny, all layers" in out
    assert "8 runs of this sweep." in out
    assert out.endswith("exit 0")
    assert results(tmp_path) == undisturbed
    stamps = {name: record["ended"] for name, record in records(tmp_path).items()}

    out = typed(type_it, tmp_path, *GRID, "workers=2")
    assert "8 skipped" in out
    assert "8 runs of this sweep." in out
    assert "skipped module" not in out
    assert {name: record["ended"] for name, record in records(tmp_path).items()} == stamps


@pytest.mark.slow
def test_hydra_s_environment_reaches_the_jobs(tmp_path: Path, type_it: TypeIt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTUNING_PRECISION", "32")  # put back afterwards
    grid = ("module=frozen", "optim.head=trained", "seed=1,2", "trainer.max_epochs=1")
    out = typed(type_it, tmp_path, *grid, "+hydra.job.env_set.PTUNING_PRECISION=64")
    assert "2 done" in out
    assert {record["precision"] for record in records(tmp_path).values()} == {"64-true"}


def test_failures_are_told_in_one_table_and_tried_again(tmp_path: Path, type_it: TypeIt) -> None:
    out = typed(type_it, tmp_path, "module=query", "layers=0,9", "seed=1")
    assert "1 done, 1 failed" in out
    assert out.endswith("exit 1")
    assert "names layer 9" in out
    assert "Traceback" not in out
    out = typed(type_it, tmp_path, "module=query", "layers=0,9", "seed=1")
    assert "1 skipped, 1 failed" in out
    assert out.endswith("exit 1")


@pytest.mark.slow
def test_a_hung_job_is_ended_and_its_worker_replaced(tmp_path: Path) -> None:
    endless = ("data.sizes.train=96,200000", "trainer.max_epochs=1", "task.batch_size=4")
    out = sweep(tmp_path, *endless, "job_timeout=25", code=1)
    assert "took longer than job_timeout=25 s" in out
    assert "1 done, 1 failed" in out
    (failed,) = [record for record in _readable(tmp_path) if record["status"] == "failed"]
    assert "job_timeout" in failed["reason"]


@pytest.mark.slow
def test_a_worker_that_is_killed_or_asked_to_stop_costs_a_job_which_the_next_call_finishes(
    tmp_path: Path, undisturbed: dict[str, Any], type_it: TypeIt
) -> None:
    process = start(tmp_path, *GRID, "checkpoint_seconds=0")
    hit: set[Path] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        while not (running := {r["path"] for r in records(tmp_path).values() if r["status"] == "running"} - hit):
            time.sleep(0.02)
            assert process.poll() is None
        (worker,) = children(process.pid)
        os.kill(worker, number)
        hit |= running
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "6 done, 2 failed" in out
    assert "killed (SIGKILL)" in out
    assert "its process was asked to stop" in out
    assert sorted(r["status"] for r in _readable(tmp_path) if r["status"] != "finished") == ["failed", "interrupted"]
    assert "2 done, 6 skipped" in typed(type_it, tmp_path, *GRID)
    assert results(tmp_path) == undisturbed


def _readable(runs_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in runs_dir.rglob("record.json")]


@pytest.mark.slow
def test_ctrl_c_stops_gently_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: dict[str, Any], type_it: TypeIt
) -> None:
    process = start(tmp_path, *GRID)
    while not list(tmp_path.rglob("last.ckpt")):
        time.sleep(0.02)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "The same command goes on" in out
    assert "Traceback" not in out
    assert not [r for r in _readable(tmp_path) if r["status"] in ("running", "failed")]
    assert typed(type_it, tmp_path, *GRID).endswith("exit 0")
    assert results(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "data.sizes.train=300000", "seed=1,2")
    while not list(tmp_path.rglob("record.json")):
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert process.returncode == 130


@pytest.mark.slow
def test_two_sweeps_over_one_grid_share_the_work(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    both = [start(tmp_path, *GRID), start(tmp_path, *GRID)]
    outs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert sum(out.count("] done ") for out in outs) == 8, outs
    assert results(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_folder_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    first = run_in(tmp_path, *TINY, "module=query", "seed=1", "force=true")
    (first.path / "record.json").unlink()
    process = start(tmp_path, "module=query", "seed=1,2")
    with FileLock(first.path / ".lock"):
        while not any(record["seed"] == 2 and record["status"] == "finished" for record in _readable(tmp_path)):
            time.sleep(0.05)
            assert process.poll() is None
        time.sleep(1)
        assert process.poll() is None
    out, _ = process.communicate(timeout=60)
    assert "2 done" in out


@pytest.mark.slow
def test_after_twenty_kills_every_job_has_one_finished_record_equal_to_an_undisturbed_one(tmp_path: Path) -> None:
    longer = ("data.sizes.train=4000", "checkpoint_seconds=0.5", "workers=2")
    undisturbed, runs_dir = tmp_path / "undisturbed", tmp_path / "runs"
    sweep(undisturbed, *GRID, *longer)
    chance = random.Random(7)
    hits = 0
    for _ in range(10):
        since = time.time()
        process = start(runs_dir, *GRID, *longer)
        while not (begun := any(path.stat().st_mtime > since for path in runs_dir.rglob("record.json"))):
            if process.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 4))
        workers = children(process.pid)
        for target in (*chance.sample(workers, min(1, len(workers))), process.pid):
            if process.poll() is None:
                workers = children(process.pid)
                os.kill(target, signal.SIGKILL)
                hits += begun
                time.sleep(1 if target == process.pid else chance.uniform(0, 6))
        assert not [worker for worker in workers if _alive(worker)]  # none outlives its sweep
        process.communicate(timeout=300)
    assert hits >= 5  # the others struck before any job had begun, or after the last
    sweep(runs_dir, *GRID, *longer)
    assert results(runs_dir) == results(undisturbed)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_file_system_without_locks_is_one_sentence_before_the_first_job(
    tmp_path: Path, type_it: TypeIt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    out = typed(type_it, tmp_path, *GRID)
    assert out.count("has no locks") == 1
    assert "runs_dir=FOLDER" in out
    assert out.endswith("exit 2")


def test_slots_spread_over_gpus_or_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [slot.device for slot in make_slots("auto", 1, ["0", "1"])] == ["0", "1"]
    assert [slot.device for slot in make_slots("auto", 2, ["0", "1"])] == ["0", "1", "0", "1"]
    assert [slot.device for slot in make_slots(3, 1, ["4", "7"])] == ["4", "7", "4"]
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert make_slots("auto", 1, []) == [Slot(None, 6)]
    assert make_slots(3, 1, []) == [Slot(None, 2)] * 3
    assert {slot.threads for slot in make_slots(64, 1, [])} == {1}
    for workers in (0, -1, "many", 1.5, True):
        with pytest.raises(ConfigError, match="workers"):
            make_slots(workers, 1, [])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="jobs_per_gpu"):
        make_slots("auto", 0, ["0"])


def test_only_visible_gpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert visible_gpus() == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_gpus_and_their_mig_instances_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    listed = (
        "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0a)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-1b)\n"
        "  MIG 3g.20gb     Device  1: (UUID: MIG-2c)\n"
        "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-3d)\n"
    )
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && printf '{listed}'\n")
    command.chmod(0o755)
    assert visible_gpus() == ["MIG-1b", "MIG-2c", "1"]


def test_where_no_tool_lists_gpus_torch_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    driver = tmp_path / "kfd"
    monkeypatch.setattr("ptuning.sweeps.engines.workers._DRIVERS", (str(driver),))
    assert visible_gpus() == []
    driver.touch()
    assert visible_gpus() == ["0", "1"]
