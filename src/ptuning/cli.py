"""The ``ptuning`` command: small questions that need no training. It has no logic of its own."""

import argparse
import sys
from collections.abc import Sequence

from ptuning.entry import explain_errors
from ptuning.hub import use_cache_if_unreachable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``ptuning COMMAND``."""
    parser = argparse.ArgumentParser(
        prog="ptuning", description="Which part of a pretrained transformer has to move?", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = commands.add_parser("modules", help="list the modules of a backbone, by layer, with their parameters")
    modules.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train.py: backbone=minilm, backbone.path=FOLDER",
    )
    modules.add_argument("--names", action="store_true", help="list every parameter's name instead")
    chosen = parser.parse_args(arguments)
    with explain_errors():
        _modules(chosen.overrides, chosen.names)


def _modules(overrides: Sequence[str], names: bool) -> None:
    from ptuning.config import compose

    backbone = compose(overrides).backbone
    use_cache_if_unreachable(backbone.path)

    from ptuning.console import console, quiet
    from ptuning.listing import modules_table
    from ptuning.model.backbone import find_backbone, load_skeleton

    quiet()
    model = load_skeleton(find_backbone(backbone.path, backbone.revision, backbone.config))
    if names:
        sys.stdout.write("".join(f"{name} {tuple(p.shape)}\n" for name, p in model.named_parameters()))
    else:
        console.print(modules_table(model))


if __name__ == "__main__":
    main()
