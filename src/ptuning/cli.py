"""The ``ptuning`` command: small questions that need no training. It has no logic of its own."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    results = commands.add_parser("results", help="read every run's record into one table")
    results.add_argument("runs", type=Path, help="a folder of runs")
    results.add_argument("--out", type=Path, required=True, help="the table: FILE.csv or FILE.parquet")
    report = commands.add_parser("report", help="write tables and figures of the runs as one page")
    report.add_argument("runs", type=Path, help="a folder of runs")
    report.add_argument("--out", type=Path, default=Path("report"), help="the report's folder (report)")
    report.add_argument(
        "--margin",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="points of a score x 100 below full fine-tuning that still count as comparable (1)",
    )
    weights = commands.add_parser("weights", help="show the magnitudes of a pretrained backbone, by module and layer")
    weights.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: backbone=minilm")
    weights.add_argument("--csv", type=Path, metavar="FILE", help="write the table too")
    weights.add_argument("--figure", type=Path, metavar="FILE", help="draw the distributions: .png, .svg or .pdf")
    moved = commands.add_parser("moved", help="show what a finished run changed, by module and layer")
    moved.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    moved.add_argument("--csv", type=Path, metavar="FILE", help="write the table too")
    chosen = parser.parse_args(arguments)
    with explain_errors():
        if chosen.command == "modules":
            _modules(chosen.overrides, chosen.names)
        elif chosen.command == "results":
            _results(chosen.runs, chosen.out)
        elif chosen.command == "weights":
            from ptuning.weights.pretrained import show_weights

            show_weights(chosen.overrides, chosen.csv, chosen.figure)
        elif chosen.command == "moved":
            from ptuning.weights.moved import show_moves

            show_moves(chosen.run, chosen.csv)
        else:
            _report(chosen.runs, chosen.out, chosen.margin)


def _report(runs: Path, out: Path, margin: float) -> None:
    from ptuning.errors import UserError

    if not 0 < margin < 100:
        raise UserError(f"--margin {margin:g} is no margin: points of a score × 100, above 0 and below 100, e.g. 1.")
    from ptuning.model.reference import count_layernorms_of_one_block
    from ptuning.results import Count, write_report

    page = write_report(runs, out, margin=margin / 100, count=Count(*count_layernorms_of_one_block()))
    sys.stdout.write(f"{page}\n")


def _results(runs: Path, out: Path) -> None:
    from ptuning.results import collect, write_table

    collected = collect(runs)
    write_table(collected.runs, out)
    sys.stdout.write(f"{len(collected.runs):,} runs in {out}\n")
    for left_out in collected.left_out:
        sys.stderr.write(f"left out: {left_out.file}: {left_out.reason}\n")


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
