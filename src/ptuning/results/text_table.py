"""Tables of ready texts in Markdown and in LaTeX."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MISSING, DAGGER, MARK = "–", "†", "‡"
"""No number; a number from synthetic data; a number with a note of its own: ``‡3``."""


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are ready to print.

    Attributes
    ----------
    slug
        Unique name for files and anchors.
    title, caption
        What it shows, and how to read it.
    head
        Names of the columns.
    align
        A letter per column, as LaTeX has it: ``l`` for texts, ``r`` for numbers.
    rows
        Texts, as many per row as there are columns; a text may have several lines.
    notes
        What the marks ‡1, ‡2 … in the rows say, in this order.
    """

    slug: str
    title: str
    caption: str
    head: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return to_markdown(self, "###")


def number_notes(notes: Iterable[str]) -> dict[str, str]:
    """Return note → mark (``‡1``), in order; the empty note has the empty mark."""
    found = dict.fromkeys(note for note in notes if note)
    return {"": "", **{note: f"{MARK}{number}" for number, note in enumerate(found, start=1)}}


def marked(notes: Iterable[str]) -> list[str]:
    """Return notes with their marks before them: ``‡1 …``."""
    return [f"{MARK}{number} {note}" for number, note in enumerate(notes, start=1)]


def to_markdown(table: TextTable, heading: str = "#") -> str:
    """Return the table as a Markdown page, or as a section of one."""
    parts = (f"{heading} {table.title}", markdown_rows(table), table.caption, *marked(table.notes))
    return "\n\n".join(parts) + "\n"


def markdown_rows(table: TextTable) -> str:
    """Return the bare table in Markdown."""
    marks = tuple(":--" if letter == "l" else "--:" for letter in table.align)
    lines = (table.head, marks, *table.rows)
    return "\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines)


def _markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", "<br>")


def to_latex(table: TextTable) -> str:
    """Return the table as a LaTeX ``table`` for the package ``booktabs``."""
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{table.align}}}",
            r"\toprule",
            _line(table.head),
            r"\midrule",
            *map(_line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_latex(f'{table.title}. {table.caption}')}}}",
            rf"\label{{tab:{table.slug}}}",
            *(rf"\par\raggedright\footnotesize {_latex(note)}" for note in marked(table.notes)),
            r"\end{table}",
            "",
        ]
    )


def _line(texts: tuple[str, ...]) -> str:
    # Braces, since a line that begins with a bracket would be read as an option of the one before.
    cells = (f"{{{text}}}" if text.startswith("[") else text for text in map(_latex, texts))
    return rf"{' & '.join(cells)} \\"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_&%#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "≤": r"$\leq$",
    DAGGER: r"$^\dagger$",
    MISSING: "--",
}


def _latex(text: str) -> str:
    """Escape a text for LaTeX, character by character."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(rf"{MARK}(\d*)", r"$^{\\ddagger \1}$", escaped)


def hide_folders(text: str) -> str:
    """Shorten absolute paths to their last part."""
    return re.sub(r"(?<![\w.:/@])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\":;,()]+)+[/\\]([^\s/\\'\":;,()]+)", r"…/\1", text)
