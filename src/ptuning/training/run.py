"""One run, from a composed configuration to a record: read it top down."""

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
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig
from torch import nn

from ptuning.acceleration import Acceleration, accelerate
from ptuning.acceleration.activation_cache import ActivationCache
from ptuning.acceleration.compile import CompiledForward
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.acceleration.precision import AUTO, PRECISIONS, choose_precision, find_device, make_plugin
from ptuning.backbones.load import input_names
from ptuning.config.rules import check, check_batches
from ptuning.data.datamodule import HOLDOUT, GlueDataModule
from ptuning.data.sources import DataSource
from ptuning.deltas.loading import load_run
from ptuning.display.console import console, follow, quiet, show_plan, show_result
from ptuning.display.progress_bar import TrainingProgress
from ptuning.errors import RunError, UserError
from ptuning.inference.predictor import Predictor
from ptuning.runs.folder import Record, RunFolder, find_run
from ptuning.selection.parameters import count_frozen_blocks
from ptuning.selection.select import Selection
from ptuning.sweeps.job import Sweep
from ptuning.system.memory import reset_peak_memory
from ptuning.tasks.glue import get_task
from ptuning.tracking import run_logger as tracking
from ptuning.tracking.wandb_settings import agent_run_id
from ptuning.training import describing
from ptuning.training.callbacks import LastCheckpoint, Recorder, WholeFileCheckpointIO, write_predictions
from ptuning.training.module import GlueClassifier, Predictions
from ptuning.training.out_of_memory import is_out_of_memory, let_go
from ptuning.training.plan import Plan, compiles, in_micro_batches, make_plan, with_new_callbacks
from ptuning.training.refusals import explain_refusals
from ptuning.training.session import Warm, as_it_was
from ptuning.training.timings import Timings
from ptuning.training.trainable import choose_moving


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
    others
        Folders that hold the same run in the precisions of other machines, from earlier versions.
    """

    plan: Plan
    folder: RunFolder
    finished: dict[str, Any] | None
    others: tuple[RunFolder, ...] = ()


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
    runs_dir = Path(config.runs_dir).expanduser()
    folder, others = find_run(runs_dir, plan.backbone.label, plan.recipe(), plan.earlier_recipes())
    finished = None if config.force else folder.finished()
    if any(not _predictions(plan, folder.path, split).exists() for split in config.predict):
        finished = None
    return Located(plan, folder, finished, others)


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
            clock = describing.timings(began, str(plan.trainer["accelerator"]))
            record = _train_within_memory(plan, folder, warm, sweep, clock)
        elif agent_run_id() and tracking.logs_to_wandb(plan.config.logger):
            _report_to_agent(plan, folder, record)
        show_result(record, _near(folder.path), earlier)
        for other in found.others:
            console.print(f"In {(other.record() or {}).get('precision')}: {_near(other.path)}")
        for split in plan.config.predict:
            _predict(plan, folder.path, split)
    return Done(folder.path, record, earlier)


def _train_within_memory(
    plan: Plan, folder: RunFolder, warm: Warm, sweep: Sweep | None, timings: Timings
) -> dict[str, Any]:
    """Train one run; out of memory, once more from the start with every batch in two micro-batches."""
    resumes = folder.checkpoint.exists() and not plan.config.force
    micro_batches = int((folder.record() or {}).get("micro_batches", 1)) if resumes else 1
    try:
        return _train(plan, folder, warm, sweep, timings, micro_batches)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or micro_batches > 1 or plan.config.task.batch_size < 2:
            raise
    # Outside of the except clause: the exception holds on to the tensors that filled the memory.
    warm.forget_model()
    let_go()
    folder.checkpoint.unlink(missing_ok=True)  # it counts in whole batches
    console.print("Out of memory: once more with half the rows at a time and twice the accumulation.")
    timings.begin_anew()
    return _train(with_new_callbacks(plan), folder, warm, sweep, timings, micro_batches=2)


def _train(
    plan: Plan, folder: RunFolder, warm: Warm, sweep: Sweep | None, timings: Timings, micro_batches: int
) -> dict[str, Any]:
    """Train one run in its folder and return its record."""
    config = plan.config
    reset_peak_memory()
    if config.force:
        folder.checkpoint.unlink(missing_ok=True)
    resumed = folder.checkpoint if folder.checkpoint.exists() else None
    kept = _check_checkpoint(resumed, folder.key) if resumed else None
    device = find_device(config.trainer.accelerator)
    precision = choose_precision(_asked_precision(plan, folder, resumed is not None), device)
    with Record(folder, describing.about(plan, folder, precision, resumed is not None)) as record:
        record.values["micro_batches"] = micro_batches
        data = _make_data(plan, plan.source, warm, micro_batches)
        data.setup("fit")
        check_batches(config.trainer, *_count_batches(data))
        timings.enter("model")

        network, digest = warm.model(plan.backbone, plan.task, config.seed, plan.attention_dropout)
        selection = choose_moving(plan, network, data, kept)
        cache = _make_prefix_cache(plan, network, selection, digest, warm)
        acceleration = accelerate(network, device, cache.prefix if cache else None)
        if compiles(plan, len(data.order), device):
            acceleration.compiled = _compile(plan, acceleration, record, micro_batches)
        classifier = GlueClassifier(
            network,
            plan.task,
            plan.optimisation,
            config.seed,
            folder.key,
            indices=selection.indices,
            holdout=config.data.select_on == HOLDOUT,
            acceleration=acceleration,
        )
        timings.enter(None)
        record.add(**describing.counts(selection), selection=list(selection.names), backbone_hash=digest)
        record.add(train_examples=len(data.split("train")), compiled=acceleration.compiled is not None)

        recorder = Recorder(folder.path, describing.delta_description(plan, digest), timings)
        record.closing.append(lambda values: values.update(describing.outcome(recorder)))
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

        callbacks = [plan.selector, recorder, *plan.callbacks]
        if cache:
            record.values["frozen_prefix"] = cache.describe(data)
            timings.elsewhere["prefix"] = lambda: cache.seconds
            callbacks.append(cache)
        if config.trial:
            from ptuning.training.pruning import Pruning

            callbacks.append(Pruning(config.trial))
        if config.trainer.enable_progress_bar:
            callbacks.append(TrainingProgress(folder.name))
        callbacks.append(LastCheckpoint(folder.path, config.checkpoint_seconds))
        profiler = _make_profiler(config.trainer.profiler, folder.path)
        with explain_refusals():
            trainer = pl.Trainer(
                **{
                    **in_micro_batches(plan.trainer, micro_batches),
                    "enable_progress_bar": False,
                    "profiler": profiler,
                    **_plugins(precision, device),
                },
                logger=logger,
                callbacks=callbacks,
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


def _make_profiler(name: str | None, folder: Path) -> Profiler | None:
    """Return Lightning's profiler of that name, which writes to ``*-profile.txt`` in the run folder."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return kinds[name](dirpath=folder, filename="profile") if name else None


