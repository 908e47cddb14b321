"""Sweeps through submitit and Ray: the same results, and a lost job stays one job's failure.

Ray is real, with two workers on this machine. submitit runs its local executor, and its Slurm executor on stand-ins for
``sbatch``, ``srun``, ``sacct`` and ``scontrol`` that start the array's tasks here.
"""

import importlib.util
import os
import pickle
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ptuning.errors import ConfigError
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.job import JobSpec, Outcome
from support.commands import TypeIt
from support.running import ROOT, TINY, run_in
from support.sweeps import records, results, start, sweep

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("submitit") is None,
    reason="the extras `slurm` and `ray` are not installed",
)

slow = pytest.mark.slow
GRID = ("module=query,bias", "layers=0")
LOCAL = ("hydra/launcher=submitit",)
RAY = ("hydra/launcher=ray",)
PACKED = ("hydra.launcher.jobs_per_task=2",)
SLURM = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.array_parallelism=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The grid's results, each run alone in one process that keeps nothing."""
    runs_dir = tmp_path_factory.mktemp("undisturbed")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for module in ("query", "bias"):
        run_in(runs_dir, *TINY, f"module={module}", "layers=0")
    torch.set_num_threads(threads)
    return results(runs_dir)


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A Ray cluster of this machine with room for two jobs; what a sweep's environment must hold to join it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ray refuses strangers: whoever joins a cluster names its token.
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # its sockets need a short path
        options = ("--head", "--block", "--disable-usage-stats", "--num-cpus=2", "--num-gpus=0", f"--port={port}")
        small = ("--include-dashboard=false", f"--object-store-memory={80 * 2**20}", f"--temp-dir={folder}")
        process = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", *options, *small],
            env={**os.environ, **access},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout
        seen = ""
        while "started" not in seen:
            seen += process.stdout.readline()
            assert process.poll() is None, seen
        yield {"RAY_ADDRESS": f"127.0.0.1:{port}", **access}
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What the launcher under test needs around it."""
    launcher = request.getfixturevalue("launcher")
    if launcher == RAY:
        return dict(request.getfixturevalue("cluster"))
    return stand_ins(tmp_path / "slurm") if launcher[: len(SLURM)] == SLURM else {}


def holder(runs_dir: Path) -> tuple[int, Path]:
    """Wait for a job that trains and return the process that holds its folder's lock, and the folder."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    files = [Path(os.readlink(link)) for link in (entry / "fd").iterdir()]
                except OSError:
                    continue
                for file in files:
                    if file.name == ".lock" and runs_dir in file.parents and (file.parent / "last.ckpt").exists():
                        return int(entry.name), file.parent
        time.sleep(0.02)
    raise AssertionError("no job trains")


