"""Time LayerNorm training steps by what ptuning computes in its own way on a CPU.

python benchmarks/steps.py GLUE_FOLDER [--task TASK] [--layers LAYERS] [--threads N]
"""

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import LocalSource
from ptuning.display.console import quiet
from ptuning.selection.select import select
from ptuning.tasks.glue import get_task
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation

BATCHES, ROUNDS = 2, 3
DROPOUT, ATTENTION, TOKENS = "use_lane_dropout", "use_batched_attention", "skip_unread_tokens"
PADDING = "skip_padding"  # which batched attention is needed for
KEPT = {
    # What stays torch's and transformers' own, the rate of dropout in attention, and whether C computes it.
    "torch's dropout": ((DROPOUT, ATTENTION, TOKENS), None, False),
    "lanes": ((ATTENTION, TOKENS), None, False),
    "lanes, batched attention": ((TOKENS, PADDING), None, False),
    "lanes, batched attention, unread tokens skipped": ((PADDING,), None, False),
    "lanes, batched attention, unread tokens and padding skipped": ((), None, False),
    "all of it, in C": ((), None, True),
    "torch's dropout, none in attention": ((DROPOUT, ATTENTION, TOKENS), 0.0, False),
    "lanes, none in attention": ((TOKENS, PADDING), 0.0, False),
    "lanes, none in attention, unread tokens skipped": ((PADDING,), 0.0, False),
    "lanes, none in attention, unread tokens and padding skipped": ((), 0.0, False),
    "all of it, none in attention, in C": ((), 0.0, True),
}


def main() -> None:
    """Print examples per second, of the process's time and by the clock: best and middle of alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("glue", type=Path)
    parser.add_argument("--task", default="rte")
    parser.add_argument("--layers", default="all")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    quiet()
    torch.set_num_threads(chosen.threads)
    backbone, task = find_backbone("packaged:minilm"), get_task(chosen.task)
    data = GlueDataModule(LocalSource(task, chosen.glue), load_tokenizer(backbone))
    data.setup("fit")
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)]
    classifiers: dict[str, Any] = {}
    for name, (kept, rate, _) in KEPT.items():
        model = load_model(backbone, task, 1, rate)
        select(model, "layernorm", chosen.layers)
        with ExitStack() as stack:
            for function in kept:
                stack.enter_context(patch(f"ptuning.training.module.{function}", lambda model: None))
            classifiers[name] = GlueClassifier(model, task, Optimisation(lr=1e-3, head_lr=1e-3))
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in KEPT}
    for number in range(ROUNDS + 1):
        for name, classifier in classifiers.items():
            with ExitStack() as stack:
                if not KEPT[name][2]:
                    stack.enter_context(patch("ptuning.acceleration.native.library", lambda: None))
                began = time.process_time(), time.perf_counter()
                for batch in batches:
                    classifier.loss(classifier(batch), batch["labels"]).backward()
                taken = time.process_time() - began[0], time.perf_counter() - began[1]
            if number:  # the first round warms up
                rates[name].append((32 * BATCHES / taken[0], 32 * BATCHES / taken[1]))
    for name, found in rates.items():
        process, clock = (sorted(column) for column in zip(*found, strict=True))
        print(f"{name:60}  process {process[-1]:.1f} ({process[ROUNDS // 2]:.1f})  ", end="")
        print(f"clock {clock[-1]:.1f} ({clock[ROUNDS // 2]:.1f})  examples/s", flush=True)


if __name__ == "__main__":
    main()
