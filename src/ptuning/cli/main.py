"""The ``ptuning`` command: a table of commands. Each lies in its own file and has no logic of its own."""

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from ptuning.cli.entry import explain_errors
from ptuning.errors import UserError, nearest, shorten
from ptuning.system.streams import lost_output

PASSED_ON = ("demo", "train")
"""Commands whose words Hydra reads: ``run(words)``."""

COMMANDS = (
    *PASSED_ON,
    "modules",
    "weights",
    "yardsticks",
    "rank",
    "predict",
    "evaluate",
    "moved",
    "submit",
    "rerun",
    "export",
    "push",
    "results",
    "report",
    "dashboard",
)
"""Each is a file of ``ptuning.cli.commands`` with ``HELP``, ``add_arguments(parser)`` and ``run(chosen)``."""

PRINTED = ("modules", "weights", "rank", "predict", "evaluate", "moved")
"""Commands whose result is what they print."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``ptuning COMMAND``."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in PASSED_ON:
        import_module(f"ptuning.cli.commands.{words[0]}").run(words[1:])
        return
    with explain_errors():
        _run(words)


def _run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="ptuning", description="Which part of a pretrained transformer has to move?", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        command = import_module(f"ptuning.cli.commands.{name}")
        own = commands.add_parser(name, help=command.HELP, description=command.HELP, allow_abbrev=False)
        command.add_arguments(own)
        own.set_defaults(run=command.run)
    chosen, rest = parser.parse_known_args(arguments)
    # argparse gives up on KEY=VALUE words that follow an option; here they may stand anywhere.
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(chosen, "overrides")]
    if unknown:
        _refuse(unknown[0], commands.choices[chosen.command])
    if rest:
        chosen.overrides = [*chosen.overrides, *rest]
    chosen.run(chosen)
    if chosen.command in PRINTED and (lost := lost_output()) and not isinstance(lost, BrokenPipeError):
        raise UserError(f"Standard output could not be written: {lost.strerror}.")


def _refuse(word: str, command: argparse.ArgumentParser) -> NoReturn:
    """End with a command's usage and a sentence on a word that it does not know."""
    if word.startswith("-"):
        option = word.partition("=")[0]
        command.error(
            f"there is no option {option}.{nearest(option, re.findall(r'--[a-z-]+', command.format_usage()))}"
        )
    command.error(
        f"{shorten(word)!r} is one word too many: what an option takes stands behind it, as in the usage above."
    )


if __name__ == "__main__":
    main()
