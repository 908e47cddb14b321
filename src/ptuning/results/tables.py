"""Module tables: rows modules, columns tasks, as data, in Markdown and in LaTeX."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ptuning.numbers import format_percent
from ptuning.results.order import layers_key, module_key, subset_key, task_key

MISSING, DAGGER = "–", "†"


@dataclass(frozen=True)
class Cell:
    """One number of a table, ready to print; ``score`` is ``–`` where there was no run."""

    score: str = MISSING
    deviation: str = ""
    percent_of_full: str = ""
    synthetic: bool = False


@dataclass(frozen=True)
class Row:
    """One module in some of its layers."""

    module: str
    layers: str
    trainable_percent: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ModuleTable:
    """The scores of one backbone, a row per selection and a column per task and source.

    Attributes
    ----------
    backbone
        The backbone of all its rows.
    slug
        Unique name for files and anchors.
    title
        What it shows: ``minilm, all layers``.
    columns
        Names of the tasks, with the source where a task has several, with a dagger where the text is synthetic.
    rows
        In the canonical order of modules, then layers.
    caption
        How to read the numbers.
    shows_layers
        Whether rows name their layers.
    """

    backbone: str
    slug: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str
    shows_layers: bool


def module_tables(summary: pd.DataFrame) -> list[ModuleTable]:
    """Return two tables per backbone: all layers, and chosen layers or weights; without those that are empty.

    In the second, modules that moved in part in all layers have their row for all weights too, to compare with.
    """
    tables = []
    for number, (backbone, part) in enumerate(summary.groupby("backbone", sort=True), start=1):
        slug = f"{number}-{''.join(c if c.isalnum() or c in '-.' else '_' for c in backbone)}"
        whole = (part["layers"] == "all") & (part["subset"] == "all")
        if whole.any():
            tables.append(_table(part[whole], f"{slug}-modules", "all layers"))
        if not whole.all():
            subsets = set(part[(part["layers"] == "all") & (part["subset"] != "all")]["module"])
            some = part[~whole | part["module"].isin(subsets)]  # a subset's row stands below that of all weights
            title = "chosen layers" if (some["subset"] == "all").all() else "chosen layers or weights"
            tables.append(_table(some, f"{slug}-layers", title, shows_layers=True))
    return tables


def column_names(part: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return (task, source) → what to call it, in order: ``rte``, ``rte (hub)`` if there are two, ``rte †``."""
    pairs = sorted(
        {(row.task, row.source) for row in part[["task", "source"]].itertuples(index=False)},
        key=lambda pair: (task_key(pair[0]), pair[1] == "synthetic", pair[1]),
    )
    names = {}
    for task, source in pairs:
        real = [other for name, other in pairs if name == task and other != "synthetic"]
        named = f"{task} ({source})" if len(real) > 1 and source != "synthetic" else task
        names[task, source] = f"{named} {DAGGER}" if source == "synthetic" else named
    return names


def to_markdown(table: ModuleTable) -> str:
    """Return the table as a Markdown page."""
    head = ["module", *(["layers"] if table.shows_layers else []), "trainable %", *table.columns]
    marks = [":--"] * (2 if table.shows_layers else 1) + ["--:"] * (1 + len(table.columns))
    lines = [head, marks, *(_texts(row, table, _markdown_cell) for row in table.rows)]
    body = "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)
    return f"# {table.title}\n\n{body}\n\n{table.caption}\n"


def to_latex(table: ModuleTable) -> str:
    """Return the table as a LaTeX ``table`` for the package ``booktabs``."""
    head = ["module", *(["layers"] if table.shows_layers else []), "trainable %", *table.columns]
    columns = "l" * (2 if table.shows_layers else 1) + "r" * (1 + len(table.columns))
    rows = [" & ".join(_latex(text) for text in _texts(row, table, _markdown_cell)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(_latex(text) for text in head) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_latex(f'{table.title}. {table.caption}')}}}",
            rf"\label{{tab:{table.slug}}}",
            r"\end{table}",
            "",
        ]
    )


def _table(part: pd.DataFrame, slug: str, title: str, shows_layers: bool = False) -> ModuleTable:
    columns, backbone = column_names(part), str(part["backbone"].iloc[0])
    rows = []
    groups = part.groupby(["module", "layers", "subset"], sort=False)
    for module, layers, subset in sorted(groups.groups, key=_row_key):
        group = groups.get_group((module, layers, subset))
        cells = {(row["task"], row["source"]): _cell(row) for row in group.to_dict("records")}
        rows.append(
            Row(
                module,
                layers if subset == "all" else f"{layers}, {subset}",
                format_percent(group["trainable_percent"].mean()),
                tuple(cells.get(column, Cell()) for column in columns),
            )
        )
    title = f"{backbone}, {title}"
    return ModuleTable(backbone, slug, title, tuple(columns.values()), tuple(rows), _caption(part), shows_layers)


def _row_key(row: tuple[str, str, str]) -> Any:
    module, layers, subset = row
    return module_key(module), layers_key(layers), subset_key(subset)


def _cell(row: Mapping[str, Any]) -> Cell:
    mean, std, percent = row["mean"], row["std"], row["percent_of_full"]
    return Cell(
        f"{100 * mean:.1f}",
        "" if math.isnan(std) else f"{100 * std:.1f}",
        "" if math.isnan(percent) else f"{percent:.1f}",
        row["source"] == "synthetic",
    )


def _caption(part: pd.DataFrame) -> str:
    least, most = int(part["seeds"].min()), int(part["seeds"].max())
    if most == 1:
        seeds = "Scores x 100 of one seed each"
    else:
        count = f"{most}" if least == most else f"{least} to {most}"
        seeds = f"Scores x 100, mean ± standard deviation over {count} seeds"
        seeds += "; no ± where there is one" if least == 1 else ""
    percent = ""
    if part["percent_of_full"].notna().any():
        percent = "; in brackets, percent of full fine-tuning on the same data"
    missing = f". {MISSING}: no finished run."
    synthetic = f" {DAGGER}: synthetic data, no measure of a task." if (part["source"] == "synthetic").any() else ""
    return f"{seeds}{percent}{missing}{synthetic}".replace(" x ", " × ")


def _texts(row: Row, table: ModuleTable, show: Callable[[Cell], str]) -> list[str]:
    layers = [row.layers] if table.shows_layers else []
    return [row.module, *layers, row.trainable_percent, *map(show, row.cells)]


def _markdown_cell(cell: Cell) -> str:
    deviation = f" ± {cell.deviation}" if cell.deviation else ""
    percent = f" ({cell.percent_of_full})" if cell.percent_of_full else ""
    return f"{cell.score}{DAGGER if cell.synthetic else ''}{deviation}{percent}"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_&%#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    DAGGER: r"$^\dagger$",
    MISSING: "--",
}


def _latex(text: str) -> str:
    """Escape a text for LaTeX, character by character."""
    return "".join(_LATEX.get(character, character) for character in text)
