"""Time LayerNorm training steps by how a batch is cut: python benchmarks/micro_batches.py GLUE_FOLDER [--threads N].

"after another" takes micro-batches in turn, with all threads inside each operation; "side by side" one per thread.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ptuning.acceleration import accelerate
from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import LocalSource
from ptuning.display.console import quiet
from ptuning.selection.select import select
from ptuning.tasks.glue import get_task

BATCHES, ROUNDS = 4, 3
CUTS = {
    # Tokens of a micro-batch, at most in the mean; two micro-batches are the least that there are.
    "500 after another": (500, False),
    "4000 side by side": (4000, True),
    "1000 side by side": (1000, True),
    "500 side by side": (500, True),
    "250 side by side": (250, True),
}


def mean_squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of regression."""
    return functional.mse_loss(logits[:, 0], labels)


def main() -> None:
    """Print examples per second for each task, module and cut: best and middle of alternating rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("glue", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    quiet()
    torch.set_num_threads(chosen.threads)
    backbone = find_backbone("packaged:minilm")
    tokenizer = load_tokenizer(backbone)
    for task, trainable in (("stsb", "layernorm"), ("rte", "layernorm"), ("mrpc", "layernorm"), ("mrpc", "full")):
        model = load_model(backbone, get_task(task), seed=1)
        select(model, trainable)
        loss = mean_squared_error if get_task(task).is_regression else functional.cross_entropy
        acceleration: Any = accelerate(model.train(), "cpu")
        data = GlueDataModule(LocalSource(get_task(task), chosen.glue), tokenizer)
        data.setup("fit")
        batches = [batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)]
        rates: dict[str, list[float]] = {name: [] for name in CUTS}
        for number in range(ROUNDS + 1):
            for name, (tokens, side_by_side) in CUTS.items():
                acceleration.micro_batch_tokens, acceleration.in_threads = tokens, side_by_side
                began = time.perf_counter()
                for batch in batches:
                    acceleration.training_loss(loss, batch).backward()
                    model.zero_grad()
                if number:  # the first round warms up
                    rates[name].append(32 * BATCHES / (time.perf_counter() - began))
        found = "  ".join(f"{name}: {max(rate):.1f} ({sorted(rate)[ROUNDS // 2]:.1f})" for name, rate in rates.items())
        print(f"{task} {trainable}  {found}  examples/s", flush=True)


if __name__ == "__main__":
    main()
