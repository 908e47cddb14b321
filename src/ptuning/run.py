"""One run, from a composed configuration to a record: read it top down."""

import gc
import os
import pickle
import platform
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig
from rich.markup import escape
from torch import nn

import ptuning
from ptuning import tracking
from ptuning.config import Config, check
from ptuning.console import console, describe_selection, follow, quiet, show_plan, show_result
from ptuning.data.datamodule import HOLDOUT, GlueDataModule
from ptuning.data.sources import Source
from ptuning.errors import RunError
from ptuning.model.backbone import input_names
from ptuning.model.classifier import GlueClassifier, Predictions
from ptuning.model.delta import describe_backbone, load
from ptuning.model.prefix import FrozenPrefix
from ptuning.model.prefix_cache import PrefixCache
from ptuning.moving import choose_moving
from ptuning.numbers import format_percent
from ptuning.plan import Plan, in_micro_batches, make_plan
from ptuning.progress import TrainingProgress
from ptuning.recording import LastCheckpoint, Recorder, WholeFileCheckpointIO, write_predictions
from ptuning.records import Record, RunFolder, find_run
from ptuning.selection import Selection, Subset, count_frozen_blocks
from ptuning.sweeps.outcome import Sweep
from ptuning.tasks import get_task
from ptuning.warm import Warm


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
    began = time.perf_counter()
    found = locate(cfg)
    plan, folder = found.plan, found.folder
    with folder.lock():
        announce(folder.path)
        record = folder.finished()
        earlier = record is not None and not plan.config.force
        if record is None or not earlier:
            record = _train_within_memory(plan, folder, warm, sweep, began)
        elif tracking.agent_run_id() and tracking.logs_to_wandb(plan.config.logger):
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
    if config.force:
        folder.checkpoint.unlink(missing_ok=True)
    resumed = folder.checkpoint if folder.checkpoint.exists() else None
    kept = _check_checkpoint(resumed, folder.key) if resumed else None
    with Record(folder, _about(plan, folder, resumed is not None)) as record:
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
        model_seconds = time.perf_counter() - began - data_seconds
        record.add(**_counts(selection), selection=list(selection.names), backbone_hash=digest)
        record.add(train_examples=len(data.split("train")))

        recorder = Recorder(folder.path, _delta_description(plan, digest))
        phases = {"data": data_seconds, "model": model_seconds}
        record.closing.append(lambda values: values.update(_outcome(recorder, phases, time.perf_counter() - began)))
        logger = tracking.make_logger(
            config.logger,
            folder.path,
            name=folder.name,
            group=sweep.name if sweep else None,
            labels=_labels(plan),
            record=record.values,
            resumed=resumed is not None,
        )
        tracked = _tracked(plan, record.values, sweep)
        record.closing.append(folder.write)  # a tracker's server that fails at the end must not cost a finished run
        record.closing.append(lambda values: tracking.finish(logger, folder.path, tracked, values))
        record.values |= tracking.begin(logger, tracked)

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
        record.add(device=_device_name(trainer))
        show_plan(_plan_rows(plan, data, selection, record.values))
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
        micro_batches=micro_batches,
        eval_batch_size=max(1, config.data.eval_batch_size // micro_batches),
        max_length=config.task.max_length,
        seed=config.seed,
        group_by_length=config.data.group_by_length,
        select_on=config.data.select_on,
        splits=warm.splits(source.identity(), plan.backbone.identity, config.task.max_length),
    )


def _about(plan: Plan, folder: RunFolder, resumed: bool) -> dict[str, Any]:
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
        "precision": plan.trainer["precision"],
        "max_epochs": plan.trainer["max_epochs"],
        "batch_size": plan.config.task.batch_size,
        "recipe": plan.recipe(),
        "config": asdict(plan.config),
        "versions": _versions(),
    }


def _report_to_agent(plan: Plan, folder: RunFolder, record: dict[str, Any]) -> None:
    """Give W&B's sweep, whose agent asks for a finished run once more, what is known of it."""
    about = {**record, "wandb_id": tracking.agent_run_id()}
    logger = tracking.make_logger(plan.config.logger, folder.path, folder.name, None, _labels(plan), about)
    tracking.report_to_agent(logger, folder.path, _tracked(plan, record, None), record)


