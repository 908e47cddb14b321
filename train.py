"""Train one module of a pretrained transformer on one task: ``python train.py module=layernorm task=rte``."""

import sys

try:
    from ptuning.cli.training import train
except ModuleNotFoundError as missing:
    if "." in (missing.name or "."):  # a part of what is installed: a fault, not another Python
        raise
    sys.stderr.write(
        f"This Python, {sys.executable}, has no package '{missing.name}': in the project's folder type "
        "`source .venv/bin/activate` first (`make demo` makes .venv).\n"
    )
    sys.exit(2)

if __name__ == "__main__":
    train(sys.argv[1:])
