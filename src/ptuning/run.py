"""One run, from a composed configuration to a record: read it top down."""

import gc
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig
from torch import nn

from ptuning import describing, tracking
from ptuning.config import check
from ptuning.console import console, follow, quiet, show_plan, show_result
from ptuning.data.datamodule import HOLDOUT, GlueDataModule
from ptuning.data.sources import Source
from ptuning.errors import RunError, UserError
from ptuning.model.backbone import input_names
from ptuning.model.classifier import GlueClassifier, Predictions
from ptuning.model.compiled import CompiledForward
from ptuning.model.delta import load
from ptuning.model.prefix import FrozenPrefix
from ptuning.model.prefix_cache import PrefixCache
from ptuning.moving import choose_moving
from ptuning.plan import Plan, compiles, in_micro_batches, make_plan
from ptuning.progress import TrainingProgress
from ptuning.recording import LastCheckpoint, Recorder, WholeFileCheckpointIO, write_predictions
from ptuning.records import Record, RunFolder, find_run
from ptuning.selection import Selection, count_frozen_blocks
from ptuning.sweeps.outcome import Sweep
from ptuning.system.memory import reset_peak_memory
from ptuning.tasks import get_task
from ptuning.wandb_settings import agent_run_id
from ptuning.warm import Warm, as_it_was


@dataclass(frozen=True)
class Located:
    """A run that was planned and looked up, nothing large loaded.

    Attributes
    ----------
    plan
        The configuration made definite.
    folder
        Where the run lies.
    finished
        Its record, if nothing is left to do: it finished, ``force`` is off and no prediction is missing.
    """

    plan: Plan
    folder: RunFolder
    finished: dict[str, Any] | None


@dataclass(frozen=True)
class Done:
    """What became of a run: its folder, its record, and whether it had finished before."""

    folder: Path
    record: dict[str, Any]
    earlier: bool


def run(cfg: DictConfig) -> float:
    """Train what ``cfg`` describes, or find that it is done; say so, and return the score.

    Raises
    ------
    ptuning.UserError
        For everything that the reader can mend.
    """
    done = execute(cfg, Warm(keeps_backbone=False), _sweep())
    return float(done.record["score"])


def locate(cfg: DictConfig) -> Located:
    """Plan a run and look at its folder.

    Raises
    ------
    ptuning.UserError
        If the configuration cannot run, or what it names cannot be found.
    """
    config = check(cfg)
    quiet()
    plan = make_plan(config)
    folder = find_run(Path(config.runs_dir).expanduser(), plan.backbone.label, plan.recipe())
    finished = None if config.force else folder.finished()
    if any(not _predictions(plan, folder.path, split).exists() for split in config.predict):
        finished = None
    return Located(plan, folder, finished)


def execute(
    cfg: DictConfig, warm: Warm, sweep: Sweep | None = None, announce: Callable[[Path], None] = lambda folder: None
) -> Done:
    """Train what ``cfg`` describes, or find that it is done.

    Parameters
    ----------
    cfg
        As Hydra composed it.
    warm
        What earlier runs of this process left to be used again.
    sweep
        What the runs of a sweep share.
    announce
        Called with the run folder before training begins in it.
    """
    with as_it_was():
        return _execute(cfg, warm, sweep, announce)


def _execute(cfg: DictConfig, warm: Warm, sweep: Sweep | None, announce: Callable[[Path], None]) -> Done:
    began = time.perf_counter()
    found = locate(cfg)
    plan, folder = found.plan, found.folder
    with folder.lock():
        announce(folder.path)
        record = folder.finished()
        earlier = record is not None and not plan.config.force
        if record is None or not earlier:
            record = _train_within_memory(plan, folder, warm, sweep, began)
        elif agent_run_id() and tracking.logs_to_wandb(plan.config.logger):
            _report_to_agent(plan, folder, record)
        show_result(record, _near(folder.path), earlier)
        for split in plan.config.predict:
            _predict(plan, folder.path, split)
    return Done(folder.path, record, earlier)


