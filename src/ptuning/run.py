"""One run, from a composed configuration to a record: read it top down."""

import os
import platform
import resource
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

import ptuning
from ptuning import tracking
from ptuning.config import Config, TrainerConfig, check
from ptuning.console import TrainingProgress, console, describe_selection, quiet, show_plan, show_result
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import HubSource, LocalSource, Source, SyntheticSource
from ptuning.errors import ConfigError, RunError
from ptuning.model.backbone import (
    BackboneSource,
    backbone_hash,
    find_backbone,
    load_config,
    load_model,
    load_tokenizer,
)
from ptuning.model.classifier import GlueClassifier, Optimisation, Predictions
from ptuning.model.delta import DESCRIPTION, WEIGHTS, describe_backbone
from ptuning.records import RunFolder, find_run
from ptuning.recording import (
    Interrupted,
    LastCheckpoint,
    Recorder,
    WholeFileCheckpointIO,
    write_predictions,
)
from ptuning.selection import Selection, SelectionCallback, format_layers, parse_layers
from ptuning.tasks import Task, get_task

_HARMLESS = ("accelerator", "devices", "enable_progress_bar", "log_every_n_steps", "profiler", "benchmark")
"""Trainer arguments that cannot change a result, so that they stay out of a run's hash."""


@dataclass(frozen=True)
class Plan:
    """A configuration made definite: sources found, defaults filled in, hardware looked at."""

    config: Config
    task: Task
    source: Source
    backbone: BackboneSource
    module: tuple[str, ...]
    layers: str
    optimisation: Optimisation
    trainer: dict[str, Any]
    selector: SelectionCallback
    callbacks: tuple[pl.Callback, ...]

    @property
    def module_label(self) -> str:
        """``query+value``; for a reader's own selection class, its name."""
        if type(self.selector) is not ptuning.ModuleSelectionCallback:
            return type(self.selector).__name__
        return "+".join(self.module)

    def recipe(self) -> dict[str, Any]:
        """Return everything that can change the result, and nothing that cannot."""
        config = self.config
        return {
            "format": 1,
            "task": self.task.name,
            "module": self.module_label,
            "patterns": config.module.patterns,
            "layers": self.layers,
            "subset": config.subset,
            "seed": config.seed,
            "backbone": self.backbone.identity,
            "data": self.source.identity(),
            "max_length": config.task.max_length,
            "batch_size": config.task.batch_size,
            "group_by_length": config.data.group_by_length,
            "optimisation": asdict(self.optimisation),
            "trainer": {k: v for k, v in self.trainer.items() if k not in _HARMLESS},
            "callbacks": config.callbacks,
            "predict": config.predict,
        }


def run(cfg: DictConfig) -> float:
    """Train what ``cfg`` describes, or find that it is done; return the score.

    Raises
    ------
    ptuning.UserError
        For everything that the reader can mend.
    """
    began = time.perf_counter()
    config = check(cfg)
    quiet()
    plan = make_plan(config)
    folder = find_run(Path(config.runs_dir).expanduser(), plan.backbone.label, plan.recipe())
    with folder.lock():
        record = folder.record()
        if record and record["status"] == "finished" and not config.force:
            console.print(f"[bold]{folder.name}[/] on {plan.backbone.label}")
        else:
            record = _train(plan, folder, began)
            show_result(record, _near(folder.path), earlier=False)
            return float(record["score"])
        show_result(record, _near(folder.path), earlier=True)
        return float(record["score"])


def make_plan(config: Config) -> Plan:
    """Find sources and fill in defaults; nothing large is loaded."""
    task = get_task(config.task.name)
    if not task.trains:
        raise ConfigError(
            f"{task.name} has no training data. Train MNLI and predict {task.name} with its head: "
            f"task=mnli predict=[{task.name}]"
        )
    _check_predict(config, task)
    backbone = find_backbone(config.backbone.path, config.backbone.revision, config.backbone.config)
    module = tuple(config.module.parts)
    num_layers = int(load_config(backbone).num_hidden_layers)
    layers = format_layers(parse_layers(config.layers, num_layers), num_layers)
    parts = list(config.module.parts.values())
    max_epochs = config.trainer.max_epochs
    if max_epochs is None:
        max_epochs = min(config.task.max_epochs, max(part.max_epochs for part in parts))
    selector, callbacks = _make_callbacks(config, module)
    return Plan(
        config=config,
        task=task,
        source=_make_source(config, task),
        backbone=backbone,
        module=module,
        layers="all" if module == ("frozen",) else layers,
        optimisation=Optimisation(
            lr=config.optim.lr if config.optim.lr is not None else min(part.learning_rate for part in parts),
            weight_decay=config.optim.weight_decay,
            warmup=config.optim.warmup,
            schedule=config.optim.schedule,
            betas=(config.optim.betas[0], config.optim.betas[1]),
            eps=config.optim.eps,
        ),
        trainer=_trainer_arguments(config.trainer, max_epochs),
        selector=selector,
        callbacks=callbacks,
    )