def _count_batches(data: GlueDataModule) -> tuple[int, dict[str, int]]:
    """Return the batches of a training epoch, and of an evaluation by split."""
    dev = {name: -(-len(data.split(name)) // data.eval_batch_size) for name in data.evaluated}
    return -(-len(data.order) // data.micro_batches), dev


def _asked_precision(plan: Plan, folder: RunFolder, resumed: bool) -> str:
    """Return the precision that was typed, or that an interrupted run began in."""
    begun = (folder.record() or {}).get("precision") if resumed else None
    asked = str(plan.trainer["precision"])
    return begun if asked == AUTO and begun in PRECISIONS else asked


def _plugins(precision: str, device: str) -> dict[str, Any]:
    """Return the Trainer's arguments that say how it computes and how it writes checkpoints."""
    plugin, checkpoints = make_plugin(precision, device), WholeFileCheckpointIO()
    if plugin is None:
        return {"precision": precision, "plugins": [checkpoints]}
    return {"precision": None, "plugins": [plugin, checkpoints]}


def _predict(plan: Plan, folder: Path, split: str) -> None:
    """Predict an unlabelled split with the run's best weights, unless that was done before."""
    path = _predictions(plan, folder, split)
    if path.exists():
        return
    predictor = Predictor(load_run(folder), plan.config.data.eval_batch_size)
    source: Any = plan.source
    if split == "ax":
        source, split = replace(source, task=get_task("ax")), "test"
    logits, _ = predictor.answer_split(source, split)
    write_predictions(path, Predictions(torch.arange(len(logits)), logits, None))
    console.print(f"{len(logits):,} predictions in {_near(path)}")


def _predictions(plan: Plan, folder: Path, split: str) -> Path:
    return folder / "predictions" / f"{plan.source.predictions_of(split)}.parquet"


def _make_data(plan: Plan, source: DataSource, warm: Warm, micro_batches: int = 1) -> GlueDataModule:
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
) -> ActivationCache | None:
    depth = count_frozen_blocks(network, selection.names) if plan.caches_prefix else 0
    if not depth:
        return None
    config = plan.config
    return ActivationCache(
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


def _compile(plan: Plan, acceleration: Acceleration, record: Record, micro_batches: int) -> CompiledForward:
    def give_up(reason: str) -> None:
        record.values["compiled"] = False
        console.print(f"torch.compile does not work here, training goes on without it ({reason}).")

    task = plan.config.task
    return CompiledForward(
        acceleration.logits,
        task.batch_size // micro_batches,
        task.max_length,
        pad_token_id=getattr(acceleration.model.config, "pad_token_id", None) or 0,
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