def _train_within_memory(
    plan: Plan, folder: RunFolder, warm: Warm, sweep: Sweep | None, began: float
) -> dict[str, Any]:
    """Train one run; out of GPU memory, once more from the start with every batch in two micro-batches."""
    resumes = folder.checkpoint.exists() and not plan.config.force
    micro_batches = int((folder.record() or {}).get("micro_batches", 1)) if resumes else 1
    try:
        return _train(plan, folder, warm, sweep, began, micro_batches)
    except torch.OutOfMemoryError:
        if micro_batches > 1 or plan.config.task.batch_size < 2:
            raise
    # Outside of the except clause: the exception holds on to the tensors that filled the memory.
    warm.forget_model()
    gc.collect()
    torch.cuda.empty_cache()
    folder.checkpoint.unlink(missing_ok=True)  # it counts in whole batches
    console.print("Out of GPU memory: once more with half the rows at a time and twice the accumulation.")
    return _train(plan, folder, warm, sweep, began, micro_batches=2)


def _train(
    plan: Plan, folder: RunFolder, warm: Warm, sweep: Sweep | None, began: float, micro_batches: int
) -> dict[str, Any]:
    """Train one run in its folder and return its record."""
    config = plan.config
    reset_peak_memory()
    if config.force:
        folder.checkpoint.unlink(missing_ok=True)
    resumed = folder.checkpoint if folder.checkpoint.exists() else None
    kept = _check_checkpoint(resumed, folder.key) if resumed else None
    with Record(folder, describing.about(plan, folder, resumed is not None)) as record:
        record.values["micro_batches"] = micro_batches
        data = _make_data(plan, plan.source, warm, micro_batches)
        data.setup("fit")
        data_seconds = time.perf_counter() - began

        network, digest = warm.model(plan.backbone, plan.task, config.seed, plan.attention_dropout)
        selection = choose_moving(plan, network, data, kept)
        cache = _make_prefix_cache(plan, network, selection, digest, warm)
        classifier = GlueClassifier(
            network,
            plan.task,
            plan.optimisation,
            config.seed,
            folder.key,
            indices=selection.indices,
            holdout=config.data.select_on == HOLDOUT,
            prefix=cache.prefix if cache else None,
        )
        if compiles(plan, len(data.order)):
            classifier.compiled = _compile(plan, classifier, record, micro_batches)
        model_seconds = time.perf_counter() - began - data_seconds
        record.add(**describing.counts(selection), selection=list(selection.names), backbone_hash=digest)
        record.add(train_examples=len(data.split("train")), compiled=classifier.compiled is not None)

        recorder = Recorder(folder.path, describing.delta_description(plan, digest))
        phases = {"data": data_seconds, "model": model_seconds}
        record.closing.append(
            lambda values: values.update(
                describing.outcome(recorder, phases, time.perf_counter() - began, values.get("device", ""))
            )
        )
        logger = tracking.make_logger(
            config.logger,
            folder.path,
            name=folder.name,
            group=sweep.name if sweep else None,
            labels=describing.labels(plan),
            record=record.values,
            resumed=resumed is not None,
        )
        tracked = describing.tracked(plan, record.values, sweep)
        tracking.begin(logger, tracked, record.values)
        record.closing.append(folder.write)  # before a tracker ends: its server may take a while
        record.closing.append(lambda values: tracking.finish(logger, folder.path, tracked, values))

        callbacks = [plan.selector, recorder, LastCheckpoint(folder.path, config.checkpoint_seconds), *plan.callbacks]
        if cache:
            record.values["frozen_prefix"] = cache.describe(data)
            record.closing.append(lambda values: values["seconds"].update(prefix=round(cache.seconds, 3)))
            callbacks.append(cache)
        if config.trial:
            from ptuning.sweeps.search import Pruning

            callbacks.append(Pruning(config.trial))
        if config.trainer.enable_progress_bar:
            callbacks.append(TrainingProgress(folder.name))
        trainer = pl.Trainer(
            **{**in_micro_batches(plan.trainer, micro_batches), "enable_progress_bar": False},
            logger=logger,
            callbacks=callbacks,
            plugins=[WholeFileCheckpointIO()],
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder.path,
        )
        record.add(device=describing.device_name(trainer))
        show_plan(describing.plan_rows(plan, data, selection, record.values))
        if resumed:
            console.print(f"Going on from {_near(resumed)}")
        trainer.fit(classifier, datamodule=data, ckpt_path=resumed, weights_only=True)
        if not recorder.has_evaluated(trainer):  # max_steps, max_time or a sparse evaluation stopped between two
            trainer.validate(classifier, datamodule=data, verbose=False)
    return record.values