def _train(plan: Plan, folder: RunFolder, began: float) -> dict[str, Any]:
    """Train one run in its folder and return its record."""
    config = plan.config
    if config.force:
        folder.checkpoint.unlink(missing_ok=True)
    earlier = (folder.record() or {}) if folder.checkpoint.exists() else {}
    record: dict[str, Any] = {
        "status": "running",
        "name": folder.name,
        "key": folder.key,
        "task": plan.task.name,
        "source": config.data.source,
        "module": plan.module_label,
        "layers": plan.layers,
        "subset": config.subset,
        "seed": config.seed,
        "backbone": plan.backbone.label,
        "begun": earlier.get("begun") or datetime.now(UTC).isoformat(timespec="seconds"),
        "wandb_id": earlier.get("wandb_id") or f"{folder.key}-{os.urandom(3).hex()}",
    }
    folder.write(record)
    logger: Any = False
    recorder: Recorder | None = None
    status, reason = "failed", ""
    upload = None
    try:
        data = GlueDataModule(
            plan.source,
            load_tokenizer(plan.backbone),
            batch_size=config.task.batch_size,
            eval_batch_size=config.data.eval_batch_size,
            max_length=config.task.max_length,
            seed=config.seed,
            group_by_length=config.data.group_by_length,
        )
        data.setup("fit")
        data_ready = time.perf_counter()
        network = load_model(plan.backbone, plan.task, config.seed)
        selection = plan.selector.apply(network)
        digest = backbone_hash(network)
        classifier = GlueClassifier(network, plan.task, plan.optimisation, config.seed, folder.key)
        model_ready = time.perf_counter()

        counts = {
            "trainable_parameters": selection.trainable_parameters,
            "head_parameters": selection.head_parameters,
            "total_parameters": selection.total_parameters,
            "trainable_percent": selection.trainable_percent,
        }
        record |= {
            **counts,
            "selection": list(selection.names),
            "backbone_hash": digest,
            "optimisation": asdict(plan.optimisation),
            "precision": plan.trainer["precision"],
            "max_epochs": plan.trainer["max_epochs"],
            "batch_size": config.task.batch_size,
            "train_examples": len(data.split("train")),
            "recipe": plan.recipe(),
            "config": asdict(config),
            "versions": _versions(),
        }
        folder.write(record)
        recorder = Recorder(folder.path, _delta_description(plan, digest))
        logger = tracking.make_logger(
            config.logger,
            folder.path,
            name=folder.name,
            group=_sweep_name(),
            tags=(plan.task.name, plan.module_label, plan.backbone.label),
            run_id=record["wandb_id"],
        )
        tracking.begin(logger, {**record["config"], **counts, "optimisation": record["optimisation"]})
        progress = (TrainingProgress(folder.name),) if config.trainer.enable_progress_bar else ()
        trainer = pl.Trainer(
            **{**plan.trainer, "enable_progress_bar": False},
            logger=logger,
            callbacks=[plan.selector, recorder, LastCheckpoint(folder.path), *progress, *plan.callbacks],
            plugins=[WholeFileCheckpointIO()],
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder.path,
        )
        record["device"] = _device_name(trainer)
        show_plan(_plan_rows(plan, data, selection, record))
        resumed = folder.checkpoint if folder.checkpoint.exists() else None
        if resumed:
            _check_checkpoint(resumed, folder.key)
            console.print(f"Going on from {_near(resumed)}")
        trainer.fit(classifier, datamodule=data, ckpt_path=resumed, weights_only=True)
        for split in config.predict:
            _predict(trainer, classifier, data, split, folder.path)
        assert recorder.best is not None
        status = "finished"
        record |= {"data_seconds": data_ready - began, "model_seconds": model_ready - data_ready}
    except Interrupted:
        status = "interrupted"
        raise Interrupted(
            f"Stopped. {_near(folder.checkpoint)} is written; the same command goes on from there."
        ) from None
    except KeyboardInterrupt:
        status, reason = "interrupted", "Stopped at once"
        raise
    except BaseException:
        reason = "".join(traceback.format_exc().splitlines(keepends=True)[-4:])
        raise
    finally:
        record |= {
            "status": status,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": reason,
        }
        if recorder is not None:
            record |= _outcome(recorder, time.perf_counter() - began, record)
        if isinstance(logger, tracking.WandbTracker):
            upload = _finish_tracking(
                logger, record, folder, {"finished": 0, "interrupted": 130}.get(status, 1)
            )
        elif logger:
            logger.finalize(status)
        with suppress(OSError) if status != "finished" else suppress():  # the first error is the one to tell
            folder.write(record)
    if upload:
        console.print(f"W&B is offline ({logger.offline_reason or 'as asked'}); upload later: {upload}")
    return record


