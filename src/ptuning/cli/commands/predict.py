"""``ptuning predict``: labels and scores for new text."""

import argparse
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from io import BufferedReader
from pathlib import Path

from ptuning.cli.arguments import path
from ptuning.cli.commands.loading import add_batch_size, add_run_arguments, count, load_quietly
from ptuning.data.readers import open_file
from ptuning.data.rows import FORMATS
from ptuning.errors import ConfigError
from ptuning.inference.answers import layout_of

HELP = "answer new texts with a run: CSV, TSV, JSON, Parquet or plain lines in, JSON lines or CSV out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_run_arguments(parser)
    parser.add_argument("--input", default="-", metavar="FILE", help="the texts; - is standard input (-)")
    parser.add_argument("--format", choices=FORMATS, help="default: by the file's ending")
    parser.add_argument("--text", default="", metavar="A[,B]", help="names of the text columns, if not the task's")
    parser.add_argument("--output", type=path, metavar="FILE", help="answers.csv or .jsonl; - is standard output (-)")
    add_batch_size(parser)
    parser.add_argument(
        "--chunk", type=count("--chunk"), metavar="N", help="rows read at a time (1024; 1 at a terminal)"
    )


def run(chosen: argparse.Namespace) -> None:
    """Write one answer per row: JSON lines, or CSV into a file of that suffix."""
    chosen.output = None if chosen.output == Path("-") else chosen.output
    layout = layout_of(chosen.output)
    if chosen.output and chosen.input != "-" and _are_one(Path(chosen.input).expanduser(), chosen.output):
        raise ConfigError(f"--output {chosen.output} is the file of texts itself: name another file for the answers.")
    with _opened(chosen.input) as stream:
        loaded = load_quietly(chosen.run_name, chosen.backbone)

        from ptuning.deltas.predictor import Predictor
        from ptuning.inference.stream import predict_rows, read_asked

        name = "standard input" if chosen.input == "-" else chosen.input
        columns = [column.strip() for column in chosen.text.split(",") if column.strip()]
        rows = read_asked(stream, name, loaded.task, chosen.format, columns)
        predictor = Predictor(loaded, chosen.batch_size)
        answers = predict_rows(predictor, rows, chosen.chunk or (1 if stream.isatty() else 1024), layout)
        if sys.stderr.isatty() and (chosen.output or not sys.stdout.isatty()):
            answers = _counted(answers)
        with closing(answers):  # whatever happens, the bar is gone before a word on it
            if chosen.output:
                from ptuning.system.files import whole_file

                with whole_file(chosen.output) as file:
                    file.write(layout.header(loaded.task).encode())
                    for lines in answers:
                        file.write("".join(lines).encode())
            else:
                _print(answers)


def _are_one(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


@contextmanager
def _opened(name: str) -> Iterator[BufferedReader]:
    if name == "-":
        yield sys.stdin.buffer  # type: ignore[misc]  # a BufferedReader, which the stubs do not promise
        return
    with open_file(Path(name).expanduser()) as stream:
        yield stream


def _print(answers: Iterator[list[str]]) -> None:
    """Write to standard output, as UTF-8 whatever the terminal's, until its reader has had enough (``| head``)."""
    from ptuning.system.streams import lost_output

    for lines in answers:
        sys.stdout.buffer.write("".join(lines).encode())
        if lost_output():
            return


def _counted(answers: Iterator[list[str]]) -> Generator[list[str], None, None]:
    """Pass the answers on, and count them on the terminal that standard error is."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,} rows"), TimeElapsedColumn())
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        shown = bar.add_task("")
        for lines in answers:
            bar.advance(shown, len(lines))
            yield lines
