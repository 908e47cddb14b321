"""The command line: ``python train.py`` and ``ptuning COMMAND``."""
