"""Training from the command line: ``python train.py`` in a clone, ``ptuning train`` without one."""

import re
import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from ptuning.cli.entry import explain_errors, run_job, show_manual
from ptuning.config.compose import config_folder


def train(words: Sequence[str]) -> None:
    """Compose and run what was typed behind the command's name, as Hydra reads it; exit with the command's code."""
    sys.argv[1:] = _overrides_first(words)
    with explain_errors("Stopped." if _is_dry(words) else "Stopped. The same command goes on where this one left off."):
        if not show_manual(words):
            _run()


def _is_dry(words: Sequence[str]) -> bool:
    """Return whether what was typed only looks: it begins nothing that the same command could go on with."""
    return any(re.fullmatch(r"\+{0,2}dry_run=(true|yes|y|on|1)", word, re.IGNORECASE) for word in words)


_VALUED = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c")
"""Hydra's options whose value is the next word; ``--info`` may have one."""


def _overrides_first(words: Sequence[str]) -> list[str]:
    """Return what was typed with Hydra's options last: its parser takes no overrides on both sides of an option."""
    overrides: list[str] = []
    options: list[str] = []
    for before, word in zip(("", *words), words, strict=False):
        is_value = before in _VALUED or (before in ("--info", "-i") and "=" not in word)
        (options if is_value or word.startswith("-") else overrides).append(word)
    return [*overrides, *options]


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def _run(cfg: DictConfig) -> float | None:
    """Run what Hydra composed; the score goes back to a sweeper that asks for it."""
    return run_job(cfg)
