"""Time LayerNorm training steps by how a batch is cut: python benchmarks/pieces.py GLUE_FOLDER [--threads N].

"after another" takes pieces in turn, with all threads inside each operation; "side by side" takes one per thread.
"""

import argparse
import time
from pathlib import Path
from unittest.mock import patch

import torch

from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import LocalSource
from ptuning.display.console import quiet
from ptuning.selection.architectures import known_architecture
from ptuning.selection.select import select
from ptuning.tasks.glue import get_task
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation

BATCHES, ROUNDS = 4, 3
CUTS = {
    # Tokens of a piece, at most in the mean; two pieces is the least that there are.
    "500 after another": (500, False),
    "4000 side by side": (4000, True),
    "1000 side by side": (1000, True),
    "500 side by side": (500, True),
    "250 side by side": (250, True),
}


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
    for task, moving in (("stsb", "layernorm"), ("rte", "layernorm"), ("mrpc", "layernorm"), ("mrpc", "full")):
        model = load_model(backbone, get_task(task), seed=1)
        select(model, moving)
        module = GlueClassifier(model, get_task(task), Optimisation(lr=1e-3, head_lr=1e-3))
        data = GlueDataModule(LocalSource(get_task(task), chosen.glue), tokenizer)
        data.setup("fit")
        batches = [batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)]
        rates: dict[str, list[float]] = {name: [] for name in CUTS}
        for number in range(ROUNDS + 1):
            for name, (tokens, side_by_side) in CUTS.items():
                known = known_architecture if side_by_side else lambda model: None
                with (
                    patch("ptuning.acceleration.micro_batches._TOKENS", tokens),
                    patch("ptuning.training.module.known_architecture", known),
                ):
                    began = time.perf_counter()
                    for batch in batches:
                        module.training_loss(batch).backward()
                        module.zero_grad()
                    if number:  # the first round warms up
                        rates[name].append(32 * BATCHES / (time.perf_counter() - began))
        found = "  ".join(f"{name}: {max(rate):.1f} ({sorted(rate)[ROUNDS // 2]:.1f})" for name, rate in rates.items())
        print(f"{task} {moving}  {found}  examples/s", flush=True)


if __name__ == "__main__":
    main()
