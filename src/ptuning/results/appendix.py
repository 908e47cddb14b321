"""The appendix of a report: the hyperparameters behind every number that it shows."""

from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd

from ptuning.results.collect import SETTING
from ptuning.results.tables import column_names
from ptuning.results.text_table import MISSING, TextTable, slug
from ptuning.selection.names import module_key

_HEADINGS: Mapping[str, str] = {
    "max_epochs": "epochs",
    "batch_size": "batch",
    f"{SETTING}batch_tokens": "tokens per batch",
    f"{SETTING}optimisation.lr": "rate",
    f"{SETTING}optimisation.head_lr": "head's rate",
    f"{SETTING}optimisation.weight_decay": "weight decay",
    f"{SETTING}optimisation.warmup": "warmup",
    f"{SETTING}optimisation.schedule": "schedule",
    f"{SETTING}max_length": "max length",
    "precision": "precision",
    "part": "part of the data",
}
"""Column of the table of runs → its heading; those that are empty for all runs are left out."""

_CAPTION = (
    "The settings of the runs behind the scores. Modules trained alike on one task, with as many seeds, share "
    "one row; a range of seeds is over their layers and subsets. All that can change a result is in runs.csv, in the "
    "columns recipe/…"
)


def hyperparameter_tables(runs: pd.DataFrame) -> list[TextTable]:
    """Return a table per backbone: task, modules and seeds of the runs that are shown, and how they were trained.

    Parameters
    ----------
    runs
        ``mark_shown(collect(...).runs, summary)``.
    """
    tables = []
    shown = runs[runs["shown"]]
    for number, (backbone, part) in enumerate(shown.groupby("backbone", sort=True), start=1):
        texts = {name: [_text(value) for value in part[name]] for name in _HEADINGS if name in part}
        texts = {name: values for name, values in texts.items() if set(values) != {""}}
        settings = list(zip(*texts.values(), strict=True)) or [()] * len(part)
        rows = []
        for (task, source), name in column_names(part).items():
            trained: dict[tuple[str, tuple[str, ...]], Counter[tuple[str, str]]] = {}
            described = part[["task", "source", "module", "layers", "subset"]].itertuples(index=False, name=None)
            for (its_task, its_source, module, *chosen), how in zip(described, settings, strict=True):
                if (its_task, its_source) == (task, source):
                    trained.setdefault((module, how), Counter())[chosen[0], chosen[1]] += 1
            alike: dict[tuple[tuple[str, ...], str], list[str]] = {}
            for (module, how), seeds in trained.items():
                alike.setdefault((how, _from_to(seeds.values())), []).append(module)
            rows += [
                (name, ", ".join(sorted(modules, key=module_key)), seeds, *(text or MISSING for text in how))
                for (how, seeds), modules in alike.items()
            ]
        head = ("task", "modules", "seeds", *(_HEADINGS[name] for name in texts))
        title = f"{backbone}, hyperparameters"
        align = "llr" + "l" * len(texts)
        file_name = slug(f"{number}-{backbone}-hyperparameters")
        tables.append(TextTable(file_name, title, _CAPTION, head, align, tuple(rows)))
    return tables


def _from_to(counts: Iterable[int]) -> str:
    """Return ``3``, or ``1 to 3`` where they differ."""
    least, most = min(counts := list(counts)), max(counts)
    return f"{most}" if least == most else f"{least} to {most}"


def _text(value: object) -> str:
    if isinstance(value, str):
        return "" if value == "null" else value
    return "" if pd.isna(value) else f"{value:g}"
