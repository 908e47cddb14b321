"""Microseconds to switch between the deltas of a stack, and milliseconds of a batch that mixes them.

    python benchmarks/switching.py                                  # BERT-base's size, random weights
    python benchmarks/switching.py --backbone packaged:minilm

The deltas are made up: switching exchanges pointers, so their values do not matter.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

import ptuning
from ptuning.backbones.load import backbone_hash, load_model
from ptuning.backbones.source import find_backbone
from ptuning.deltas.format import apply_delta, describe_backbone, save_delta
from ptuning.display.console import quiet
from ptuning.selection.select import choose_parameters
from ptuning.tasks.glue import get_task

NAMES = ("rte", "mrpc")
BASE = {"vocab_size": 30522}  # the other sizes are BERT's own defaults, those of BERT-base


def make_delta(folder: Path, path: str, task: str, module: str, seed: int) -> dict[str, torch.Tensor]:
    """Write a delta with random values."""
    source = find_backbone(path, config=BASE if path.startswith("random:") else None)
    model = load_model(source, get_task(task), seed=seed)
    chosen = choose_parameters(model, module)
    moved = {*chosen.names, *chosen.head_names}
    values = {n: p.detach() + 0.01 * torch.randn_like(p) for n, p in model.named_parameters() if n in moved}
    folder.mkdir()
    about = {"task": task, "labels": [], "source": "synthetic", "module": module, "layers": "all", "subset": "all"}
    about |= {"max_length": 128, "backbone": describe_backbone(source, path, backbone_hash(model))}
    save_delta(folder, values, {**about, "score": 0.0, "epoch": 0})
    return values


def best_of(repeats: int, rounds: int, act: object) -> float:
    """Return the least mean seconds of ``rounds`` calls, over ``repeats`` repetitions."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        for number in range(rounds):
            act(number)  # type: ignore[operator]
        found.append((time.perf_counter() - began) / rounds)
    return min(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="random:bert-base")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    chosen = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as temporary:
        for module in ("layernorm", "bias", "full"):
            folders = {task: Path(temporary) / f"{module}-{task}" for task in NAMES}
            values = {
                task: make_delta(folder, chosen.backbone, task, module, seed)
                for seed, (task, folder) in enumerate(folders.items())
            }
            stack = ptuning.load(chosen.backbone, deltas=folders)
            places = len(values["rte"])
            switch = best_of(20, 200, lambda number, stack=stack: stack.use(NAMES[number % 2]))
            copy = best_of(5, 6, lambda number, stack=stack, v=values: apply_delta(stack.model, v[NAMES[number % 2]]))
            line = f"{module:<10} {places:>4} tensors   switch {1e6 * switch:7.1f} µs   copy {1e6 * copy:10.1f} µs"
            if module != "full":
                ids = torch.randint(5, 1000, (chosen.rows, chosen.tokens))
                batch = {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": torch.ones_like(ids)}
                tasks = [NAMES[row % 2] for row in range(chosen.rows)]
                one = best_of(3, 2, lambda _, stack=stack, b=batch: stack(b))
                mixed = best_of(3, 2, lambda _, stack=stack, b=batch, t=tasks: stack(b, tasks=t))
                line += f"   batch of one {1e3 * one:6.1f} ms   mixed {1e3 * mixed:6.1f} ms"
            print(line)


if __name__ == "__main__":
    main()
