"""``ptuning push``: a run on the Hugging Face Hub."""

import argparse
import sys
import tempfile
from pathlib import Path

from ptuning.cli.arguments import path
from ptuning.cli.commands.export import add_common_arguments, describe_folder
from ptuning.cli.commands.loading import load_quietly

HELP = "upload a run to the Hugging Face Hub, with a model card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_common_arguments(parser, "--as")
    parser.add_argument("repo_id", metavar="REPO_ID", help="where it goes on the Hub: OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is new")
    parser.add_argument(
        "--dry-run", action="store_true", help="write the folder, say what would go where, and send nothing"
    )
    parser.add_argument("--out", type=path, metavar="DIR", help="keep the folder here (with --dry-run: NAME)")


def run(chosen: argparse.Namespace) -> None:
    """Export into a folder and send it."""
    from ptuning.deltas.push import check_repo_id, push, ready_to_push

    check_repo_id(chosen.repo_id)
    if not chosen.dry_run:
        ready_to_push(chosen.repo_id)
    loaded = load_quietly(chosen.run_name, chosen.backbone)

    from ptuning.deltas.export import export

    with tempfile.TemporaryDirectory() as temporary:
        name = chosen.repo_id.rsplit("/", 1)[-1]
        out = chosen.out or (Path(name) if chosen.dry_run else Path(temporary) / name)
        export(loaded, chosen.kind, out, chosen.repo_id, chosen.base, chosen.license)
        if chosen.dry_run:
            visible = "private" if chosen.private else "public"
            sys.stdout.write(
                f"{describe_folder(out)}Nothing was sent. Without --dry-run these files go to {chosen.repo_id} "
                f"({visible}, if it is new).\n"
            )
        else:
            sys.stdout.write(f"{push(out, chosen.repo_id, chosen.private)}\n")
