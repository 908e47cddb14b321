"""What GLUE's server takes: its eleven files as a table, and which run answers each. Knows no torch.

File names, header, labels and sizes are the benchmark's (https://gluebenchmark.com/faq and its sample submission).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptuning.errors import ConfigError, RunError, nearest
from ptuning.runs.limits import part_scored
from ptuning.runs.record import find_record


@dataclass(frozen=True)
class Rule:
    """One file of the archive.

    Attributes
    ----------
    file
        Its name.
    task, split
        Whose rows it answers.
    rows
        How many there are.
    sample
        What stands in every row where no run answers: the most frequent label of the training set, STS-B's mean.
    head
        The task whose runs answer it.
    names_labels
        Whether labels stand as words; else as class ids.
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


@dataclass(frozen=True)
class Entry:
    """A file of the archive and who answers it.

    Attributes
    ----------
    rule
        What the server wants.
    run
        Folder of the best run, or ``None`` for sample predictions.
    score
        The run's dev score, in [-1, 1].
    why
        Why there are sample predictions.
    """

    rule: Rule
    run: Path | None
    score: float = 0.0
    why: str = ""


def choose_entries(runs_dir: Path, sample: Sequence[str] = ()) -> tuple[Entry, ...]:
    """Return for each file the run with the best dev score, or sample predictions.

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
    best: dict[str, tuple[float, Path]] = {}
    passed_over: dict[str, list[str]] = {}
    for row in collect(runs_dir).runs.sort_values(["task", "folder"]).itertuples():
        folder = runs_dir / str(row.folder)
        if why := _unfit(str(row.status), str(row.source), folder):
            passed_over.setdefault(str(row.task), []).append(why)
        elif str(row.task) not in best or float(row.score) > best[str(row.task)][0]:
            best[str(row.task)] = (float(row.score), folder)
    if not {rule.head for rule in RULES} & set(best):
        reasons = sorted({why for found in passed_over.values() for why in found})
        said = f": {'; '.join(reasons)}" if reasons else ", only other tasks"
        raise RunError(
            f"No run in {runs_dir} can be sent to GLUE's server{said}. Train on GLUE's own data: data=hub, or "
            "data=local data.dir=FOLDER."
        )
    return tuple(_entry(rule, best, passed_over, rule.task in sample) for rule in RULES)


def _entry(rule: Rule, best: dict[str, tuple[float, Path]], passed_over: dict[str, list[str]], asked: bool) -> Entry:
    if asked:
        return Entry(rule, None, why="as asked for")
    if rule.head in best:
        score, folder = best[rule.head]
        return Entry(rule, folder, score)
    others = passed_over.get(rule.head, [])
    counted = [f"{others.count(why)} passed over, {why}" for why in sorted(set(others))]
    return Entry(rule, None, why=", ".join([f"no run of {rule.head}", *counted]))


def _unfit(status: str, source: str, folder: Path) -> str:
    """Return why a run cannot be sent, or nothing."""
    if source == "synthetic":
        return "trained on synthetic data, which has nothing to do with GLUE's test sets"
    if status != "finished":
        return "not finished"
    record = find_record(folder)
    if record is not None and part_scored(record):
        return "scored on a part of the dev set (trainer.limit_val_batches)"
    return ""
