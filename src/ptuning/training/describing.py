"""What a run says of itself: to its record, its delta and its tracker, and in the table before it trains."""

import platform
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lightning.pytorch as pl
import torch
from rich.markup import escape

import ptuning
from ptuning.config.schema import Config
from ptuning.data.datamodule import GlueDataModule
from ptuning.deltas.format import describe_backbone
from ptuning.display.console import describe_selection
from ptuning.display.format import format_percent
from ptuning.runs.folder import RunFolder
from ptuning.runs.limits import batches_used
from ptuning.selection.select import Selection
from ptuning.selection.subset import Subset
from ptuning.sweeps.job import Sweep
from ptuning.system.memory import peak_memory_mb
from ptuning.tracking import run_logger as tracking
from ptuning.training.callbacks import Recorder
from ptuning.training.plan import Plan
from ptuning.training.timings import Timings

_COUNTS = ("trainable_parameters", "head_parameters", "total_parameters", "trainable_percent")


def about(plan: Plan, folder: RunFolder, precision: str, resumed: bool) -> dict[str, Any]:
    """Return what a record says before anything is loaded; a resumed run keeps its beginning and its W&B run."""
    earlier = (folder.record() or {}) if resumed else {}
    return {
        "name": folder.name,
        "key": folder.key,
        **plan.task.describe(),
        "source": plan.source.place,
        "module": plan.module_label,
        "layers": plan.layers,
        **plan.subset_keys,
        "seed": plan.config.seed,
        "backbone": plan.backbone.label,
        "select_on": plan.config.data.select_on,
        "begun": earlier.get("begun"),
        **tracking.identify(earlier, folder.key),
        "optimisation": asdict(plan.optimisation),
        "precision": precision,
        "max_epochs": plan.trainer["max_epochs"],
        "batch_size": plan.config.task.batch_size,
        "recipe": folder.recipe,
        "config": asdict(plan.config),
        "versions": _versions(),
    }


def delta_description(plan: Plan, digest: str) -> dict[str, Any]:
    """Return what ``delta.json`` says beside score and epoch."""
    return {
        "ptuning": ptuning.__version__,
        "backbone": describe_backbone(plan.backbone, plan.config.backbone.path, digest),
        **plan.task.describe(),
        "source": plan.source.place,
        "module": plan.module_label,
        "layers": plan.layers,
        **plan.subset_keys,
        "max_length": plan.config.task.max_length,
    }


def labels(plan: Plan) -> dict[str, str]:
    """Return what tells runs apart in a tracker's list."""
    return {"task": plan.task.name, "module": plan.module_label, "backbone": plan.backbone.label}


def tracked(plan: Plan, record: dict[str, Any], sweep: Sweep | None) -> dict[str, Any]:
    """Return the configuration as trackers get it: what was composed, what it became, and what moves."""
    return {
        **asdict(plan.config),
        # As in folder names and tables, and flat: what trackers group by.
        **{f"{word}_name": name for word, name in labels(plan).items()},
        "layers_name": plan.layers,
        **plan.subset_keys,
        **{name: record[name] for name in _COUNTS},
        "optimisation": asdict(plan.optimisation),
        "micro_batches": record.get("micro_batches", 1),
        "sweep": asdict(sweep) if sweep else None,
    }


def counts(selection: Selection) -> dict[str, Any]:
    """Return how many parameters move, are the head's, and are there."""
    return {name: getattr(selection, name) for name in _COUNTS}


def timings(began: float, accelerator: str) -> Timings:
    """Return the clock of a run that this process turned to at ``began`` (``time.perf_counter()``)."""
    return Timings(began, lambda: peak_memory_mb(accelerator != "cpu" and torch.cuda.is_initialized()))


def outcome(recorder: Recorder) -> dict[str, Any]:
    """Return what a record says at the end: history, best and last score, seconds by phase, speed, memory.

    A run that was left and went on has all its processes in seconds, speed and memory.
    """
    found: dict[str, Any] = {
        "history": recorder.history,
        "validation_examples": {name: rows for name, (rows, _) in recorder.scored.items()},
        **recorder.what_was_left_out(),
        "seconds": {name: round(value, 3) for name, value in recorder.timings.seconds().items()},
        "train_examples_per_second": round(recorder.examples_per_second, 2),
        "peak_memory_mb": recorder.timings.peak_memory_mb(),
    }
    if recorder.best is not None:
        found |= {"score": recorder.best["score"], "best": recorder.best, "last": recorder.history[-1]}
    return found


def _describe_prefix(config: Config, about: dict[str, Any] | None) -> dict[str, str]:
    """Return the row of the table that says what runs once per example, if that was asked for."""
    if config.frozen_prefix == "live":
        return {}
    if about is None:
        return {"prefix": "live, for want of a block below everything that moves"}
    tokens = "first tokens" if about["tokens"] == "first" else "all tokens"
    return {"prefix": f"{about['depth']} blocks, cached: {about['megabytes']:,.1f} MB ({tokens}, {about['dtype']})"}


def plan_rows(plan: Plan, data: GlueDataModule, selection: Selection, record: dict[str, Any]) -> dict[str, str]:
    """Return the table that is shown before training, heading → text."""
    sizes = ", ".join(
        f"{len(data.split(name)):,} {name}{_limit(plan, data, name)}" for name in ("train", *data.evaluated)
    )
    synthetic = " [yellow]synthetic[/]" if plan.source.place == "synthetic" else ""
    about = {name: escape(value) for name, value in plan.source.about().items()}
    max_length = plan.config.task.max_length
    if plan.task.is_custom and (cut := float((data.split("train").lengths >= max_length).float().mean())):
        about["cut"] = f"{format_percent(100 * cut)} % of the training rows, at {max_length} tokens (task.max_length)"
    size = f"{tokens:,} tokens" if (tokens := plan.config.task.batch_tokens) else plan.config.task.batch_size
    epochs, rates = plan.trainer["max_epochs"], plan.optimisation
    return {
        "task": f"{plan.task.name}{synthetic} ({sizes})",
        **about,
        "module": f"{plan.module_label}, layers {plan.layers}",
        **_subset_row(plan.subset),
        "moves": describe_selection(selection),
        "backbone": plan.backbone.label,
        **_describe_prefix(plan.config, record.get("frozen_prefix")),
        "on": f"{record['device']}, {record['precision']}{', compiled' if record['compiled'] else ''}",
        "training": f"{epochs} epochs, batch {size}, seed {plan.config.seed}",
        "rates": f"{rates.lr:g}, head {rates.head_lr:g}",
    }


def _limit(plan: Plan, data: GlueDataModule, split: str) -> str:
    """Return ``: 5 of 115 batches`` for a split of which a limit of the trainer leaves batches out, else nothing."""
    trainer, train = plan.config.trainer, split == "train"
    there_are = (
        -(-len(data.order) // data.micro_batches) if train else -(-len(data.split(split)) // data.eval_batch_size)
    )
    limit = trainer.limit_train_batches if train else trainer.limit_val_batches
    used = batches_used(limit, trainer.overfit_batches, there_are)
    return f": {used:,} of {there_are:,} batches" if used < there_are else ""


def _subset_row(subset: Subset) -> dict[str, str]:
    scope = {"tensor": " of each tensor", "selection": " of the selection"}[subset.scope] if subset.is_ranked else ""
    return {} if subset.kind == "all" else {"subset": f"{subset}{scope}"}


def device_name(trainer: pl.Trainer) -> str:
    """Return what a trainer computes on, for people."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "ptuning": ptuning.__version__}
    for name in ("torch", "lightning", "transformers", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