def _labels(plan: Plan) -> dict[str, str]:
    """Return what tells runs apart in a tracker's list."""
    return {"task": plan.task.name, "module": plan.module_label, "backbone": plan.backbone.label}


def _tracked(plan: Plan, record: dict[str, Any], sweep: Sweep | None) -> dict[str, Any]:
    """Return the configuration as trackers get it: what was composed, what it became, and what moves."""
    return {
        **asdict(plan.config),
        # As in folder names and tables, and flat: what trackers group by.
        **{f"{word}_name": name for word, name in _labels(plan).items()},
        "layers_name": plan.layers,
        **plan.subset_keys,
        **{name: record[name] for name in _COUNTS},
        "optimisation": asdict(plan.optimisation),
        "micro_batches": record.get("micro_batches", 1),
        "sweep": asdict(sweep) if sweep else None,
    }


_COUNTS = ("trainable_parameters", "head_parameters", "total_parameters", "trainable_percent")


def _counts(selection: Selection) -> dict[str, Any]:
    return {name: getattr(selection, name) for name in _COUNTS}


def _outcome(recorder: Recorder, phases: dict[str, float], total: float) -> dict[str, Any]:
    seconds = {**phases, **recorder.seconds, "total": total}
    found: dict[str, Any] = {
        "history": recorder.history,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "train_examples_per_second": round(recorder.examples / max(recorder.seconds["train"], 1e-9), 2),
        "peak_memory_mb": _peak_memory_mb(),
    }
    if recorder.best is not None:
        found |= {"score": recorder.best["score"], "best": recorder.best, "last": recorder.history[-1]}
    return found


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


def _delta_description(plan: Plan, digest: str) -> dict[str, Any]:
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


def _describe_prefix(config: Config, about: dict[str, Any] | None) -> dict[str, str]:
    """Return the row of the table that says what runs once per example, if that was asked for."""
    if config.frozen_prefix == "live":
        return {}
    if about is None:
        return {"prefix": "live, for want of a block below everything that moves"}
    tokens = "first tokens" if about["tokens"] == "first" else "all tokens"
    return {"prefix": f"{about['depth']} blocks, cached: {about['megabytes']:,.1f} MB ({tokens}, {about['dtype']})"}


def _plan_rows(plan: Plan, data: GlueDataModule, selection: Selection, record: dict[str, Any]) -> dict[str, str]:
    sizes = ", ".join(f"{len(data.split(name)):,} {name}" for name in ("train", *data.evaluated))
    synthetic = " [yellow]synthetic[/]" if plan.source.place == "synthetic" else ""
    about = {name: escape(value) for name, value in plan.source.about().items()}
    max_length = plan.config.task.max_length
    if plan.task.is_own and (cut := float((data.split("train").lengths >= max_length).float().mean())):
        about["cut"] = f"{format_percent(100 * cut)} % of the training rows, at {max_length} tokens (task.max_length)"
    epochs, rates = plan.trainer["max_epochs"], plan.optimisation
    return {
        "task": f"{plan.task.name}{synthetic} ({sizes})",
        **about,
        "module": f"{plan.module_label}, layers {plan.layers}",
        **_subset_row(plan.subset),
        "moves": describe_selection(selection),
        "backbone": plan.backbone.label,
        **_describe_prefix(plan.config, record.get("frozen_prefix")),
        "on": f"{record['device']}, {plan.trainer['precision']}",
        "training": f"{epochs} epochs, batch {plan.config.task.batch_size}, seed {plan.config.seed}",
        "rates": f"{rates.lr:g}, head {rates.head_lr:g}",
    }


def _subset_row(subset: Subset) -> dict[str, str]:
    scope = {"tensor": " of each tensor", "selection": " of the selection"}[subset.scope] if subset.is_ranked else ""
    return {} if subset.kind == "all" else {"subset": f"{subset}{scope}"}


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def _peak_memory_mb() -> float:
    """Return the peak of the GPU's allocated memory, or of the process's resident memory, in MiB."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "ptuning": ptuning.__version__}
    for name in ("torch", "lightning", "transformers", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


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
