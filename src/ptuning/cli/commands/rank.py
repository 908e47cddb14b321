"""``ptuning rank``: which module will win, before training."""

import argparse
import sys
from dataclasses import asdict

from ptuning.cli.arguments import path
from ptuning.cli.commands.loading import add_training_overrides

HELP = "rank a backbone's modules on a task before training, by gradients behind a fitted head"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_training_overrides(parser)
    parser.add_argument(
        "--examples", type=int, default=256, metavar="N", help="training examples that gradients are taken on (256)"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds averaged over, from seed= on (3)")
    parser.add_argument("--layers", choices=("all", "each"), default="all", help="modules in all layers, or in each")
    parser.add_argument("--out", type=path, metavar="FILE", help="write the table too: .csv or .json")


def run(chosen: argparse.Namespace) -> None:
    """Rank, or find the ranking, and print it."""
    from ptuning.config.compose import compose
    from ptuning.errors import UserError
    from ptuning.system.files import check_place
    from ptuning.system.hub import use_cache_for_run
    from ptuning.system.imports import large_imports

    for name in ("examples", "seeds"):
        if getattr(chosen, name) < 1:
            raise UserError(f"--{name} {getattr(chosen, name)} is none: a whole number from 1 on.")
    if chosen.out:
        check_place(chosen.out, "table", (".csv", ".json"))
    # Which module would train is what is asked: one that was typed says nothing.
    config = compose([*(word for word in chosen.overrides if not word.startswith("module=")), "module=frozen"])
    if config.layers != "all" or config.subset != "all":
        raise UserError(
            "layers= and subset= say nothing here: modules are ranked whole, or with --layers each by layer."
        )
    use_cache_for_run(asdict(config))

    with large_imports():
        from ptuning.display.console import console, quiet
        from ptuning.display.format import format_path
        from ptuning.results.rankings import ranking_rows, ranking_table
        from ptuning.results.terminal import print_tables
        from ptuning.training.rank import rank_modules

    quiet()
    found = rank_modules(config, chosen.examples, chosen.seeds)
    each = chosen.layers == "each"
    if each and all(row.layers == "all" for row in found.ranking.rows):
        raise UserError("All layers of this backbone share one block's weights, so none is ranked alone: --layers all.")
    print_tables(console, [ranking_table(found.ranking, each)])
    sys.stdout.write(f"{format_path(found.path)}{'  (found; force=true ranks again)' if found.earlier else ''}\n")
    if chosen.out:
        from ptuning.results.summary import write_table
        from ptuning.system.files import write_json

        rows = ranking_rows(found.ranking, each)
        if chosen.out.suffix == ".csv":
            write_table(rows, chosen.out)
        else:
            write_json(chosen.out, rows.to_dict("records"))
        sys.stdout.write(f"{chosen.out}\n")
