"""Texts of strangers (names of files, labels, messages), made fit for a terminal and a page."""

import html
import re

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for line break and tab, marks that turn the direction of writing, halves of characters."""

_MARKUP = re.compile(r"[\\`*|]")
_HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])")
"""What begins a tag or a character's name; the sign of ``p <0.001`` does not."""


def printable(text: str) -> str:
    r"""Return a text with its control characters written as their codes; line breaks and tabs stay.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    return text if text.isprintable() else _UNPRINTABLE.sub(_code, text)


def escape_markdown(text: str) -> str:
    """Return a text as Markdown that shows it: no markup, no HTML, no link; a line break is one."""
    text = _MARKUP.sub(r"\\\g<0>", _HTML.sub(lambda begun: html.escape(begun[0]), printable(text)))
    return text.replace("](", r"]\(").replace("\n", "<br>")


def code_span(text: str) -> str:
    """Return a text in one line as Markdown's code, whatever backticks it holds."""
    line = " ".join(printable(text).split()).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a path that is no character
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
