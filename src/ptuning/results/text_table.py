"""Tables of texts, written as Markdown and as LaTeX."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ptuning.display.printable import escape_markdown
from ptuning.runs.recipe import short_hash

MISSING, DAGGER, MARK = "–", "†", "‡"
"""No number; a number from synthetic data; a number with a note of its own: ``‡3``."""

_LONGEST = 150
"""Bytes of a file's name, before its ending."""


@dataclass(frozen=True)
class Cell:
    """One score of a table, ready to print; ``score`` is ``–`` if there was no run.

    ``mark`` (``‡1``) points to the table's note, if several recipes competed or a run saw a part of the data;
    ``is_best`` is true for the highest score of a column of several; ``half`` is half the width of its interval, which
    LaTeX shows in the place of deviation, interval and recovery. ``latex`` is what it shows in the place of all.
    """

    score: str = MISSING
    deviation: str = ""
    interval: str = ""
    recovery: str = ""
    synthetic: bool = False
    mark: str = ""
    is_best: bool = False
    half: str = ""
    latex: str = ""

    def __str__(self) -> str:
        """Return the cell as one text: ``87.1‡1 ± 0.4 [86.1, 88.1] (97 [91, 103])``."""
        deviation = f" ± {self.deviation}" if self.deviation else ""
        interval = f" {self.interval}" if self.interval else ""
        recovery = f" ({self.recovery})" if self.recovery else ""
        return f"{self.score}{DAGGER if self.synthetic else ''}{self.mark}{deviation}{interval}{recovery}"


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are ready to print.

    Attributes
    ----------
    slug
        Unique name for files and anchors.
    title, caption
        Its subject, and how to read it.
    head
        Names of the columns.
    align
        A letter per column, as LaTeX has it: ``l`` for texts, ``r`` for numbers.
    rows
        Texts and scores, as many per row as there are columns; a text may have several lines.
    notes
        The notes behind the marks ‡1, ‡2 … in the rows.
    backbone
        The backbone of all its rows, if it is one of scores.
    short
        The caption in LaTeX, if it is another; the whole one is then a comment there, as notes are.
    in_latex
        Numbers of the columns that LaTeX shows; all, if empty.
    """

    slug: str
    title: str
    caption: str
    head: tuple[str, ...]
    align: str
    rows: tuple[tuple[str | Cell, ...], ...]
    notes: tuple[str, ...] = ()
    backbone: str = ""
    short: str = ""
    in_latex: tuple[int, ...] = ()

    @property
    def shows_layers(self) -> bool:
        """True if rows name their layers."""
        return "layers" in self.head

    def _repr_markdown_(self) -> str:
        """Return the table as Markdown, for notebooks."""
        return to_markdown(self, "###")


def number_notes(notes: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return (note → its mark ``‡1``, the texts in the order of their marks, without folders).

    A note is ``CELL: WHAT IS SAID.`` (:mod:`ptuning.results.summary`). Cells of which the same is said share a mark,
    and its text names none of them. The empty note has the empty mark.
    """
    cells: dict[str, dict[str, str]] = {}
    for note in dict.fromkeys(filter(None, notes)):
        cells.setdefault(hide_folders(note.partition(": ")[2] or note), {})[note] = hide_folders(note)
    marks = {"": ""}
    for number, same in enumerate(cells.values(), start=1):
        marks |= dict.fromkeys(same, f"{MARK}{number}")
    shown = (
        f"{said[0].upper()}{said[1:]}" if len(set(same.values())) > 1 else next(iter(same.values()))
        for said, same in cells.items()
    )
    return marks, tuple(shown)


def slug(text: str) -> str:
    """Return a text as a file name: letters, digits, dots and hyphens, underscores for everything else.

    Of a long one the beginning is kept, and a hash of the whole.
    """
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in text)
    return name if len(name.encode()) <= _LONGEST else f"{name[: _LONGEST // 5]}-{short_hash(text)}"


def marked(notes: Iterable[str]) -> list[str]:
    """Return the notes, each with its mark in front: ``‡1 …``."""
    return [f"{MARK}{number} {note}" for number, note in enumerate(notes, start=1)]


def to_markdown(table: TextTable, heading: str = "#") -> str:
    """Return the table as a Markdown page, or as a section of one."""
    texts = map(escape_markdown, (table.caption, *marked(table.notes)))
    return "\n\n".join((f"{heading} {escape_markdown(table.title)}", markdown_rows(table), *texts)) + "\n"


def markdown_rows(table: TextTable) -> str:
    """Return the bare table in Markdown."""
    marks = tuple(":--" if letter == "l" else "--:" for letter in table.align)
    lines = (table.head, marks, *table.rows)
    return "\n".join(f"| {' | '.join(escape_markdown(str(text)) for text in line)} |" for line in lines)


def to_latex(table: TextTable) -> str:
    """Return the table as LaTeX, for the package ``booktabs``: one number ± half its interval a cell, best in bold.

    What a short caption leaves out, and the notes behind the marks, stand above it as comments.
    """
    columns = table.in_latex or tuple(range(len(table.head)))
    comments = (*([table.caption] if table.short else []), *marked(table.notes))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            *(f"% {' '.join(text.split())}" for text in comments),
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{''.join(table.align[column] for column in columns)}}}",
            r"\toprule",
            _line([table.head[column] for column in columns]),
            r"\midrule",
            *(_line([row[column] for column in columns]) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_latex(f'{table.title}. {table.short or table.caption}')}}}",
            rf"\label{{tab:{table.slug}}}",
            r"\end{table}",
            "",
        ]
    )


def _line(texts: Sequence[str | Cell]) -> str:
    # Braces, since a line that begins with a bracket would be read as an option of the one before.
    cells = (_latex_cell(text) if isinstance(text, Cell) else _latex(text) for text in texts)
    return rf"{' & '.join(f'{{{text}}}' if text.startswith('[') else text for text in cells)} \\"


def _latex_cell(cell: Cell) -> str:
    r"""Return ``\textbf{87.1} $\pm$ 0.4``."""
    if cell.latex:
        return _latex(cell.latex)
    score = _latex(cell.score)
    half = rf" $\pm$ {cell.half}" if cell.half else ""
    return (rf"\textbf{{{score}}}" if cell.is_best else score) + _latex(f"{DAGGER * cell.synthetic}{cell.mark}") + half


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_&%#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "≤": r"$\leq$",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    DAGGER: r"$^\dagger$",
    MISSING: "--",
}


def _latex(text: str) -> str:
    """Return a text escaped for LaTeX, character by character."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(rf"{MARK}(\d*)", r"$^{\\ddagger \1}$", escaped)


def hide_folders(text: str) -> str:
    """Return a text with absolute paths shortened to their last part."""
    return re.sub(r"(?<![\w.:/@])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\":;,()]+)+[/\\]([^\s/\\'\":;,()]+)", r"…/\1", text)
