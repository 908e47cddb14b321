"""Time LayerNorm training steps by rows per piece: python benchmarks/pieces.py GLUE_FOLDER [--threads N]."""

import argparse
import time
from pathlib import Path

import torch

import ptuning.model.classifier as classifier
from ptuning.console import quiet
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import LocalSource
from ptuning.model.backbone import find_backbone, load_model, load_tokenizer
from ptuning.selection import select, set_trainable
from ptuning.tasks import get_task

ROWS, BATCHES, ROUNDS = (32, 16, 8, 4), 6, 3


def main() -> None:
    """Print examples per second for each task and number of rows, best of alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("glue", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    quiet()
    torch.set_num_threads(chosen.threads)
    backbone = find_backbone("packaged:minilm")
    tokenizer = load_tokenizer(backbone)
    for task in map(get_task, ("stsb", "rte", "mrpc")):
        model = load_model(backbone, task, seed=1)
        set_trainable(model, select(model, "layernorm"))
        module = classifier.GlueClassifier(model, task, classifier.Optimisation(lr=1e-3, head_lr=1e-3))
        data = GlueDataModule(LocalSource(task, chosen.glue), tokenizer)
        data.setup("fit")
        batches = [batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)]
        seconds = dict.fromkeys(ROWS, float("inf"))
        for _ in range(ROUNDS):
            for rows in ROWS:
                classifier._ROWS_PER_PIECE = rows
                began = time.perf_counter()
                for batch in batches:
                    module.loss(module(batch), batch["labels"]).backward()
                seconds[rows] = min(seconds[rows], time.perf_counter() - began)
        rates = "  ".join(f"{rows}: {32 * BATCHES / taken:.1f}" for rows, taken in seconds.items())
        print(f"{task.name}  {rates}  examples/s", flush=True)


if __name__ == "__main__":
    main()
