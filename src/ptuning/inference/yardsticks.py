"""Yardsticks to hold modules against: constant answer, untrained cosine, linear probes; each a run's record."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, one_hot

from ptuning.backbones.load import load_skeleton
from ptuning.backbones.pooling import masked_mean, token_read
from ptuning.config.schema import Config
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import DataSource
from ptuning.data.table import Table
from ptuning.display.console import follow
from ptuning.runs.evaluation import Evaluation
from ptuning.runs.folder import RunFolder, find_run
from ptuning.runs.predictions import keep_predictions
from ptuning.runs.record import RunRecord
from ptuning.runs.writer import RunWriter, installed_versions
from ptuning.selection.names import YARDSTICKS
from ptuning.system.digests import is_damaged
from ptuning.system.processor import processor_name
from ptuning.tasks import metrics
from ptuning.tasks.glue import Task
from ptuning.training.build import make_data
from ptuning.training.exact_head import LinearFit, fit_linear, vectors
from ptuning.training.plan import Plan, make_plan
from ptuning.training.session import Session

_OF_TRAINING = (
    *("module", "modules", "layers", "subset", "subset_scope", "patterns", "batch_size", "batch_tokens"),
    *("group_by_length", "optimisation", "trainer", "callbacks", "attention_dropout", "frozen_prefix", "pooling"),
    "eval_batch_size",
)
"""Parts of a run's recipe that change no yardstick."""
_THRESHOLDS = 2_000
"""Thresholds tried on a cosine at most: beyond so many, quantiles of it on the training rows."""


@dataclass(frozen=True)
class Measured:
    """A yardstick's record, the folder of it, and whether it was there before."""

    folder: Path
    record: RunRecord
    earlier: bool


@dataclass(frozen=True)
class _Answers:
    """Split → logits [rows, outputs]; weights that were fitted; what a record says of the fit."""

    logits: Mapping[str, Tensor]
    fitted: int = 0
    found: Mapping[str, float] | None = None


def measure_yardsticks(config: Config) -> Iterator[Measured]:
    """Yield every yardstick of a task on a backbone: measured now, or found finished.

    Parameters
    ----------
    config
        Backbone, task and data as for training, ``seed``, ``runs_dir`` and ``force``. What it says of modules and of
        training changes no yardstick.

    Raises
    ------
    ptuning.UserError
        For everything that the reader can mend.
    """
    plan = make_plan(config)
    measuring = _Measuring(plan)
    answer: dict[str, Callable[[], _Answers]] = {
        "constant": measuring.constant,
        "cosine": measuring.cosine,
        "probe_cls": partial(measuring.probe, "cls"),
        "probe_mean": partial(measuring.probe, "mean"),
    }
    for name in YARDSTICKS:
        if name == "cosine" and len(plan.task.text) != 2:
            continue
        folder, _ = find_run(Path(config.runs_dir).expanduser(), plan.backbone.label, _recipe(plan, name))
        with folder.lock():
            earlier = None if config.force else _finished(folder, plan.task)
            yield Measured(folder.path, earlier or _measure(name, folder, measuring, answer[name]), earlier is not None)


def _recipe(plan: Plan, name: str) -> dict[str, Any]:
    kept = {key: value for key, value in plan.recipe().items() if key not in _OF_TRAINING}
    return {**kept, "module": name, "layers": "all", "subset": "all", "yardstick": 1}


def _finished(folder: RunFolder, task: Task) -> RunRecord | None:
    files = [folder.path / "predictions" / f"{split}.parquet" for split in task.validation]
    return folder.finished() if all(file.is_file() and not is_damaged(file) for file in files) else None


def _measure(name: str, folder: RunFolder, measuring: "_Measuring", answer: Callable[[], _Answers]) -> RunRecord:
    plan, began = measuring.plan, time.perf_counter()
    record = RunRecord(
        kind="yardstick",
        name=folder.name,
        key=folder.key,
        **plan.task.describe(),
        source=plan.source.place,
        module=name,
        layers="all",
        seed=plan.config.seed,
        backbone=plan.backbone.label,
        select_on=plan.config.data.select_on,
        precision="32-true",
        recipe=folder.recipe,
        config=asdict(plan.config),
        versions=installed_versions(),
    )
    with RunWriter(folder.path, record) as writer:
        data = measuring.data
        found = answer()
        scores = {}
        values: dict[str, float] = {}
        for split, logits in found.logits.items():
            labels = data.split(split).labels
            assert labels is not None  # dev sets have labels
            keep_predictions(folder.path / "predictions" / f"{split}.parquet", range(len(labels)), labels, logits)
            with _on_purpose():
                own = metrics.evaluate(plan.task, logits, labels)
            scores[split] = metrics.score(plan.task, own)
            values |= {f"{metric}{split.removeprefix('validation')}": value for metric, value in own.items()}
        best = Evaluation(0.0, 0, score=sum(scores.values()) / len(scores), metrics=values)
        writer.note(
            score=best.score,
            best=best,
            last=best,
            history=(best,),
            optimisation=dict(found.found or {}),
            trainable_parameters=0,
            trainable_percent=0.0,
            head_parameters=found.fitted,
            total_parameters=sum(p.numel() for p in load_skeleton(plan.backbone).parameters()),
            train_examples=len(data.split("train")),
            validation_examples={split: len(logits) for split, logits in found.logits.items()},
            backbone_hash=measuring.digest,
            device=measuring.device.type,
            processor=processor_name(),
            seconds={"total": round(time.perf_counter() - began, 3)},
        )
    return writer.record


