"""GLUE's submission archive: eleven files of predictions, each from the best run of its task or from a sample.

File names, header, labels and sizes are the benchmark's (https://gluebenchmark.com/faq and its sample submission).
Choosing the runs takes no torch.
"""

import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ptuning.config.schema import Config
from ptuning.display.format import format_points
from ptuning.errors import ConfigError, DataError, RunError, nearest
from ptuning.runs.limits import part_scored
from ptuning.runs.predictions import read_predictions
from ptuning.runs.record import find_record
from ptuning.system.files import whole_file
from ptuning.system.json_files import DamagedError
from ptuning.tasks.glue import Task, get_task

if TYPE_CHECKING:
    from torch import Tensor

    from ptuning.deltas.predictor import Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """One file of the archive.

    Attributes
    ----------
    file
        Its name.
    task, split
        The test set that it answers.
    rows
        Number of rows.
    sample
        The prediction for every row if no run answers: the most frequent label of the training set, STS-B's mean.
    head
        The task whose runs answer it.
    names_labels
        True if labels are written as names, False if as class ids.
    """

    file: str
    task: str
    split: str
    rows: int
    sample: str
    head: str
    names_labels: bool = False


RULES = (
    Rule("CoLA.tsv", "cola", "test", 1063, "1", "cola"),
    Rule("SST-2.tsv", "sst2", "test", 1821, "1", "sst2"),
    Rule("MRPC.tsv", "mrpc", "test", 1725, "1", "mrpc"),
    Rule("STS-B.tsv", "stsb", "test", 1379, "2.701", "stsb"),
    Rule("QQP.tsv", "qqp", "test", 390_965, "0", "qqp"),
    Rule("MNLI-m.tsv", "mnli", "test_matched", 9796, "contradiction", "mnli", names_labels=True),
    Rule("MNLI-mm.tsv", "mnli", "test_mismatched", 9847, "contradiction", "mnli", names_labels=True),
    Rule("QNLI.tsv", "qnli", "test", 5463, "entailment", "qnli", names_labels=True),
    Rule("RTE.tsv", "rte", "test", 3000, "entailment", "rte", names_labels=True),
    Rule("WNLI.tsv", "wnli", "test", 146, "0", "wnli"),
    Rule("AX.tsv", "ax", "test", 1104, "contradiction", "mnli", names_labels=True),
)


_DEV_ROWS = MappingProxyType(
    {
        "cola": 1043,
        "sst2": 872,
        "mrpc": 408,
        "stsb": 1500,
        "qqp": 40_430,
        "mnli": 9815 + 9832,
        "qnli": 5463,
        "rte": 277,
        "wnli": 71,
    }
)
"""Task → rows of GLUE's own dev sets."""


@dataclass(frozen=True)
class Entry:
    """A file of the archive, and the run that answers it.

    Attributes
    ----------
    rule
        The file.
    run
        Folder of the best run, or ``None`` for sample predictions.
    score
        The run's dev score, in [-1, 1].
    why
        The reason for sample predictions; of a run, what to know of its score.
    """

    rule: Rule
    run: Path | None
    score: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class _Candidate:
    """A run that can be sent, its dev score, and the rows that it was scored on, as far as its record says."""

    folder: Path
    score: float
    rows: int | None


def choose_entries(runs_dir: Path, sample: Sequence[str] = ()) -> tuple[Entry, ...]:
    """Return an entry per file: the run with the best dev score, or sample predictions.

    Scores are compared on one dev set: GLUE's own, by its number of rows, or the largest where no run has that.

    Parameters
    ----------
    runs_dir
        The folder of runs.
    sample
        Tasks that get sample predictions although there is a run.

    Raises
    ------
    RunError
        If no run can answer anything: there are none, they did not finish, or all had synthetic data.
    """
    from ptuning.results import collect

    tasks = tuple(dict.fromkeys(rule.task for rule in RULES))
    for task in sample:
        if task not in tasks:
            raise ConfigError(f"--sample {task} is no task.{nearest(task, tasks)} Tasks: {', '.join(tasks)}.")
    candidates: dict[str, list[_Candidate]] = {}
    passed_over: dict[str, list[str]] = {}
    runs = collect(runs_dir).runs
    for row in runs[runs["kind"] == ""].sort_values(["task", "folder"]).itertuples():  # a yardstick is no model
        folder = runs_dir / str(row.folder)
        if why := _unfit(str(row.status), str(row.source), folder):
            passed_over.setdefault(str(row.task), []).append(why)
        else:
            candidates.setdefault(str(row.task), []).append(_Candidate(folder, float(row.score), _rows(folder)))
    if not {rule.head for rule in RULES} & set(candidates):
        reasons = sorted({why for found in passed_over.values() for why in found})
        said = f": {'; '.join(reasons)}" if reasons else ", only other tasks"
        raise RunError(
            f"No run in {runs_dir} can be sent to GLUE's server{said}. Train on GLUE's own data: data=hub, or "
            "data=local data.dir=FOLDER."
        )
    return tuple(_entry(rule, candidates, passed_over, rule.task in sample) for rule in RULES)


def _entry(
    rule: Rule, candidates: dict[str, list[_Candidate]], passed_over: dict[str, list[str]], asked: bool
) -> Entry:
    if asked:
        return Entry(rule, None, why="as asked for")
    if rule.head in candidates:
        return _best(rule, candidates[rule.head])
    others = passed_over.get(rule.head, [])
    counted = [f"{others.count(why)} passed over, {why}" for why in sorted(set(others))]
    return Entry(rule, None, why=", ".join([f"no run of {rule.head}", *counted]))


