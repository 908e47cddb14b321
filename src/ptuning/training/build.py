"""The parts of a run, each made from its plan: data, prefix cache, classifier, trainer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from torch import nn

from ptuning.acceleration import accelerate
from ptuning.acceleration.compile import CompiledForward, blocks_of
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.acceleration.precision import make_plugin
from ptuning.backbones.load import input_names
from ptuning.config.rules import check_batches
from ptuning.data.datamodule import HOLDOUT, GlueDataModule
from ptuning.display.console import console, follow
from ptuning.runs.limits import batches_used
from ptuning.runs.writer import RunWriter
from ptuning.selection.parameters import count_frozen_blocks
from ptuning.selection.select import Selection
from ptuning.training.callbacks import PrefixCallback
from ptuning.training.checkpoint import WholeFileCheckpointIO
from ptuning.training.exact_head import LinearFit, fit_exact_head
from ptuning.training.module import GlueClassifier
from ptuning.training.plan import Plan
from ptuning.training.session import Session
from ptuning.training.timings import Timings


def make_data(plan: Plan, session: Session, micro_batches: int) -> GlueDataModule:
    """Return the run's data, tokenized.

    Raises
    ------
    ConfigError
        If the trainer's limits leave no batch.
    """
    task, data_config = plan.config.task, plan.config.data
    data = GlueDataModule(
        plan.source,
        session.tokenizer(plan.backbone),
        batch_size=task.batch_size,
        eval_batch_size=_eval_batch_size(plan, micro_batches),
        max_length=task.max_length,
        seed=plan.config.seed,
        group_by_length=data_config.group_by_length,
        batch_tokens=task.batch_tokens,
        micro_batches=micro_batches,
        select_on=data_config.select_on,
        train_rows=data_config.train_rows,
        splits=session.splits(plan.source.identity(), plan.backbone.identity, task.max_length),
    )
    data.setup("fit")
    counts = _count_batches(plan, data)
    check_batches(plan.trainer, counts["train"], {name: counts[name] for name in data.evaluated})
    return data


def _eval_batch_size(plan: Plan, micro_batches: int) -> int:
    """Return the rows of an evaluation's batch: fewer where training's come in parts, and the limit allows it.

    A number of batches has to mean the same rows; a share of them does so in whole batches only.
    """
    size, limit = plan.config.data.eval_batch_size, plan.trainer.get("limit_val_batches")
    is_share = isinstance(limit, float) and limit != 1.0
    if is_share or (isinstance(limit, int) and size % micro_batches):
        return size
    return max(1, size // micro_batches)


def _count_batches(plan: Plan, data: GlueDataModule) -> dict[str, int]:
    """Return split → whole batches of a training epoch or of an evaluation."""
    dev = {name: -(-len(data.split(name)) // plan.config.data.eval_batch_size) for name in data.evaluated}
    return {"train": -(-len(data.order) // data.micro_batches), **dev}


def describe_sizes(plan: Plan, data: GlueDataModule) -> str:
    """Return ``2,490 train: 5 of 78 batches, 277 validation``, with batches where a limit leaves some out."""
    parts = []
    for name, there_are in _count_batches(plan, data).items():
        limit = plan.trainer.get("limit_train_batches" if name == "train" else "limit_val_batches")
        used = batches_used(limit, plan.trainer.get("overfit_batches"), there_are)
        some = f": {used:,} of {there_are:,} batches" if used < there_are else ""
        drawn = f" (data.train_rows={data.train_rows})" if name == "train" and data.train_rows is not None else ""
        parts.append(f"{len(data.split(name)):,} {name}{drawn}{some}")
    return ", ".join(parts)


def ends_before_steps(plan: Plan, data: GlueDataModule) -> str:
    """Return a sentence if steps were typed and epochs were not, and these end the training first."""
    typed, limit = plan.config.trainer, plan.trainer.get("limit_train_batches")
    if typed.max_epochs is not None or plan.fits_exactly:
        return ""
    batches = batches_used(limit, plan.trainer.get("overfit_batches"), _count_batches(plan, data)["train"])
    epochs = plan.trainer["max_epochs"]
    steps = epochs * -(-batches // typed.accumulate_grad_batches)
    if steps >= typed.max_steps:
        return ""
    return (
        f"{epochs} epochs are {steps:,} steps, so that trainer.max_steps={typed.max_steps} is not reached: "
        "trainer.max_epochs= trains longer."
    )


def share_cut(plan: Plan, data: GlueDataModule) -> float:
    """Return the share of training rows that reach ``max_length``."""
    return float((data.split("train").lengths >= plan.config.task.max_length).float().mean())


def counts(selection: Selection) -> dict[str, Any]:
    """Return the fields of a record that say what trains."""
    return {
        "selection": selection.names,
        "trainable_parameters": selection.trainable_parameters,
        "head_parameters": selection.head_parameters,
        "total_parameters": selection.total_parameters,
        "trainable_percent": selection.trainable_percent,
    }


def make_prefix_cache(
    plan: Plan,
    network: nn.Module,
    selection: Selection,
    digest: str,
    session: Session,
    timings: Timings,
) -> PrefixCallback | None:
    """Return the callback that caches the frozen prefix, if that was typed and there is one."""
    depth = count_frozen_blocks(network, selection.names) if plan.caches_prefix else 0
    if not depth:
        return None
    return PrefixCallback(
        timings,
        FrozenPrefix(network, depth),
        input_names(network),
        digest,
        session.states,
        plan.config.frozen_prefix_dtype,
        plan.config.frozen_prefix_memory_mb,
        plan.config.frozen_prefix_disk_mb,
        tell=console.print,
        watch=partial(follow, "frozen prefix") if plan.trainer["enable_progress_bar"] else lambda batches: batches,
    )


def make_classifier(
    plan: Plan,
    network: nn.Module,
    selection: Selection,
    cache: PrefixCallback | None,
    data: GlueDataModule,
    device: str,
    writer: RunWriter,
) -> GlueClassifier:
    """Return the LightningModule; its blocks are compiled where that was typed: ``auto`` waits for a measured GPU."""
    acceleration = accelerate(network, device, cache.prefix if cache else None)
    compiled = plan.config.trainer.compile in (True,) and not plan.fits_exactly  # 1 is true as well
    writer.note(compiled=compiled, frozen_prefix=cache.describe(data) if cache else None)
    if compiled:
        config: Any = network.config
        acceleration.compiled = CompiledForward(
            acceleration.logits,
            blocks_of(network),
            plan.config.task.batch_size // data.micro_batches,
            plan.config.task.max_length,
            pad_token_id=getattr(config, "pad_token_id", None) or 0,
        )
    return GlueClassifier(
        network,
        plan.task,
        plan.optimisation,
        plan.config.seed,
        writer.record.key,
        indices=selection.indices,
        holdout=plan.config.data.select_on == HOLDOUT,
        acceleration=acceleration,
    )


def fit_head(plan: Plan, network: nn.Module, data: GlueDataModule) -> LinearFit:
    """Return the exact fit of the head, which is then in the model; the backbone reads the training rows once."""
    watch = partial(follow, "what the head reads") if plan.trainer["enable_progress_bar"] else list
    return fit_exact_head(
        network, plan.task, data.split("train"), data.eval_batch_size, plan.config.seed, plan.device, watch
    )


def make_trainer(
    plan: Plan,
    precision: str,
    device: str,
    data: GlueDataModule,
    folder: Path,
    loggers: Sequence[Logger],
    callbacks: Sequence[pl.Callback],
) -> pl.Trainer:
    """Return Lightning's ``Trainer``, which shows nothing of its own and writes checkpoints whole."""
    plugin, checkpoints = make_plugin(precision, device), WholeFileCheckpointIO()
    arguments = {
        **_in_micro_batches(plan, data),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "profiler": _make_profiler(plan.trainer.get("profiler"), folder),
        "precision": precision if plugin is None else None,
        # One process a run: below `#SBATCH --ntasks=N` Lightning would look for the others, and requeue by itself.
        "plugins": [LightningEnvironment(), checkpoints, *([] if plugin is None else [plugin])],
    }
    return _Trainer(**arguments, logger=list(loggers), callbacks=list(callbacks), default_root_dir=folder)


