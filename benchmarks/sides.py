"""The sides of benchmarks/peers.py: what each is told to train, the command that does it, and its figures."""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import ROOT, run_command, train
from flops import has_fast_bf16


@dataclass(frozen=True)
class Work:
    """What is trained: ``layers`` is ``all``, ``last`` or ``each`` (one job per layer)."""

    module: str
    epochs: int
    lr: float
    layers: str = "all"
    ours: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    peers_module: str | None = None
    sides: tuple[str, ...] = ("ours", "trainer", "trainer-grouped", "lightning")
    model: str = "minilm"
    rows: int | None = None
    dev_rows: int | None = None


CACHED = ("frozen_prefix=cache",)
WORKS = {
    "layernorm": Work("layernorm", 3, 5e-3),
    "layernorm-no-attention-dropout": Work(
        "layernorm", 3, 5e-3, ours=("attention_dropout=0",), peers=("--attention-dropout", "0")
    ),
    "full": Work("full", 3, 5e-5),
    "last-layer": Work("layernorm", 5, 5e-3, "last", CACHED, sides=("ours", "ours-live", "trainer", "lightning")),
    "head": Work("head", 10, 1e-2, ours=CACHED, sides=("ours", "ours-live", "trainer", "lightning")),
    "layer-sweep": Work("layernorm", 3, 5e-3, "each", CACHED, sides=("ours", "ours-live", "trainer")),
    "memory": Work(
        "layernorm",
        1,
        5e-5,
        peers_module="full",
        sides=("ours", "trainer"),
        model="bert-base-random",
        rows=160,
        dev_rows=64,
    ),
}
SIDES = ("ours", "ours-live", "trainer", "trainer-grouped", "lightning")
OWN_NAMES = {"layernorm": "layernorm", "full": "full", "head": "frozen"}


@dataclass(frozen=True)
class Figures:
    """One side in one round: ``wall`` and ``train`` in seconds, ``peak`` in MiB, ``score`` from 0 to 1.

    ``train`` is by the side's own clock around its epochs without evaluation, the frozen prefix's one pass included.
    Where it is ``cached``, most of the arithmetic is not done, and ``mfu`` is ``None``.
    """

    wall: float
    train: float
    examples: int
    peak: float
    score: float
    precision: str
    cached: bool = False
    mfu: float | None = None

    @property
    def rate(self) -> float:
        """Training examples per second."""
        return self.examples / self.train


def run_ours(chosen: argparse.Namespace, work: Work, model: str, data: Path, folder: Path, seed: int) -> Figures:
    """Run train.py, as one sweep where there are several jobs."""
    layers = {"all": "all", "last": "last:1", "each": ",".join(map(str, range(chosen.blocks)))}[work.layers]
    typed = [f"backbone={model}", "data=local", f"data.dir={data}", "task=rte", f"module={OWN_NAMES[work.module]}"]
    typed += [f"layers={layers}", f"seed={seed}", f"optim.lr={work.lr}", f"trainer.max_epochs={work.epochs}"]
    typed += [f"task.batch_size={chosen.batch_size}", *work.ours, *chosen.override]
    if chosen.evaluate == "end":
        typed.append(f"trainer.check_val_every_n_epoch={work.epochs}")
    wall, records = train(folder, chosen.threads, [*(["-m"] if work.layers == "each" else []), *typed])
    return Figures(
        wall,
        sum(one["seconds"]["train"] + one["seconds"].get("prefix", 0.0) for one in records),
        sum(one["train_examples"] * one["max_epochs"] for one in records),
        max(one["peak_memory_mb"] for one in records),
        statistics.mean(one["score"] for one in records),
        records[0]["precision"],
        any("frozen_prefix" in one for one in records),
    )


def run_peer(
    chosen: argparse.Namespace, work: Work, side: str, model: str, data: Path, folder: Path, seed: int
) -> Figures:
    """Run a peer's script, once per layer where there are several jobs."""
    script = {"trainer": "trainer", "trainer-grouped": "trainer", "lightning": "lightning_loop"}[side]
    typed = ["--model", model, "--data", str(data), "--module", work.peers_module or work.module, "--seed", str(seed)]
    typed += ["--epochs", str(work.epochs), "--lr", str(work.lr), "--batch-size", str(chosen.batch_size)]
    typed += ["--evaluate", chosen.evaluate, *work.peers]
    if side == "trainer-grouped":
        typed += ["--group-by-length", *(["--bf16"] if has_fast_bf16() else [])]
    jobs = {"all": (None,), "last": (chosen.blocks - 1,), "each": range(chosen.blocks)}[work.layers]
    found: list[dict[str, Any]] = []
    wall = 0.0
    for layer in jobs:
        output = folder / f"layer-{layer}"
        command = [sys.executable, str(ROOT / "benchmarks" / "peers" / f"{script}.py"), *typed, "--output", str(output)]
        command += [] if layer is None else ["--layer", str(layer)]
        wall += run_command(command, folder / "cache", chosen.threads)
        found.append(json.loads((output / "figures.json").read_text()))
    return Figures(
        wall,
        sum(one["train_seconds"] for one in found),
        sum(one["examples"] for one in found),
        max(one["peak_memory_mb"] for one in found),
        statistics.mean(max(one["scores"]) for one in found),
        found[0]["precision"],
    )
