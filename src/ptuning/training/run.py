"""One run, from a composed configuration to a record: read it top down."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ptuning.acceleration.precision import find_device
from ptuning.backbones.tokenizer_files import check_first_token
from ptuning.config.rules import check
from ptuning.config.schema import Config
from ptuning.display.console import console, quiet, show_plan, show_result
from ptuning.display.format import format_path
from ptuning.display.progress_bar import ProgressReport, TrainingProgress
from ptuning.runs.folder import RunFolder, find_run
from ptuning.runs.progress import RunProgress
from ptuning.runs.record import RunRecord
from ptuning.runs.sweep import Sweep, current_sweep
from ptuning.runs.writer import RunWriter
from ptuning.system.digests import remove_sealed
from ptuning.system.memory import peak_memory_mb, reset_peak_memory
from ptuning.system.processor import processor_name
from ptuning.tracking.run_logger import report_to_agent, tracked
from ptuning.training.attempt import Attempt, find_attempt, find_loss
from ptuning.training.build import (
    counts,
    describe_sizes,
    device_name,
    ends_before_steps,
    fit_head,
    make_classifier,
    make_data,
    make_prefix_cache,
    make_trainer,
    share_cut,
)
from ptuning.training.callbacks import HistoryCallback
from ptuning.training.checkpoint import LastCheckpoint
from ptuning.training.out_of_memory import is_out_of_memory, let_go
from ptuning.training.plan import Plan, make_plan, with_new_callbacks
from ptuning.training.refusals import explain_refusals
from ptuning.training.session import Session, as_it_was
from ptuning.training.shared_answers import SharedAnswers
from ptuning.training.timings import Timings
from ptuning.training.trainable import choose_trainable, mean_magnitude, refuse_other_choice
from ptuning.training.unlabelled import check_texts, is_answered, predict

Report = Callable[[RunProgress], None]
"""Called now and then with how far a run is."""


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
        Its record, if nothing is left to do: it finished, all that it left is there, and ``force`` is off.
    """

    plan: Plan
    folder: RunFolder
    finished: RunRecord | None


@dataclass(frozen=True)
class Done:
    """What became of a run: its folder, its record, and whether it had finished before."""

    folder: Path
    record: RunRecord
    earlier: bool

    @property
    def score(self) -> float:
        """The task's number at the best evaluation."""
        assert self.record.score is not None  # a finished run was evaluated
        return self.record.score


def run(cfg: DictConfig) -> float:
    """Train what ``cfg`` describes, or find that it is done; say so, and return the score that chose its best epoch.

    Raises
    ------
    ptuning.UserError
        For everything that the reader can mend.
    """
    chooses = execute(cfg, Session(keeps_backbone=False), current_sweep()).record.chooses
    assert chooses is not None  # a finished run was evaluated
    return chooses


def locate(cfg: DictConfig | Config, shared: SharedAnswers | None = None) -> Located:
    """Plan a run and look at its folder; ``shared`` is for plans that are not run, of many runs alike.

    Raises
    ------
    ptuning.UserError
        If the configuration cannot run, or what it names cannot be found.
    """
    plan, folder, _ = _plan(cfg, shared)
    finished, _ = _look(plan, folder)
    if not all(is_answered(plan, folder.path, split, shared) for split in plan.config.predict):
        finished = None
        check_texts(plan, shared)
    return Located(plan, folder, finished)


def _plan(
    cfg: DictConfig | Config, shared: SharedAnswers | None = None
) -> tuple[Plan, RunFolder, tuple[RunFolder, ...]]:
    """Return (plan, folder, folders that hold the same run in the precisions of other machines)."""
    config = check(cfg)
    quiet()
    plan = make_plan(config, shared)
    runs_dir = Path(config.runs_dir).expanduser()
    return plan, *find_run(runs_dir, plan.backbone.label, plan.recipe(), plan.recipe_as_typed())


def _look(plan: Plan, folder: RunFolder) -> tuple[RunRecord | None, str]:
    """Return (record of a run that is finished, what a finished run has lost so that it is not, in words)."""
    record = None if plan.config.force else folder.finished()
    if record is not None:
        refuse_other_choice(plan, record)
    lost = find_loss(folder.path, plan.task) if record else ""
    return (None if lost else record), lost


def execute(
    cfg: DictConfig,
    session: Session,
    sweep: Sweep | None = None,
    announce: Callable[[Path], None] = lambda folder: None,
    report: Report | None = None,
) -> Done:
    """Train what ``cfg`` describes, or find that it is done.

    Parameters
    ----------
    cfg
        As Hydra composed it.
    session
        What earlier runs of this process left to be used again.
    sweep
        What the runs of a sweep share.
    announce
        Called with the run folder before training begins in it.
    report
        Called with the run's progress while it trains.
    """
    with as_it_was():
        return _execute(cfg, session, sweep, announce, report)


