"""Run classes of cases over ranges of seeds, and add what came out to docs/reliability.md.

python tests/chaos                              # every class from its next seed: 300 kills, 200 faults, 10,000 inputs
python tests/chaos killed --seeds 40:41 --keep  # one case again, its folder kept, nothing written down

A case that is lost, wrong or unclear is printed with the line that repeats it; the exit code is then 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "PTUNING_PRECISION": "32-true",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "HYDRA_FULL_ERROR": "0",
    "COLUMNS": "200",
}

from chaos import damage, fuzz, kills, races, table
from chaos.forks import ROOT, Process, run
from chaos.table import CLASSES, Count
from chaos.world import RIGHT, TINY, UNCLEAR, Verdict, World, make_world

_CASES: dict[str, Callable[[World, int, Path], Verdict]] = {
    "killed": kills.killed,
    "asked_to_stop": kills.asked_to_stop,
    "crash_at_a_write": kills.crash_at_a_write,
    "disk_full": kills.disk_full,
    "read_only": kills.read_only,
    "two_at_once": kills.two_at_once,
    "race_killed": races.race_killed,
    "finished_run": damage.finished_run,
    "checkpoint": damage.checkpoint,
    "caches": damage.caches,
}


def main() -> None:
    """Run what is asked for, class by class; what is done is written down after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help=f"of {', '.join(CLASSES)}; all when left out")
    parser.add_argument("--seeds", help="FROM:TO, instead of the next ones")
    parser.add_argument("--cases", type=int, help="how many, instead of the class's own number")
    parser.add_argument("--keep", action="store_true", help="keep the folders and write nothing down")
    chosen = parser.parse_args()
    if unknown := set(chosen.classes) - set(CLASSES):
        parser.error(f"no such class: {', '.join(sorted(unknown))}; there are {', '.join(CLASSES)}")
    _import_everything()
    folder = Path(tempfile.mkdtemp(prefix="ptuning-chaos-"))
    failed = False
    for name in chosen.classes or CLASSES:
        first, last = _seeds(name, chosen)
        count = _run_class(name, first, last, folder)
        failed |= count.failures > 0
        if not chosen.keep:
            table.add(name, count)
    if chosen.keep:
        print(f"Kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(int(failed))


def _seeds(name: str, chosen: argparse.Namespace) -> tuple[int, int]:
    if chosen.seeds:
        first, last = map(int, chosen.seeds.split(":"))
        return first, last
    first = table.next_seed(name)
    return first, first + (chosen.cases or CLASSES[name].cases)


def _run_class(name: str, first: int, last: int, folder: Path) -> Count:
    began, found = time.monotonic(), Counter[str]()
    if name in fuzz.PROPERTIES:
        found = fuzz.check(name, first, last, folder / name)
    else:
        world = _world(name, folder / name)
        for seed in range(first, last):
            place = world.fresh("case")
            try:
                verdict = _CASES[name](world, seed, place)
            except Exception as error:  # noqa: BLE001  the attack itself failed: that is a case to look at
                verdict = Verdict(UNCLEAR, f"{type(error).__name__}: {error}")
            found[verdict.kind] += 1
            if verdict.kind != RIGHT:
                print(f"{name} --seeds {seed}:{seed + 1}: {verdict.kind}: {verdict.why}", flush=True)
    seconds = time.monotonic() - began
    print(f"{name}: {dict(found)} of seeds {first} to {last - 1} in {seconds:,.0f} s", flush=True)
    return Count(first, last, found["lost"], found["wrong"], found["unclear"], _version())


def _world(name: str, folder: Path) -> World:
    folder.mkdir()
    os.environ["PTUNING_CACHE"] = str(folder / "cache")
    more = ("layers=last:1", "frozen_prefix=cache", "checkpoint_seconds=60") if name == "caches" else ()
    world = (
        make_world(folder, races.RACE, races.result) if name == "race_killed" else make_world(folder, (*TINY, *more))
    )
    began = time.monotonic()
    run(world.fresh("case"), world.command)
    (folder / "seconds").write_text(str(time.monotonic() - began))
    if name in ("finished_run", "checkpoint"):
        (folder / "other").mkdir()
        run(folder / "other", (*world.command, "seed=2", "keep_checkpoint=true"))
    if name == "checkpoint":
        place = world.fresh("case")
        process = Process(place, world.command)
        while not any(place.rglob("last.ckpt")):
            time.sleep(0.01)
        time.sleep(0.05)
        process.send(kills.signal.SIGINT)
        process.wait()
        shutil.copytree(place / "runs", folder / "interrupted")
    return world


def _import_everything() -> None:
    """Import what a run imports and look at Hydra's plugins, but compute nothing: autograd and forks do not mix."""
    import lightning.pytorch as pl
    from hydra.core.plugins import Plugins

    import ptuning.cli.main
    import ptuning.inference.evaluation
    import ptuning.inference.stream
    import ptuning.results.report
    import ptuning.sweeps.race_screen
    import ptuning.training.run  # noqa: F401
    from ptuning.backbones.load import load_model, load_tokenizer
    from ptuning.backbones.source import find_backbone
    from ptuning.config.compose import compose
    from ptuning.tasks.glue import get_task

    Plugins.instance()
    backbone = compose(["backbone=tiny"]).backbone
    found = find_backbone(backbone.path, None, dict(backbone.config))
    load_model(found, get_task("rte"), seed=0)
    load_tokenizer(found)
    pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


def _version() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
