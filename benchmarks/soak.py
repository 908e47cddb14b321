"""Many tiny jobs through one worker's session: memory, descriptors and time per job stay flat.

    python benchmarks/soak.py --jobs 2000

Each job is a run of the tiny BERT on synthetic data, through the function that a sweep's worker runs. Tasks, modules,
families and seeds alternate, so that the session lets go of one and takes up another. Time is that of the processor, so
that neighbours matter less. The table has ten rows; the last line says how much a job adds between the second row and
the last.
"""

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ptuning.config.compose import config_folder
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.job import DONE, JobSpec
from ptuning.sweeps.worker import perform, warm_up

TASKS = ("rte", "sst2", "qnli", "mrpc", "qqp")
MODULES = ("layernorm", "query", "full", "frozen")
FAMILIES = ("bert", "roberta", "distilbert")
TINY = (
    "backbone=tiny",
    "data=synthetic",
    "data.sizes.train=64",
    "data.sizes.validation=32",
    "data.sizes.test=8",
    "logger=none",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "task.batch_size=16",
)
SWEEP = Sweep("soak")


def kinds(folder: Path) -> list[dict[str, object]]:
    """Return the configuration of every kind of job."""
    found = []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for task, module, family in itertools.product(TASKS, MODULES, FAMILIES):
            typed = (f"task={task}", f"module={module}", f"backbone.config.model_type={family}")
            cfg = compose("config", [*TINY, *typed, f"runs_dir={folder / 'runs'}"])
            found.append(OmegaConf.to_container(cfg, resolve=True))
    return found


def measure(jobs: int, folder: Path) -> Iterator[tuple[float, float, int]]:
    """Run jobs one after the other; yield seconds of processor time, resident MiB and open descriptors after each."""
    configs = kinds(folder)
    warm_up()
    for number in range(jobs):
        config = configs[number % len(configs)] | {"seed": number}
        began = time.process_time()
        outcome = perform(JobSpec(config, SWEEP, folder / "job.folder", folder, {}, (), None))
        seconds = time.process_time() - began
        if outcome.status != DONE:
            sys.exit(f"Job {number} ended otherwise: {outcome.status}, {outcome.reason}")
        shutil.rmtree(outcome.folder)
        yield seconds, resident_mb(), len(os.listdir("/proc/self/fd"))


def resident_mb() -> float:
    """Return this process's resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    jobs = parser.parse_args().jobs
    rows: list[tuple[float, float, int]] = []
    marks: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PTUNING_CACHE"] = f"{folder}/cache"
        print("jobs   ms per job (median)   memory, MiB   descriptors", flush=True)
        for number, row in enumerate(measure(jobs, Path(folder)), start=1):
            rows.append(row)
            if number == round(jobs * (len(marks) + 1) / 10):
                milliseconds = 1000 * statistics.median(seconds for seconds, _, _ in rows)
                print(f"{number:<7}{milliseconds:<23.0f}{row[1]:<14.0f}{row[2]}", flush=True)
                marks.append((number, row[1]))
                rows.clear()
    (first, before), (last, after) = marks[1], marks[-1]
    print(f"{1024 * (after - before) / (last - first):+.1f} KiB per job from job {first} to job {last}")


if __name__ == "__main__":
    main()