def _outcome(recorder: Recorder, total: float, record: dict[str, Any]) -> dict[str, Any]:
    seconds = {
        "data": record.pop("data_seconds", 0.0),
        "model": record.pop("model_seconds", 0.0),
        **recorder.seconds,
        "total": total,
    }
    found: dict[str, Any] = {
        "history": recorder.history,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "train_examples_per_second": round(recorder.examples / max(recorder.seconds["train"], 1e-9), 2),
        "peak_memory_mb": _peak_memory_mb(),
    }
    if recorder.best is not None:
        found |= {"score": recorder.best["score"], "best": recorder.best, "last": recorder.history[-1]}
    return found


def _finish_tracking(
    logger: tracking.WandbTracker, record: dict[str, Any], folder: RunFolder, exit_code: int
) -> str | None:
    kept = (
        "score",
        "status",
        "trainable_parameters",
        "head_parameters",
        "trainable_percent",
        "train_examples_per_second",
        "peak_memory_mb",
        "source",
    )
    summary = {name: record[name] for name in kept if name in record}
    summary |= {f"best/{name}": value for name, value in record.get("best", {}).items()}
    summary |= {f"seconds/{name}": value for name, value in record.get("seconds", {}).items()}
    delta = [folder.path / name for name in (WEIGHTS, DESCRIPTION)] if exit_code == 0 else []
    return logger.finish(exit_code, summary, delta)


def _predict(
    trainer: pl.Trainer, classifier: GlueClassifier, data: GlueDataModule, split: str, folder: Path
) -> None:
    """Predict an unlabelled split with the best weights of the run."""
    from ptuning.model.delta import apply_delta, read_delta

    apply_delta(classifier.model, read_delta(folder)[0])
    if split == "ax":
        tokens = GlueDataModule(
            _ax_source(data.source),
            data.tokenizer,
            eval_batch_size=data.eval_batch_size,
            max_length=data.max_length,
        )
        loader = tokens.eval_dataloader("test")
    else:
        loader = data.eval_dataloader(split)
    answers = trainer.predict(classifier, dataloaders=loader) or []
    index, logits = (torch.cat(part) for part in zip(*answers, strict=True))  # type: ignore[arg-type]
    order = torch.argsort(index)
    write_predictions(
        folder / "predictions" / f"{split}.parquet", Predictions(index[order], logits[order], None)
    )


def _ax_source(source: Source) -> Source:
    from dataclasses import replace

    return replace(source, task=get_task("ax"))  # type: ignore[type-var]


def _check_predict(config: Config, task: Task) -> None:
    allowed = [*task.test, *(["ax"] if task.name == "mnli" else [])]
    for split in config.predict:
        if split not in allowed:
            raise ConfigError(
                f"predict=[{split}] is not a split of {task.name}. Allowed: {', '.join(allowed)}."
            )


def _make_source(config: Config, task: Task) -> Source:
    if config.data.source == "synthetic":
        return SyntheticSource(
            task, {"train": 2000, "validation": 500, "test": 500, **config.data.sizes}, config.data.seed
        )
    if config.data.source == "local":
        return LocalSource(task, Path(str(config.data.dir)).expanduser())
    return HubSource(task, config.data.path, config.data.revision)


