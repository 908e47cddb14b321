"""Train one module of a pretrained encoder on one task: ``python train.py module=layernorm task=rte``."""

import sys

from ptuning.cli.training import train

if __name__ == "__main__":
    train(sys.argv[1:])
