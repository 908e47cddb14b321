"""The name of a task's score for people: on axes and in captions."""

from collections.abc import Sequence

from ptuning.tasks.glue import TASKS

_TITLES = {"cola": "CoLA", "sst2": "SST-2", "stsb": "STS-B"}
"""Tasks whose title is not their name in capitals."""
_METRICS = {
    "accuracy": "accuracy",
    "accuracy_macro": "macro accuracy",
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "matthews": "Matthews correlation",
    "kappa": "Cohen's kappa",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
}
"""Metrics whose title is not their name."""


def task_title(task: str) -> str:
    """Return the title of a task: GLUE's own spelling, or the name of custom data.

    >>> task_title("stsb"), task_title("rte"), task_title("my_task")
    ('STS-B', 'RTE', 'my_task')
    """
    return _TITLES.get(task, task.upper()) if task in TASKS else task


def score_title(task: str, score_of: Sequence[str] = ()) -> str:
    """Return what a task's score × 100 is.

    Parameters
    ----------
    task
        Its name.
    score_of
        Names of the metrics whose mean the score is; those of a task of GLUE are known.

    >>> score_title("stsb")
    'STS-B: mean of Pearson and Spearman × 100'
    >>> score_title("mnli")
    'MNLI: accuracy × 100, mean of both dev sets'
    >>> score_title("my_task", ["f1_macro"]), score_title("my_task")
    ('my_task: macro F1 × 100', 'my_task: score × 100')
    """
    glue = TASKS.get(task)
    names = [_METRICS.get(name, name) for name in (glue.score_of if glue else score_of)]
    said = names[0] if len(names) == 1 else f"mean of {', '.join(names[:-1])} and {names[-1]}" if names else "score"
    several = ", mean of both dev sets" if glue and len(glue.validation) == 2 else ""
    return f"{task_title(task)}: {said} × 100{several}"