@slow
@pytest.mark.parametrize(
    "launcher", [LOCAL, RAY, SLURM, (*SLURM, *PACKED)], ids=["submitit", "ray", "slurm", "slurm, packed"]
)
def test_a_sweep_gives_what_plain_runs_give_and_is_not_done_twice(
    launcher: tuple[str, ...], environment: dict[str, str], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    runs_dir = tmp_path / "runs"
    out = sweep(runs_dir, *GRID, *launcher, **environment)
    assert "2 done" in out
    assert results(runs_dir) == undisturbed
    stamps = {name: record["ended"] for name, record in records(runs_dir).items()}
    assert "2 skipped" in sweep(runs_dir, *GRID, *launcher, **environment)
    assert {name: record["ended"] for name, record in records(runs_dir).items()} == stamps


@slow
@pytest.mark.parametrize("launcher", [LOCAL, RAY], ids=["submitit", "ray"])
def test_a_job_that_raises_stays_one_failure(
    launcher: tuple[str, ...], environment: dict[str, str], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    bad = run_in(tmp_path, *TINY, "module=bias", "layers=0").path
    (bad / "record.json").unlink()
    torch.save({"run_key": "another"}, bad / "last.ckpt")
    out = sweep(tmp_path, *GRID, *launcher, code=1, **environment)
    assert "1 done, 1 failed" in out
    assert "last.ckpt" in out
    assert "Traceback" not in out
    (bad / "last.ckpt").unlink()
    assert "1 done, 1 skipped" in sweep(tmp_path, *GRID, *launcher, **environment)
    assert results(tmp_path) == undisturbed


@slow
@pytest.mark.parametrize(
    "launcher", [LOCAL, RAY, SLURM, (*SLURM, *PACKED)], ids=["submitit", "ray", "slurm", "slurm, packed"]
)
def test_a_killed_job_is_one_failure_which_the_next_call_finishes(
    launcher: tuple[str, ...], environment: dict[str, str], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    runs_dir = tmp_path / "runs"
    process = start(runs_dir, *GRID, "checkpoint_seconds=0", *launcher, **environment)
    worker, folder = holder(runs_dir)
    os.kill(worker, signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "1 done, 1 failed" in out
    (failed,) = [record for record in records(runs_dir).values() if record["status"] == "failed"]
    assert failed["path"] == folder
    assert failed["reason"]
    assert "1 done, 1 skipped" in sweep(runs_dir, *GRID, *launcher, **environment)
    assert results(runs_dir) == undisturbed


@slow
@pytest.mark.parametrize("launcher", [LOCAL, RAY], ids=["submitit", "ray"])
def test_ctrl_c_stops_gently_and_the_same_command_goes_on(
    launcher: tuple[str, ...], environment: dict[str, str], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    process = start(tmp_path, *GRID, "checkpoint_seconds=0", *launcher, **environment)
    holder(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "The same command goes on" in out
    assert "Traceback" not in out
    assert not [record for record in records(tmp_path).values() if record["status"] in ("running", "failed")]
    sweep(tmp_path, *GRID, *launcher, **environment)
    assert results(tmp_path) == undisturbed


@slow
@pytest.mark.parametrize("launcher", [LOCAL, SLURM, (*SLURM, *PACKED)], ids=["submitit", "slurm", "slurm, packed"])
def test_a_preempted_job_is_queued_again_and_goes_on_from_its_checkpoint(
    launcher: tuple[str, ...], environment: dict[str, str], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    process = start(tmp_path, *GRID, "checkpoint_seconds=0", *launcher, **environment)
    worker, _ = holder(tmp_path)
    os.kill(worker, signal.SIGUSR2)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "2 done" in out
    logs = [path.read_text() for path in tmp_path.rglob("*_log.*")]
    assert sum("Requeued" in text for text in logs) == 1
    assert results(tmp_path) == undisturbed


@slow
def test_a_job_that_hangs_is_ended_where_it_runs(tmp_path: Path) -> None:
    endless = ("data.sizes.train=200000", "trainer.max_epochs=1", "task.batch_size=4", "seed=1,2")
    out = sweep(tmp_path, *endless, "job_timeout=15", *LOCAL, code=1)
    assert "2 failed" in out
    assert "took longer than job_timeout=15 s" in out
    assert all("job_timeout" in record["reason"] for record in records(tmp_path).values())


def specs(folder: Path, *tasks: str) -> list[JobSpec]:
    """Jobs that no test runs."""
    (folder / "jobs").mkdir(parents=True)
    configs = [{"backbone": {"path": "b"}, "task": {"name": task}, "data": {}} for task in tasks]
    return [
        JobSpec(config, Sweep("s"), folder / "jobs" / f"{number}.folder", folder, {}, (), None)
        for number, config in enumerate(configs)
    ]


def test_jobs_of_one_backbone_and_task_share_a_pack(tmp_path: Path) -> None:
    from ptuning.sweeps.engines.packs import packs

    made = specs(tmp_path, "rte", "rte", "rte", "mrpc", "rte")
    assert list(packs(made, 2)) == [tuple(made[:2]), (made[2],), (made[3],), (made[4],)]


def test_a_refused_sbatch_keeps_what_runs_and_the_rest_is_submitted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptuning.sweeps.engines.packs import outcome_of
    from ptuning.sweeps.engines.submitit import SlurmEngine

    commands = tmp_path / "slurm"
    monkeypatch.setenv("PATH", stand_ins(commands)["PATH"])
    full = commands / "full"
    (commands / "sbatch").write_text(
        f"#!/bin/sh\nif [ -e {full} ]; then echo 'sbatch: error: the queue is full' >&2; exit 1; fi\n"
        f"echo Submitted batch job 1; touch {full}\n"
    )
    logs = tmp_path / "logs"
    queue = {"submitit_folder": f"{logs}/%j", "timeout_min": 5, "array_parallelism": 2, "jobs_per_task": 2}
    engine = SlurmEngine(queue)
    engine.pause, engine.busy_pause = 0.0, 0.2
    engine.get_ready(5000)
    jobs = specs(tmp_path, *["rte"] * 7)
    assert engine.capacity() == 4
    handles = engine.submit(jobs)
    assert [handle.spec for handle in handles] == jobs[:4]  # two tasks run, over the whole sweep
    assert engine.capacity() == 4
    for job in jobs[:2]:
        outcome_of(job).write_bytes(pickle.dumps(Outcome("done", 0.5)))
    ended = engine.ended(handles)
    assert ended == handles[:2]
    assert [engine.result(handle).score for handle in ended] == [0.5, 0.5]
    assert engine.capacity() == 4
    for _ in range(2):
        assert engine.submit(jobs[4:]) == []
        assert engine.capacity() == 2  # what is there, and no room for now
        time.sleep(0.25)
    told = capsys.readouterr()
    assert (told.out + told.err).count("the queue is full") == 1
    assert not list(logs.glob("*.pkl"))
    full.unlink()
    assert len(engine.submit(jobs[4:])) == 2

    full.touch()
    with pytest.raises(ConfigError, match="the queue is full"):
        SlurmEngine(queue).submit(jobs)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (SLURM, "srun"),
        ((*LOCAL, "hydra.launcher.timeout_min=soon"), "timeout_min"),
        pytest.param((*RAY, "hydra.launcher.ray.init.address=127.0.0.1:1"), "address=127.0.0.1:1", marks=slow),
    ],
)
def test_a_launcher_that_cannot_start_says_so_in_one_sentence(
    overrides: tuple[str, ...], sentence: str, tmp_path: Path, type_it: TypeIt
) -> None:
    told = type_it("-m", *TINY, f"runs_dir={tmp_path}", "seed=1,2", *overrides)
    assert told.code == 2
    assert sentence in told.err.splitlines()[-1]
    assert "Traceback" not in told.out + told.err


@pytest.mark.parametrize(("launcher", "extra"), [(RAY, "ray"), (LOCAL, "slurm"), (SLURM, "slurm")])
def test_a_missing_extra_is_named(launcher: tuple[str, ...], extra: str, tmp_path: Path) -> None:
    """Python's packages without the extras': links to all others."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("ray", "submitit", "hydra_plugins", "hydra_submitit")):
            (packages / entry.name).symlink_to(entry)
    process = subprocess.run(
        [sys.executable, "-S", "train.py", "-m", *TINY, "seed=1,2", *launcher, f"runs_dir={tmp_path / 'runs'}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{packages}"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2, process.stderr
    assert f"pip install 'ptuning[{extra}]'" in process.stderr.splitlines()[-1]


def stand_ins(folder: Path) -> dict[str, str]:
    """Write stand-ins for Slurm's commands and return the PATH that finds them."""
    folder.mkdir()
    head = f"#!{sys.executable}\nimport json, os, re, subprocess, sys\nfolder = {str(folder)!r}\n"
    scripts = {
        # Reads the array's size from the script, answers at once, and runs the tasks two at a time behind its back.
        "sbatch": """
text = open(sys.argv[1]).read()
count = int((re.search(r"--array=0-(\\d+)", text) or [0, 0])[1]) + 1
job = 100 + len(os.listdir(folder))
print(f"Submitted batch job {job}", flush=True)
subprocess.Popen([folder + "/run", sys.argv[1], str(job), str(count)], start_new_session=True,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
""",
        "run": """
from concurrent.futures import ThreadPoolExecutor
script, job, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
text = open(script).read()
def run(task):
    names = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    if "--array" in text:
        names |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(task)}
    name = f"{job}_{task}" if "--array" in text else job
    state = folder + "/state-" + name
    open(state, "w").write("RUNNING")
    again = folder + "/again-" + name
    failed = subprocess.run(["bash", script], env={**os.environ, **names}).returncode
    while os.path.exists(again):
        os.remove(again)
        failed = subprocess.run(["bash", script], env={**os.environ, **names}).returncode
    open(state, "w").write("FAILED" if failed else "COMPLETED")
with ThreadPoolExecutor(2) as pool:
    list(pool.map(run, range(count)))
""",
        "scontrol": """
assert sys.argv[1] == "requeue"
open(folder + "/again-" + sys.argv[2], "w").close()
""",
        "srun": """
job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
places = {"%A": job, "%a": task, "%j": job, "%t": "0"}
def fill(text):
    return re.sub("%[Aajt]", lambda found: places[found[0]], text)
words = sys.argv[1:]
assert words[0] == "--unbuffered" and words[1] == "--output" and words[3] == "--error", words
with open(fill(words[2]), "a") as out, open(fill(words[4]), "a") as err:
    sys.exit(subprocess.run(words[5:], stdout=out, stderr=err).returncode)
""",
        "sacct": """
print("JobID|State|NodeList")
for name in sorted(os.listdir(folder)):
    if name.startswith("state-"):
        print(f"{name[6:]}|{open(folder + '/' + name).read()}|here")
""",
    }
    for name, script in scripts.items():
        (folder / name).write_text(head + script)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}
