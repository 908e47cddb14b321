"""Time LayerNorm training steps by what ptuning computes in its own way on a CPU.

python benchmarks/steps.py GLUE_FOLDER [--task TASK] [--layers LAYERS] [--threads N] [--precision bf16-mixed]
"""

import argparse
import os
import time
from pathlib import Path

import torch
from torch.nn import functional

from ptuning.acceleration import Acceleration, accelerate
from ptuning.acceleration.native.shared_library import SWITCH
from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import LocalSource
from ptuning.display.console import quiet
from ptuning.selection.select import select
from ptuning.tasks.glue import get_task

BATCHES, ROUNDS = 2, 3
KEPT = {
    # What stays torch's and transformers' own, the rate of dropout in attention, and whether C computes it.
    "torch's dropout": (("dropout", "attention", "cls_only"), None, False),
    "16-bit masks": (("attention", "cls_only"), None, False),
    "16-bit masks, batched attention": (("cls_only",), None, False),
    "16-bit masks, batched attention, [CLS] only": (("packing",), None, False),
    "16-bit masks, batched attention, [CLS] only, packed": ((), None, False),
    "all of it, in C": ((), None, True),
    "torch's dropout, none in attention": (("dropout", "attention", "cls_only"), 0.0, False),
    "16-bit masks, none in attention": (("cls_only",), 0.0, False),
    "16-bit masks, none in attention, [CLS] only": (("packing",), 0.0, False),
    "16-bit masks, none in attention, [CLS] only, packed": ((), 0.0, False),
    "all of it, none in attention, in C": ((), 0.0, True),
}


def main() -> None:
    """Print examples per second, of the process's time and by the clock: best and middle of alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("glue", type=Path)
    parser.add_argument("--task", default="rte")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    chosen = parser.parse_args()
    quiet()
    torch.set_num_threads(chosen.threads)
    backbone, task = find_backbone("packaged:minilm"), get_task(chosen.task)
    data = GlueDataModule(LocalSource(task, chosen.glue), load_tokenizer(backbone))
    data.setup("fit")
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)]
    accelerations: dict[str, Acceleration] = {}
    for name, (kept, rate, _) in KEPT.items():
        model = load_model(backbone, task, 1, rate)
        select(model, "layernorm", chosen.layers)
        accelerations[name] = accelerate(model.train(), "cpu", without=kept)
        accelerations[name].begin_fit(chosen.precision)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in KEPT}
    for number in range(ROUNDS + 1):
        for name, acceleration in accelerations.items():
            os.environ[SWITCH] = str(int(KEPT[name][2]))
            began = time.process_time(), time.perf_counter()
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=chosen.precision == "bf16-mixed"):
                    loss = acceleration.training_loss(functional.cross_entropy, batch)
                loss.backward()
            taken = time.process_time() - began[0], time.perf_counter() - began[1]
            if number:  # the first round warms up
                rates[name].append((32 * BATCHES / taken[0], 32 * BATCHES / taken[1]))
    for name, found in rates.items():
        process, clock = (sorted(column) for column in zip(*found, strict=True))
        print(f"{name:60}  process {process[-1]:.1f} ({process[ROUNDS // 2]:.1f})  ", end="")
        print(f"clock {clock[-1]:.1f} ({clock[ROUNDS // 2]:.1f})  examples/s", flush=True)


if __name__ == "__main__":
    main()
