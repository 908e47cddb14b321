"""Train one module of a pretrained encoder on one task: ``python train.py module=layernorm task=rte``."""

import sys

import hydra
from omegaconf import DictConfig

from ptuning.cli.entry import explain_errors, run_job, show_manual


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run what Hydra composed; the score goes back to a sweeper that asks for it."""
    return run_job(cfg)


if __name__ == "__main__":
    with explain_errors("Stopped. The same command goes on where this one left off."):
        if not show_manual(sys.argv[1:]):
            main()
