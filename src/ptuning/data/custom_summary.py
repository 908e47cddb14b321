"""A summary of custom data before training: labels, score and warnings."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ptuning.data.labels import NO_LABEL
from ptuning.data.table import Table
from ptuning.tasks.glue import Task
from ptuning.tasks.metrics import METRICS

IMBALANCED = 4
"""Imbalance from which on accuracy is a poor score."""


def describe_data(
    task: Task, counts: Mapping[str, int], train: Table, validation: Table, held_out: str
) -> dict[str, str]:
    """Return the summary of custom data by heading.

    Parameters
    ----------
    task
        The task of the data.
    counts
        Rows per label name, of classification.
    train, validation
        The rows that train, and those that score.
    held_out
        The origin of the dev rows, if they were held out.
    """
    facts = {
        "text": " + ".join(task.text),
        **({"dev": held_out} if held_out else {}),
        "labels": _describe_counts(counts, task) if counts else _describe_scores(train.labels or ()),
        "score": _describe_score(task),
    }
    of = f"{'held out ' if held_out else ''}of {validation.origin}"
    constant = describe_constant(task, validation.labels or (), of)
    if notes := [*([constant] if constant else []), *_notes(counts, train, validation)]:
        facts["note"] = "\n".join(notes)
    return facts


def imbalance(counts: Mapping[str, int]) -> float:
    """Return the rows of the most frequent label divided by those of the rarest."""
    return max(counts.values()) / min(counts.values())


def _describe_counts(counts: Mapping[str, int], task: Task) -> str:
    rows = sum(counts.values())
    if len(task.labels) > 10:
        least, most = (choose(counts, key=lambda name: counts[name]) for choose in (min, max))
        return (
            f"classification, {len(task.labels)} labels, from '{least}' with {counts[least]:,} rows to '{most}' "
            f"with {counts[most]:,}"
        )
    shares = {name: (counts.get(name, 0), 100 * counts.get(name, 0) / rows) for name in task.labels}
    # No-break spaces: lines are broken between labels.
    each = [f"{name}: {count:,} ({percent:.0f} %)".replace(" ", "\u00a0") for name, (count, percent) in shares.items()]
    return f"classification, {', '.join(each)}"


def _describe_scores(scores: Sequence[float]) -> str:
    return f"regression: scores from {min(scores):g} to {max(scores):g}, mean {sum(scores) / len(scores):.3g}"


def _describe_score(task: Task) -> str:
    names = [f"{name} of '{task.labels[1]}'" if METRICS[name].two_classes else name for name in task.score_of]
    return names[0] if len(names) == 1 else f"mean of {' and '.join(names)}"


def describe_constant(task: Task, labels: Sequence[float], of: str) -> str:
    """Return a warning if all labels of a dev set are equal, with the metrics undefined then; else an empty string.

    Parameters
    ----------
    task
        The task.
    labels
        Class ids or scores.
    of
        The owner of the labels: ``"of dev.csv"``.
    """
    if len(set(labels)) != 1:
        return ""
    name = f"score {of} is {labels[0]:g}" if task.is_regression else f"label {of} is '{task.labels[int(labels[0])]}'"
    silent = [metric for metric in task.metrics if "labels" in METRICS[metric].needs_variety]
    if not silent:
        return f"every {name}: a score of it only says how often that is the answer"
    several = f"{', '.join(silent[:-1])} and {silent[-1]} say" if len(silent) > 1 else f"{silent[0]} says"
    return f"every {name}, so {several} nothing (taken as 0)"


def _notes(counts: Mapping[str, int], train: Table, validation: Table) -> list[str]:
    """Return warnings to read before the training."""
    notes = []
    if counts and (times := imbalance(counts)) >= IMBALANCED:
        notes.append(
            f"imbalanced: the most frequent label has {times:.0f} times the rows of the rarest; accuracy alone flatters"
        )
    alike = Counter(name.casefold() for name in counts)
    if twins := [name for name in counts if alike[name.casefold()] > 1]:
        notes.append(f"labels that differ in case alone are labels of their own: {', '.join(sorted(twins))}")
    for name in (name for name in counts if name.lower() in NO_LABEL):
        notes.append(f"'{name}' is a label here, of {counts[name]:,} rows: if it means that there is none, drop them")
    if not counts and max(map(abs, train.labels or ())) > 100:
        notes.append("scores far from 0 are reached slowly: divide them so that they lie within about 10")
    known = set(zip(*train.texts, strict=True))
    if seen := sum(row in known for row in zip(*validation.texts, strict=True)):
        notes.append(f"{seen:,} of {len(validation):,} dev rows have texts that are in train too")
    return notes