def _predict(plan: Plan, folder: Path, split: str) -> None:
    """Predict an unlabelled split with the run's best weights, unless that was done before."""
    path = _predictions(plan, folder, split)
    if path.exists():
        return
    model, _ = load(folder)
    if split == "ax":
        loader = _make_data(plan, replace(plan.source, task=get_task("ax")), Warm()).eval_dataloader("test")  # type: ignore[type-var]
    else:
        loader = _make_data(plan, plan.source, Warm()).eval_dataloader(split)
    trainer = pl.Trainer(
        **{name: plan.trainer[name] for name in ("accelerator", "devices", "precision")},
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    answers: Any = trainer.predict(GlueClassifier(model, plan.task, plan.optimisation).eval(), dataloaders=loader)
    index, logits = (torch.cat(part) for part in zip(*answers, strict=True))
    order = torch.argsort(index)
    write_predictions(path, Predictions(index[order], logits[order], None))
    console.print(f"{len(order):,} predictions in {_near(path)}")


def _predictions(plan: Plan, folder: Path, split: str) -> Path:
    return folder / "predictions" / f"{plan.source.predictions_of(split)}.parquet"


def _make_data(plan: Plan, source: Source, warm: Warm, micro_batches: int = 1) -> GlueDataModule:
    config = plan.config
    return GlueDataModule(
        source,
        warm.tokenizer(plan.backbone),
        batch_size=config.task.batch_size,
        batch_tokens=config.task.batch_tokens,
        micro_batches=micro_batches,
        eval_batch_size=max(1, config.data.eval_batch_size // micro_batches),
        max_length=config.task.max_length,
        seed=config.seed,
        group_by_length=config.data.group_by_length,
        select_on=config.data.select_on,
        splits=warm.splits(source.identity(), plan.backbone.identity, config.task.max_length),
    )


def _report_to_agent(plan: Plan, folder: RunFolder, record: dict[str, Any]) -> None:
    """Give W&B's sweep, whose agent asks for a finished run once more, what is known of it."""
    about = {**record, "wandb_id": agent_run_id()}
    labels = describing.labels(plan)
    try:
        logger = tracking.make_logger(plan.config.logger, folder.path, folder.name, None, labels, about)
        tracking.report_to_agent(logger, folder.path, describing.tracked(plan, record, None), record)
    except UserError as error:  # the run is there all the same
        console.print(f"W&B's sweep does not hear of it: {error}", markup=False)


def _check_checkpoint(path: Path, key: str) -> dict[str, torch.Tensor]:
    """Refuse a checkpoint that cannot be read or belongs to another run, before anything is loaded.

    Returns the places of the weights that it moves in parameters that move in part.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found, indices = checkpoint.get("run_key"), checkpoint.get("indices", {})
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, ValueError) as error:
        raise RunError(
            f"{_near(path)} cannot be read as a checkpoint ({str(error).splitlines()[0]}). "
            "Remove it, or type force=true to begin anew."
        ) from error
    if found != key:
        raise RunError(
            f"{_near(path)} was written by another run ({found}, not {key}). "
            "Remove it, or type force=true to begin anew."
        )
    return {name: places.long() for name, places in indices.items()}


def _make_prefix_cache(
    plan: Plan, network: nn.Module, selection: Selection, digest: str, warm: Warm
) -> PrefixCache | None:
    depth = count_frozen_blocks(network, selection.names) if plan.caches_prefix else 0
    if not depth:
        return None
    config = plan.config
    return PrefixCache(
        FrozenPrefix(network, depth),
        input_names(network),
        digest,
        warm.states,
        config.frozen_prefix_dtype,
        config.frozen_prefix_memory_mb,
        config.frozen_prefix_disk_mb,
        tell=console.print,
        watch=partial(follow, "frozen prefix") if config.trainer.enable_progress_bar else lambda batches: batches,
    )


def _compile(plan: Plan, classifier: GlueClassifier, record: Record, micro_batches: int) -> CompiledForward:
    def give_up(reason: str) -> None:
        record.values["compiled"] = False
        console.print(f"torch.compile does not work here, training goes on without it ({reason}).")

    task = plan.config.task
    return CompiledForward(
        classifier.forward,
        task.batch_size // micro_batches,
        task.max_length,
        pad_token_id=getattr(classifier.model.config, "pad_token_id", None) or 0,
        give_up=give_up if plan.config.trainer.compile == "auto" else None,
    )


def _sweep() -> Sweep | None:
    """Return what the runs of a multirun share, where Hydra runs them in this process."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Sweep(Path(HydraConfig.get().sweep.dir).name)
    return None


def _near(path: Path) -> str:
    """Return a path as seen from here, if it lies below."""
    near = os.path.relpath(path)
    return near if not near.startswith("..") else str(path)
