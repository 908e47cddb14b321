"""The way in from a command line: mistakes become one sentence with the mend, and exit codes mean something.

0 done, 1 a failure inside (with a traceback), 2 something to mend in what was typed or around it, 130 stopped.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

import ptuning.config.rules
from ptuning.errors import Interrupted, SweepError, UserError, nearest
from ptuning.system.hub import use_cache_if_unreachable
from ptuning.system.imports import large_imports
from ptuning.system.os_errors import explain_os_error
from ptuning.system.streams import lost_output, renew_streams

_EXTRAS = {"hydra/launcher/submitit_slurm": "slurm", "hydra/launcher/submitit_local": "slurm"}
"""Configurations that come with optional packages, and the extra of ptuning that brings them."""

_FULL, _SHOW = "HYDRA_FULL_ERROR", "PTUNING_FULL_ERROR"


@contextmanager
def explain_errors() -> Iterator[None]:
    """Print a reader's mistake as one sentence and exit with 2; with ``HYDRA_FULL_ERROR=1`` show the traceback.

    What is printed meanwhile may be lost (``| head``, a full disk): that stops nothing.
    """
    renew_streams()
    wants_traceback = os.environ.get(_FULL, "0") == "1"
    os.environ[_SHOW] = "1" if wants_traceback else "0"
    os.environ[_FULL] = "1"  # lets Hydra's own exceptions through to here instead of printing them its way
    try:
        yield
        if (lost := lost_output()) and not isinstance(lost, BrokenPipeError):
            sys.stderr.write(
                f"Standard output could not be written ({lost.strerror}). The work is done all the same.\n"
            )
    except KeyboardInterrupt:
        _leave("Stopped.", 130)
    except SweepError as error:
        sys.exit(error.code)
    except Exception as error:
        sentence = explain(error)
        if wants_traceback or sentence is None:
            raise
        _leave(sentence, _code(error))
    finally:
        os.environ[_FULL] = "1" if wants_traceback else "0"


def show_manual(arguments: Sequence[str]) -> bool:
    """Print the manual page if ``--help`` is among the arguments, and say whether it was.

    Hydra prints the same page, after it has listed every choice of every group twice for it, which takes a second.
    """
    if not {"--help", "-h"} & set(arguments) or any(word.startswith("hydra/help=") for word in arguments):
        return False
    manual = OmegaConf.load(ptuning.config.rules.config_folder() / "hydra" / "help" / "manual.yaml")
    sys.stdout.write(f"{manual.template}\n")
    return True


def run_job(cfg: DictConfig) -> float | None:
    """Run one job of ``train.py`` and return its score; ``None`` from a dry run.

    A reader's mistake in a single run ends the process here, before Hydra adds a line of its own. In a multirun it is
    told at once and stays that job's failure.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        if cfg.dry_run:
            from ptuning.sweeps.grid_status import show_run

            show_run(cfg)
            return None
        use_cache_if_unreachable(str(cfg.backbone.path), str(cfg.data.source), cfg.data.path)
        with large_imports():
            from ptuning.training.run import run

        return run(cfg)
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get(_SHOW) == "1":
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN and not isinstance(error, Interrupted):
            sys.stderr.write(f"{' '.join(HydraConfig.get().overrides.task)}: {sentence}\n")
            raise
        _leave(sentence, _code(error))


def explain(error: BaseException) -> str | None:
    """Return the sentence for an error that the reader can mend, or ``None`` for one of ours."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, UserError | Interrupted):
            return str(link)
        if sentence := explain_os_error(link):
            return sentence
    if isinstance(error, MissingConfigException) and (extra := _EXTRAS.get(error.missing_cfg_file or "")):
        return f"That needs packages that are not installed: pip install 'ptuning[{extra}]'"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, given = (error.missing_cfg_file or "").rpartition("/")
        choices = [option for option in error.options if option != "schema"]
        other = ""
        if group == "backbone":
            other = " A folder or a Hub id does too, but no such folder is here, and the Hub has none or is silent."
        return f"There is no {group} '{given}'.{nearest(given, choices)} Choices: {', '.join(choices)}.{other}"
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        return (
            f"'{error.override}' cannot be read as KEY=VALUE: {str(error).splitlines()[0]}. "
            f"Quotes may be missing: '{key}=\"{value}\"'"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_override(error)
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra's, for task=null
        return "A group takes the name of one of its choices, not null or a number: module=layernorm, logger=none."
    return None


def _explain_override(error: BaseException) -> str:
    text = str(error)
    detail = str(error.__cause__).splitlines()[0] if error.__cause__ else ""
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].split("@")[0]
        return f"There is no key '{key}'.{ptuning.config.rules.suggest_key(key)}"
    if match := re.search(r"Error merging override (\S+)", text):
        return f"{match[1]} does not fit: {detail or text.splitlines()[0]}. `python train.py --help` says what fits."
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]} names several values: add -m to sweep over them, or put a list in brackets."
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"'{match[1]}' exists already: type it without the +."
    if text.startswith("In 'wandb/"):
        return "conf/wandb holds sweeps for W&B's own agents: wandb sweep conf/wandb/modules.yaml"
    first = text.splitlines()[0]
    return f"{first}{f' ({detail})' if detail and detail not in first else ''}"


def _code(error: BaseException) -> int:
    return 130 if isinstance(error, Interrupted) else 2


def _leave(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"{sentence}\n")
    sys.exit(code)