def _execute(
    cfg: DictConfig, session: Session, sweep: Sweep | None, announce: Callable[[Path], None], report: Report | None
) -> Done:
    began = time.perf_counter()
    plan, folder, others = _plan(cfg)
    with folder.lock():
        announce(folder.path)
        finished, lost = _look(plan, folder)
        if finished is None:
            check_texts(plan)
            timings = Timings(began, partial(_peak_memory, str(plan.trainer["accelerator"])))
            record = _train(plan, folder, lost, session, sweep, timings, report)
        else:
            record = finished
            report_to_agent(plan.config.logger, folder.path, record)
        show_result(record, format_path(folder.path), earlier=finished is not None)
        for other in others:
            kept = other.record()
            console.print(f"In {kept.precision if kept else None}: {format_path(other.path)}")
        for split in plan.config.predict:
            predict(plan, folder.path, split)
    return Done(folder.path, record, finished is not None)


def _train(
    plan: Plan,
    folder: RunFolder,
    lost: str,
    session: Session,
    sweep: Sweep | None,
    timings: Timings,
    report: Report | None,
) -> RunRecord:
    """Train a run until all that it should leave is there; its checkpoint goes once its record says finished.

    The best weights of a run that goes on may be those of an earlier process, and ``lost`` since. Predictions that an
    earlier model of this folder made go first.
    """
    for path in (folder.path / "predictions").glob("*.parquet"):
        if path.stem not in plan.task.validation:
            remove_sealed(path)
    record = None if lost else _train_within_memory(plan, folder, session, sweep, timings, report)
    if lost := lost or find_loss(folder.path, plan.task):
        console.print(
            f"What the best evaluation of this run left is lost ({lost}): it is trained from the start.", markup=False
        )
        remove_sealed(folder.checkpoint)
        timings.begin_anew()
        record = _train_within_memory(with_new_callbacks(plan), folder, session, sweep, timings, report)
    assert record is not None
    if not plan.config.keep_checkpoint:
        remove_sealed(folder.checkpoint)
    return record


def _train_within_memory(
    plan: Plan, folder: RunFolder, session: Session, sweep: Sweep | None, timings: Timings, report: Report | None
) -> RunRecord:
    """Train one run; out of memory, once more from the start with every batch in two micro-batches."""
    attempt = find_attempt(folder, plan.config.force)
    try:
        return train(plan, attempt, session, sweep, timings, report)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or attempt.micro_batches > 1 or plan.config.task.batch_size < 2:
            raise
    # Outside of the except clause: the exception holds on to the tensors that filled the memory.
    session.forget_model()
    let_go()
    remove_sealed(folder.checkpoint)  # it counts in whole batches
    console.print("Out of memory: once more with half the rows at a time and twice the accumulation.")
    timings.begin_anew()
    return train(with_new_callbacks(plan), Attempt(folder, micro_batches=2), session, sweep, timings, report)


def train(
    plan: Plan,
    attempt: Attempt,
    session: Session,
    sweep: Sweep | None,
    timings: Timings,
    report: Report | None = None,
) -> RunRecord:
    """Train one run in its folder and return its record."""
    reset_peak_memory()
    device = find_device(plan.trainer["accelerator"])
    precision = attempt.precision(plan, device)
    with RunWriter(attempt.folder.path, attempt.record(plan, precision)) as writer:
        data = make_data(plan, session, attempt.micro_batches)
        timings.enter("model")
        network, digest = session.model(
            plan.backbone, plan.task, plan.config.seed, plan.attention_dropout, plan.pooling
        )
        check_first_token(network, session.tokenizer(plan.backbone), plan.backbone.label)
        selection = choose_trainable(plan, network, data, attempt.indices)
        writer.note(trainable_magnitude=mean_magnitude(plan, network, selection))
        cache = make_prefix_cache(plan, network, selection, digest, session, timings)
        classifier = make_classifier(plan, network, selection, cache, data, device, writer)
        timings.enter(None)
        writer.add(train_examples=len(data.split("train")), backbone_hash=digest, **counts(selection))
        description = plan.delta_description(digest, network.config, session.tokenizer(plan.backbone))
        history = HistoryCallback(writer, description, timings)
        last = LastCheckpoint(writer.folder, plan.config.checkpoint_seconds)
        shown: list[Any] = []
        if not plan.fits_exactly:  # which has no epochs to show
            shown += [TrainingProgress(writer.record.name)] if plan.trainer["enable_progress_bar"] else []
            shown += [ProgressReport(report)] if report else []
        callbacks = [plan.selector, history, *plan.callbacks, *([cache] if cache else []), *shown, last]
        with tracked(plan.config.logger, writer, sweep, attempt.checkpoint is not None) as loggers, explain_refusals():
            trainer = make_trainer(plan, precision, device, data, writer.folder, loggers, callbacks)
            writer.add(device=device_name(trainer), processor=processor_name())
            show_plan(writer.record, describe_sizes(plan, data), plan.source.about(), share_cut(plan, data))
            if note := ends_before_steps(plan, data):
                console.print(note)
            if attempt.checkpoint:
                console.print(f"Going on from {format_path(attempt.checkpoint)}")
            if plan.fits_exactly:
                history.fit_head(partial(fit_head, plan, network, data))
            else:
                trainer.fit(classifier, datamodule=data, ckpt_path=attempt.checkpoint, weights_only=True)
            if not history.has_evaluated(trainer):  # max_steps, max_time or a sparse evaluation stopped between two
                trainer.validate(classifier, datamodule=data, verbose=False)
    return writer.record


def _peak_memory(accelerator: str) -> float:
    return peak_memory_mb(accelerator != "cpu" and torch.cuda.is_initialized())
