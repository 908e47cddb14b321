"""``ptuning dashboard``: charts of a W&B project's runs as a saved view."""

import argparse
import os
import sys

from ptuning.cli.arguments import path
from ptuning.errors import nearest
from ptuning.tasks.glue import TASKS

HELP = "write charts of the runs as a W&B workspace: by module, by layer, against parameters, curves, cost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--project", default="ptuning", help="the W&B project (ptuning)")
    parser.add_argument("--entity", default="", help="whose it is: a user or a team (WANDB_ENTITY, or the key's owner)")
    parser.add_argument("--name", default="ptuning", help="what the view is called (ptuning)")
    parser.add_argument(
        "--tasks",
        default=",".join(TASKS),
        metavar="TASK[,TASK]",
        help="tasks that get a heat map over layers, custom ones too (GLUE's)",
    )
    parser.add_argument("--out", type=path, metavar="FILE", help="write what would be sent as JSON, and send nothing")


def run(chosen: argparse.Namespace) -> None:
    """Write or send the view."""
    from ptuning.tracking import workspace as dashboard

    tasks = [task.strip() for task in chosen.tasks.split(",") if task.strip()]
    for task in tasks:
        if task not in TASKS:
            sys.stderr.write(
                f"'{task}' is none of GLUE's tasks; its chart shows custom data of that name.{nearest(task, TASKS)}\n"
            )
    # Asking W&B whose project it is takes a network: a file says ENTITY instead.
    entity = chosen.entity or os.environ.get("WANDB_ENTITY") or ("ENTITY" if chosen.out else dashboard.own_entity())
    workspace = dashboard.make_workspace(entity, chosen.project, tasks, chosen.name)
    if chosen.out:
        dashboard.write(workspace, chosen.out)
        sys.stdout.write(f"{chosen.out}\n")
    else:
        sys.stdout.write(f"{dashboard.save(workspace)}\n")
