"""GLUE's submission archive: eleven files of predictions, written from runs or, without one, from samples."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptuning.config.schema import Config
from ptuning.deltas.loading import load_run
from ptuning.errors import DataError
from ptuning.inference.glue_entries import Entry, Rule
from ptuning.inference.predictor import Predictor
from ptuning.inference.scored import find_data
from ptuning.system.files import whole_file
from ptuning.tasks.glue import Task, get_task
from ptuning.training.data_source import make_source


def write_submission(entries: Sequence[Entry], out: Path, overrides: Sequence[str] = ()) -> Iterator[str]:
    """Write the archive, and yield a sentence per file and one for the whole.

    Parameters
    ----------
    entries
        Who answers each file.
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
                who = f"{entry.run}, dev score {100 * entry.score:.1f}"
            lines = "".join(f"{index}\t{prediction}\n" for index, prediction in enumerate(predictions))
            # A fixed date: the same predictions give the same archive.
            file = zipfile.ZipInfo(rule.file, date_time=(1980, 1, 1, 0, 0, 0))
            file.external_attr = 0o644 << 16
            archive.writestr(file, f"index\tprediction\n{lines}", zipfile.ZIP_DEFLATED)
            yield f"{rule.file:<12} {rule.rows:>7,} rows  {who}"
    yield f"{out} is complete: upload it at https://gluebenchmark.com/submit"


def format_predictions(task: Task, rule: Rule, logits: Tensor) -> list[str]:
    """Return one word per row as the server wants it: a label, a class id, or a score within 0 and 5."""
    if task.is_regression:
        return [f"{value:.3f}" for value in logits[:, 0].double().clamp(0, 5).tolist()]
    classes = logits.argmax(-1).tolist()
    return [task.labels[number] if rule.names_labels else str(number) for number in classes]


def _answer(predictor: Predictor, rule: Rule, overrides: Sequence[str]) -> Tensor:
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


def _kept(run: Path, rule: Rule) -> Tensor | None:
    """Return the logits that a run keeps for a test set, if it does and has them all."""
    from pyarrow import parquet

    path = run / "predictions" / f"{'ax' if rule.task == 'ax' else rule.split}.parquet"
    if not path.exists():
        return None
    table = parquet.read_table(path)
    if not np.array_equal(table["index"].to_numpy(), np.arange(rule.rows)):
        return None
    return torch.from_numpy(table["logits"].combine_chunks().flatten().to_numpy().reshape(rule.rows, -1).copy())