class _Trainer(pl.Trainer):
    @property
    def received_sigterm(self) -> bool:
        """False: Lightning would exit with code 0 in the middle of an evaluation. ``LastCheckpoint`` stops a run."""
        return False


def _in_micro_batches(plan: Plan, data: GlueDataModule) -> dict[str, Any]:
    """Return the trainer's arguments for batches that come in several parts: what counts batches counts parts.

    A share is that of the whole batches, and becomes their number: of the parts it would be another training.
    """
    arguments, parts = dict(plan.trainer), data.micro_batches
    if parts == 1:
        return arguments
    limit, interval = arguments.get("limit_train_batches"), arguments.get("val_check_interval")
    epoch = batches_used(limit, None, _count_batches(plan, data)["train"])
    if isinstance(limit, float) and limit != 1.0:
        arguments["limit_train_batches"] = epoch
    if isinstance(interval, float) and interval != 1.0:
        arguments["val_check_interval"] = max(1, int(epoch * interval))
    factors = {"accumulate_grad_batches": parts, "limit_train_batches": parts, "val_check_interval": parts}
    factors["limit_val_batches"] = plan.config.data.eval_batch_size // data.eval_batch_size
    for name, factor in factors.items():
        if isinstance(value := arguments.get(name), int):
            arguments[name] = value * factor
    if isinstance(value := arguments.get("val_check_interval"), int) and arguments["check_val_every_n_epoch"]:
        arguments["val_check_interval"] = min(value, len(data.order))  # of a last batch of one row there is one part
    return arguments


def _make_profiler(name: str | None, folder: Path) -> Profiler | None:
    """Return Lightning's profiler of that name, which writes to ``*-profile.txt`` in the run folder."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return kinds[name](dirpath=folder, filename="profile") if name else None


def device_name(trainer: pl.Trainer) -> str:
    """Return what a trainer computes on, for people."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
