"""``ptuning export``: a run as a folder for others."""

import argparse
import sys
from pathlib import Path

from ptuning.cli.arguments import path
from ptuning.cli.commands.loading import add_run_arguments, load_quietly

HELP = "write a run as a folder for others: a Hugging Face model, a PEFT adapter, or a delta"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_common_arguments(parser, "--to")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the folder to write")


def add_common_arguments(parser: argparse.ArgumentParser, form: str) -> None:
    """Declare what ``push`` takes too; ``form`` is the option that names what the run becomes."""
    add_run_arguments(parser)
    parser.add_argument(
        form,
        dest="kind",
        choices=("hf", "peft", "delta"),
        required=True,
        help="a whole model, a PEFT adapter, or a delta",
    )
    parser.add_argument("--base", metavar="HUB_ID", help="what others know the backbone by, if it was a folder here")
    parser.add_argument("--license", metavar="ID", help="e.g. apache-2.0; by default that of the backbone's card")


def run(chosen: argparse.Namespace) -> None:
    """Write the folder, and say what is in it."""
    loaded = load_quietly(chosen.run_name, chosen.backbone)

    from ptuning.deltas.export import export

    base = export(loaded, chosen.kind, chosen.out, None, chosen.base, chosen.license)
    sys.stdout.write(describe_folder(chosen.out))
    if not base.on_hub and chosen.kind != "hf":
        sys.stderr.write(
            f"The backbone {base.name} is not on the Hub under that name: others need its weights from you, or its "
            "Hub id from --base.\n"
        )


def describe_folder(folder: Path) -> str:
    """Return one line per file with its size, and the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = "".join(f"{path.stat().st_size:>14,}  {path.relative_to(folder)}\n" for path in files)
    return f"{sizes}{sum(path.stat().st_size for path in files):>14,}  bytes in {folder}\n"