def _make_callbacks(
    config: Config, module: tuple[str, ...]
) -> tuple[SelectionCallback, tuple[pl.Callback, ...]]:
    """Instantiate the ``callbacks`` group; the entry called ``selection`` gets module, layers and patterns."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    made: dict[str, Any] = {}
    for name, settings in config.callbacks.items():
        extra = {}
        if name == "selection":
            extra = {"module": list(module), "layers": config.layers, "patterns": config.module.patterns}
        try:
            made[name] = instantiate(settings, **extra, _convert_="all")
        except InstantiationException as error:
            cause = error.__cause__ or error
            raise ConfigError(
                f"callbacks.{name} cannot be made: {str(cause).splitlines()[0]}. "
                f"callbacks.{name}._target_ names a class by its import path, e.g. my_module.MyClass."
            ) from error
    selector = made.pop("selection", None)
    if not isinstance(selector, SelectionCallback):
        raise ConfigError(
            "callbacks.selection must be a ptuning.SelectionCallback: it decides what may move."
        )
    return selector, tuple(made.values())


def _trainer_arguments(trainer: TrainerConfig, max_epochs: int) -> dict[str, Any]:
    arguments = {name: value for name, value in asdict(trainer).items() if value is not None}
    arguments |= {
        "max_epochs": max_epochs,
        "precision": choose_precision(trainer.precision, trainer.accelerator),
    }
    return arguments


def choose_precision(asked: Any, accelerator: str = "auto") -> str:
    """Return Lightning's name of a precision; ``auto`` is bf16-mixed where the hardware is fast at it, else 32-true.

    GPUs from Ampere on multiply bf16 faster than fp32, as do CPUs with AVX-512 bf16 or AMX. On others bf16 is
    emulated: a matrix product took 1/130 of the fp32 rate on an AVX2 machine.
    """
    allowed = (
        "auto",
        "32",
        "32-true",
        "16-mixed",
        "bf16-mixed",
        "bf16-true",
        "64",
        "64-true",
        "bf16",
        "16",
        "16-true",
    )
    if str(asked) not in allowed:
        raise ConfigError(f"trainer.precision={asked} is not known. Allowed: {', '.join(allowed)}.")
    if str(asked) != "auto":
        names = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
        return names.get(str(asked), str(asked))
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "16-mixed"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16-mixed" if fast else "32-true"
    return "32-true"


def _check_checkpoint(path: Path, key: str) -> None:
    """Refuse a checkpoint that cannot be read or belongs to another run, before Lightning meets it."""
    import pickle

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("run_key")
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


def _delta_description(plan: Plan, digest: str) -> dict[str, Any]:
    return {
        "ptuning": ptuning.__version__,
        "backbone": describe_backbone(plan.backbone, plan.config.backbone.path, digest),
        "task": plan.task.name,
        "labels": list(plan.task.labels),
        "source": plan.config.data.source,
        "module": plan.module_label,
        "layers": plan.layers,
        "subset": plan.config.subset,
        "max_length": plan.config.task.max_length,
    }


def _plan_rows(
    plan: Plan, data: GlueDataModule, selection: Selection, record: dict[str, Any]
) -> dict[str, str]:
    sizes = ", ".join(f"{len(tokens):,} {name}" for name, tokens in data.splits.items())
    synthetic = " [yellow]synthetic[/]" if plan.config.data.source == "synthetic" else ""
    return {
        "task": f"{plan.task.name}{synthetic} ({sizes})",
        "module": f"{plan.module_label}, layers {plan.layers}",
        "moves": describe_selection(selection),
        "backbone": plan.backbone.label,
        "on": f"{record['device']}, {record['precision']}",
        "training": f"{record['max_epochs']} epochs, batch {record['batch_size']}, lr {plan.optimisation.lr:g}",
    }


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def _peak_memory_mb() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "ptuning": ptuning.__version__}
    for name in ("torch", "lightning", "transformers", "datasets", "tokenizers"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _sweep_name() -> str | None:
    """Return the name that the runs of a multirun share."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().sweep.dir).name
    return None


def _near(path: Path) -> str:
    near = os.path.relpath(path)
    return near if not near.startswith("..") else str(path)
