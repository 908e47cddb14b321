"""``ptuning modules``: what a backbone consists of."""

import argparse
import sys
from pathlib import Path

HELP = "list the modules of a backbone, by layer, with their parameters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train.py: backbone=minilm, backbone.path=FOLDER",
    )
    parser.add_argument("--names", action="store_true", help="list every parameter's name instead")


def run(chosen: argparse.Namespace) -> None:
    """Print the table, or the names."""
    from ptuning.config.compose import compose
    from ptuning.system.hub import use_cache_if_unreachable

    backbone = compose(chosen.overrides).backbone
    use_cache_if_unreachable(backbone.path)

    from ptuning.backbones.load import load_model, load_skeleton
    from ptuning.backbones.source import find_backbone
    from ptuning.display.console import console, quiet
    from ptuning.display.modules_table import modules_table
    from ptuning.tasks.glue import get_task

    quiet()
    source = find_backbone(backbone.path, backbone.revision, backbone.config)
    # A folder is loaded, so that its weights are known to be there; from the Hub nothing but the configuration comes.
    folder = source.location and Path(source.location).is_dir()
    model = load_model(source, get_task("rte"), seed=0) if folder else load_skeleton(source)
    if chosen.names:
        sys.stdout.write("".join(f"{name} {tuple(p.shape)}\n" for name, p in model.named_parameters()))
    else:
        console.print(modules_table(model))