def _best(rule: Rule, found: Sequence[_Candidate]) -> Entry:
    """Return the entry of the run with the best score on GLUE's own dev set, or on the largest that there is."""
    own = _DEV_ROWS[rule.head]
    rows = {own if one.rows is None else one.rows for one in found}
    chosen = own if own in rows else max(rows)
    alike = [one for one in found if one.rows in (chosen, *([None] if chosen == own else []))]
    best = max(alike, key=lambda one: one.score)
    notes = [] if chosen == own else [f"on {chosen:,} rows: GLUE's own dev set has {own:,}"]
    if others := sorted(rows - {chosen}):
        counted = " or ".join(f"{one:,}" for one in others)
        notes.append(f"{len(found) - len(alike)} passed over, scored on {counted} dev rows in the place of {chosen:,}")
    return Entry(rule, best.folder, best.score, "; ".join(notes))


def _rows(folder: Path) -> int | None:
    """Return how many dev rows a run was scored on, or ``None`` if its record does not say."""
    record = find_record(folder)
    return sum(record.validation_examples.values()) if record and record.validation_examples else None


def _unfit(status: str, source: str, folder: Path) -> str:
    """Return the reason why a run cannot be sent, or an empty string."""
    if source == "synthetic":
        return "trained on synthetic data, which has nothing to do with GLUE's test sets"
    if status != "finished":
        return "not finished"
    record = find_record(folder)
    if record is not None and part_scored(record):
        return "scored on a part of the dev set (trainer.limit_val_batches)"
    return ""


def write_submission(entries: Sequence[Entry], out: Path, overrides: Sequence[str] = ()) -> Iterator[str]:
    """Write the archive, and yield a line per file and one for the whole.

    Parameters
    ----------
    entries
        The runs that answer, of :func:`choose_entries`.
    out
        The archive; it appears when all is written.
    overrides
        Where the test sets lie, as typed for ``train.py``; by default where the runs had their data. Answers that a
        run keeps already (``predict=[test]``) are taken where nothing is typed.

    Raises
    ------
    DataError
        If a test set cannot be had or has not the benchmark's number of rows.
    """
    from ptuning.deltas.loading import load_run
    from ptuning.deltas.predictor import Predictor

    answering: tuple[Path, Predictor] | None = None
    with whole_file(out) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            rule = entry.rule
            if entry.run is None:
                predictions = [rule.sample] * rule.rows
                who = f"sample, every row {rule.sample}: {entry.why}"
            else:
                logits = None if overrides else _kept(entry.run, rule)
                if logits is None:
                    if answering is None or answering[0] != entry.run:
                        answering = (entry.run, Predictor(load_run(entry.run)))
                    logits = _answer(answering[1], rule, overrides)
                predictions = format_predictions(get_task(rule.task), rule, logits)
                who = f"{entry.run}, dev score {format_points(entry.score)}{f' ({entry.why})' if entry.why else ''}"
            lines = "".join(f"{index}\t{prediction}\n" for index, prediction in enumerate(predictions))
            # A fixed date: the same predictions give the same archive.
            file = zipfile.ZipInfo(rule.file, date_time=(1980, 1, 1, 0, 0, 0))
            file.external_attr = 0o644 << 16
            archive.writestr(file, f"index\tprediction\n{lines}", zipfile.ZIP_DEFLATED)
            yield f"{rule.file:<12} {rule.rows:>7,} rows  {who}"
    yield f"{out} is complete: upload it at https://gluebenchmark.com/submit"


def format_predictions(task: Task, rule: Rule, logits: "Tensor") -> list[str]:
    """Return one word per row as the server wants it: a label, a class id, or a score within 0 and 5."""
    if task.is_regression:
        return [f"{value:.3f}" for value in logits[:, 0].double().clamp(0, 5).tolist()]
    classes = logits.argmax(-1).tolist()
    return [task.labels[number] if rule.names_labels else str(number) for number in classes]


def _answer(predictor: "Predictor", rule: Rule, overrides: Sequence[str]) -> "Tensor":
    from ptuning.inference.evaluation_data import find_data
    from ptuning.training.data_source import make_source

    task = get_task(rule.task)
    mend = f"Say where it lies: data=local data.dir=FOLDER; or take sample predictions: --sample {rule.task}."
    try:
        data = find_data(predictor.loaded, task, overrides)
        logits, _ = predictor.answer_split(make_source(Config(data=data), task), rule.split)
    except DataError as error:
        raise DataError(f"There is no test set for {rule.file}: {error} {mend}") from error
    if len(logits) != rule.rows:
        raise DataError(f"The test set for {rule.file} has {len(logits):,} rows, GLUE's has {rule.rows:,}. {mend}")
    return logits


def _kept(run: Path, rule: Rule) -> "Tensor | None":
    """Return the logits that a run has kept for a whole test set, or ``None``; a damaged file is named."""
    import torch

    path = run / "predictions" / f"{'ax' if rule.task == 'ax' else rule.split}.parquet"
    try:
        kept = read_predictions(path)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        log.warning("%s is damaged (%s): its answers are computed anew", path, error)
        return None
    whole = np.array_equal(kept.index, np.arange(rule.rows)) and kept.logits.shape[1] == get_task(rule.head).num_outputs
    return torch.from_numpy(kept.logits.copy()) if whole else None
