"""Time LayerNorm training steps by how dropout is drawn: python benchmarks/dropout.py GLUE_FOLDER [--threads N]."""

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from ptuning.console import quiet
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import LocalSource
from ptuning.model.backbone import find_backbone, load_model, load_tokenizer
from ptuning.model.classifier import GlueClassifier, Optimisation
from ptuning.selection import select, set_trainable
from ptuning.tasks import get_task

BATCHES, ROUNDS = 2, 3
KEPT = {
    # What stays torch's and transformers' own, and the rate of dropout in attention.
    "torch's dropout": (("use_lane_dropout", "use_batched_attention"), None),
    "lanes": (("use_batched_attention",), None),
    "lanes, batched attention": ((), None),
    "torch's dropout, none in attention": (("use_lane_dropout", "use_batched_attention"), 0.0),
    "lanes, none in attention": ((), 0.0),
}


def main() -> None:
    """Print examples per second, of the process's time and by the clock: best and middle of alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("glue", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    quiet()
    torch.set_num_threads(chosen.threads)
    backbone, task = find_backbone("packaged:minilm"), get_task("rte")
    data = GlueDataModule(LocalSource(task, chosen.glue), load_tokenizer(backbone))
    data.setup("fit")
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)]
    classifiers: dict[str, Any] = {}
    for name, (kept, rate) in KEPT.items():
        model = load_model(backbone, task, 1, rate)
        set_trainable(model, select(model, "layernorm"))
        with ExitStack() as stack:
            for function in kept:
                stack.enter_context(patch(f"ptuning.model.classifier.{function}", lambda model: None))
            classifiers[name] = GlueClassifier(model, task, Optimisation(lr=1e-3, head_lr=1e-3))
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in KEPT}
    for number in range(ROUNDS + 1):
        for name, classifier in classifiers.items():
            began = time.process_time(), time.perf_counter()
            for batch in batches:
                classifier.loss(classifier(batch), batch["labels"]).backward()
            taken = time.process_time() - began[0], time.perf_counter() - began[1]
            if number:  # the first round warms up
                rates[name].append((32 * BATCHES / taken[0], 32 * BATCHES / taken[1]))
    for name, found in rates.items():
        process, clock = (sorted(column) for column in zip(*found, strict=True))
        print(f"{name:36}  process {process[-1]:.1f} ({process[ROUNDS // 2]:.1f})  ", end="")
        print(f"clock {clock[-1]:.1f} ({clock[ROUNDS // 2]:.1f})  examples/s", flush=True)


if __name__ == "__main__":
    main()