class _Measuring:
    """What the yardsticks of one plan share, each part made when it is first asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.task = plan.task
        self.device = plan.device
        self.digest: str | None = None
        """Hash of the backbone's weights, once they are loaded."""
        self._session = Session(keeps_backbone=False)

    @cached_property
    def data(self) -> GlueDataModule:
        return make_data(self.plan, self._session, 1)

    @cached_property
    def network(self) -> Any:
        model, self.digest = self._session.model(self.plan.backbone, self.task, self.plan.config.seed)
        return model

    @cached_property
    def vectors(self) -> dict[str, dict[str, Tensor]]:
        """Kind (``cls``, ``mean``) → split → vectors [rows, hidden]."""
        return self._read(self.data, ("train", *self.task.validation))

    def constant(self) -> _Answers:
        """Answer every row alike: with the training mean, or the class that scores best on the training rows."""
        labels = self._labels(self.data)
        if self.task.is_regression:
            answer = labels.double().mean()[None].float()
        else:
            classes = [one_hot(c, self.task.num_outputs).float() for c in labels.unique()]
            counts = torch.bincount(labels, minlength=self.task.num_outputs)
            answer = max(
                classes, key=lambda c: (self._score(c.expand(len(labels), -1), labels), int(counts[c.argmax()]))
            )
        dev = self.task.validation
        return _Answers({split: answer.expand(len(self.data.split(split)), -1).clone() for split in dev})

    def cosine(self) -> _Answers:
        """Answer with the cosine of two texts' mean hidden states; classes by a fit of that one number on train."""
        splits = (*(() if self.task.is_regression else ("train",)), *self.task.validation)
        sides = []
        for column in range(2):
            plan = replace(self.plan, source=_OneText(self.plan.source, column))
            data = make_data(plan, self._session, 1)
            sides.append(self._read(data, splits)["mean"])
        cosines = {split: cosine_similarity(sides[0][split], sides[1][split])[:, None] for split in splits}
        if self.task.is_regression:
            return _Answers(cosines)
        labels, train = self._labels(self.data), cosines.pop("train")
        fit = self._threshold(train, labels) if self.task.num_outputs == 2 else self._fit(train)
        return _answered(fit, cosines)

    def probe(self, kind: str) -> _Answers:
        """Answer with a regression on `[CLS]` or on the mean of the last hidden states."""
        found = self.vectors[kind]
        return _answered(self._fit(found["train"]), {split: found[split] for split in self.task.validation})

    def _fit(self, features: Tensor) -> LinearFit:
        return fit_linear(features, self._labels(self.data), self.task, self.plan.config.seed)

    def _threshold(self, cosines: Tensor, labels: Tensor) -> LinearFit:
        """Return the threshold and direction that score best on the training rows, as two outputs."""
        fits = [
            LinearFit(torch.tensor([[-sign], [sign]]).double(), torch.stack([sign * t, -sign * t]), 0.0, 0.0)
            for t in _thresholds(cosines[:, 0].double())
            for sign in (1.0, -1.0)
        ]
        return max(fits, key=lambda fit: self._score(fit.logits(cosines), labels))

    def _score(self, logits: Tensor, labels: Tensor) -> float:
        with _on_purpose():
            return metrics.score(self.task, metrics.evaluate(self.task, logits, labels))

    def _labels(self, data: GlueDataModule) -> Tensor:
        labels = data.split("train").labels
        assert labels is not None  # training rows have labels
        return labels

    def _read(self, data: GlueDataModule, splits: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
        network: nn.Module = self.network
        base: Any = getattr(network, str(network.base_model_prefix))

        def compute(inputs: dict[str, Tensor]) -> Tensor:
            states: Tensor = base(**inputs).last_hidden_state
            mask = inputs["attention_mask"]
            return torch.cat([token_read(network, states, mask), masked_mean(states, mask)], 1)

        found: dict[str, dict[str, Tensor]] = {"cls": {}, "mean": {}}
        shows = self.plan.trainer["enable_progress_bar"]
        for split in splits:
            watch = partial(follow, f"vectors of {split}") if shows else list
            both = vectors(network, compute, data.split(split), data.eval_batch_size, self.device, watch)
            found["cls"][split], found["mean"][split] = both.chunk(2, dim=1)
        return found


def _thresholds(values: Tensor) -> Tensor:
    """Return a place below all values, which gives every row one class, and those between each two that follow."""
    distinct = values.unique()
    between = (distinct[1:] + distinct[:-1]) / 2
    if len(between) > _THRESHOLDS:
        between = values.quantile(torch.linspace(0, 1, _THRESHOLDS, dtype=values.dtype)).unique()
    return torch.cat([distinct[:1] - 1.0, between])


def _answered(fit: LinearFit, features: Mapping[str, Tensor]) -> _Answers:
    logits = {split: fit.logits(values) for split, values in features.items()}
    return _Answers(logits, fit.weight.numel() + fit.bias.numel(), {"penalty": fit.penalty} if fit.penalty else None)


@dataclass(frozen=True)
class _OneText(DataSource):
    """One text of a source of pairs, with the pairs' labels, in the pairs' order."""

    pairs: DataSource
    column: int

    @property
    def task(self) -> Task:  # type: ignore[override]
        return self.pairs.task

    @property
    def place(self) -> str:
        return self.pairs.place

    def read(self, split: str) -> Table:
        table = self.pairs.read(split)
        return replace(table, texts=(table.texts[self.column],))

    def identity(self) -> str:
        return f"{self.pairs.identity()}, text {self.column}"


@contextmanager
def _on_purpose() -> Iterator[None]:
    """Leave out what metrics say of answers that are all equal: here they are meant to be."""
    log = logging.getLogger(metrics.__name__)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
