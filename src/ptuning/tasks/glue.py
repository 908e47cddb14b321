"""The nine GLUE tasks and AX as one table of data: columns, label names in order, metrics, file names.

Custom data has a :class:`Task` too, made from its columns and labels (:mod:`ptuning.data.custom`).

Column names, label names and their order are those of ``nyu-mll/glue`` on the Hugging Face Hub, so that a head
trained here serves there. File and folder names are those of the benchmark's own download (Wang et al. 2019,
https://gluebenchmark.com/tasks).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ptuning.errors import ConfigError, nearest


@dataclass(frozen=True)
class Task:
    """A task: its text columns, label names, metrics and files.

    Attributes
    ----------
    name
        The configuration's name, also of the config in ``nyu-mll/glue``.
    text
        The one or two text columns, by the Hub's names; by the user's for custom data.
    labels
        Label names; a label's position is its class id. Empty for regression.
    metrics
        Names of :mod:`ptuning.tasks.metrics`; the score is the mean of ``score_of``.
    score_of
        The metrics whose mean is the task's number, for GLUE the benchmark's.
    label
        The label column, by the Hub's name; by the user's for custom data.
    folder
        Folder of the benchmark's own download.
    file_text
        Names of the text columns in the downloaded files; for files without a header, in ``header``.
    file_label
        Name of the label column in the downloaded files.
    header
        Column names of train and dev files that have no header line, else empty.
    validation
        Split name → file stem of every dev set (MNLI has two).
    test
        Split name → file stem of every unlabelled set.
    trains
        True if there is training data; AX has none and uses MNLI's head.
    skips_damaged_rows
        The official files of this task hold rows with missing fields, which ``nyu-mll/glue`` leaves out too.
    """

    name: str
    text: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    score_of: tuple[str, ...]
    label: str = "label"
    folder: str = ""
    file_text: tuple[str, ...] = ()
    file_label: str = "label"
    header: tuple[str, ...] = ()
    validation: Mapping[str, str] = field(default_factory=lambda: {"validation": "dev"})
    test: Mapping[str, str] = field(default_factory=lambda: {"test": "test"})
    trains: bool = True
    skips_damaged_rows: bool = False

    @property
    def is_regression(self) -> bool:
        """True if the label is a number rather than a class."""
        return not self.labels

    @property
    def num_outputs(self) -> int:
        """Width of the head: the number of classes, or one for regression."""
        return max(len(self.labels), 1)

    @property
    def is_custom(self) -> bool:
        """True for custom data, False for a task of GLUE."""
        return self.name not in TASKS

    def describe(self) -> dict[str, Any]:
        """Return the task's entries in a record and a delta, as plain JSON values; see :func:`described_task`."""
        return {
            "task": self.name,
            "text": self.text,
            "label": self.label,
            "labels": self.labels,
            "metrics": self.metrics,
            "score_of": self.score_of,
        }


_ACCURACY = ("accuracy",)
_ACCURACY_F1 = ("accuracy", "f1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_SENTENCES = ("sentence1", "sentence2")

CUSTOM = "custom"
"""Value of ``task=`` for custom data."""


def _glue(
    name: str, folder: str, text: tuple[str, ...], labels: tuple[str, ...], metrics: tuple[str, ...], **others: Any
) -> Task:
    """Return a task whose files name the text columns as the Hub does, and whose score is the mean of all metrics."""
    return Task(name, text, labels, metrics, **({"score_of": metrics, "folder": folder, "file_text": text} | others))


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            _glue(
                "cola",
                "CoLA",
                ("sentence",),
                ("unacceptable", "acceptable"),
                ("matthews", "accuracy"),
                score_of=("matthews",),
                header=("source", "label", "star", "sentence"),
            ),
            _glue("sst2", "SST-2", ("sentence",), ("negative", "positive"), _ACCURACY),
            _glue(
                "mrpc",
                "MRPC",
                _SENTENCES,
                ("not_equivalent", "equivalent"),
                _ACCURACY_F1,
                file_text=("#1 String", "#2 String"),
                file_label="Quality",
            ),
            _glue("stsb", "STS-B", _SENTENCES, (), ("pearson", "spearman"), file_label="score"),
            _glue(
                "qqp",
                "QQP",
                ("question1", "question2"),
                ("not_duplicate", "duplicate"),
                _ACCURACY_F1,
                file_label="is_duplicate",
                skips_damaged_rows=True,
            ),
            _glue(
                "mnli",
                "MNLI",
                ("premise", "hypothesis"),
                _NLI,
                _ACCURACY,
                file_text=_SENTENCES,
                file_label="gold_label",
                validation={"validation_matched": "dev_matched", "validation_mismatched": "dev_mismatched"},
                test={"test_matched": "test_matched", "test_mismatched": "test_mismatched"},
            ),
            _glue("qnli", "QNLI", ("question", "sentence"), _ENTAILMENT, _ACCURACY),
            _glue("rte", "RTE", _SENTENCES, _ENTAILMENT, _ACCURACY),
            _glue("wnli", "WNLI", _SENTENCES, _ENTAILMENT[::-1], _ACCURACY),
            _glue(
                "ax",
                "diagnostic",
                ("premise", "hypothesis"),
                _NLI,
                ("matthews",),
                file_text=_SENTENCES,
                validation={},
                test={"test": "diagnostic"},
                trains=False,
            ),
        )
    }
)


def described_task(description: Mapping[str, Any]) -> Task:
    """Return the task of a record or a delta: one of GLUE by its name, else one made of its entries."""
    name = description["task"]
    if name in TASKS:
        return TASKS[name]
    text, labels, metrics, score_of = (tuple(description[part]) for part in ("text", "labels", "metrics", "score_of"))
    return Task(name, text, labels, metrics, score_of, label=description["label"])


def get_task(name: str) -> Task:
    """Return the task called ``name``.

    Raises
    ------
    ConfigError
        If there is no such task; the message names the nearest one.
    """
    if name not in TASKS:
        raise ConfigError(f"There is no task '{name}'.{nearest(name, TASKS)} Tasks: {', '.join(TASKS)}, {CUSTOM}.")
    return TASKS[name]
