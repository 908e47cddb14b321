"""The entry from a command line: a mistake becomes one sentence with the mend, and an exit code.

0 done, 1 a failure inside (with a traceback), 2 something to mend in what was typed or around it, 130 stopped.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from omegaconf import DictConfig, OmegaConf

from ptuning.config.compose import config_folder
from ptuning.config.explain import explain
from ptuning.display.printable import printable
from ptuning.errors import ConfigError, Interrupted, SweepError
from ptuning.system.hub import use_cache_for_run
from ptuning.system.imports import large_imports
from ptuning.system.program import train_command
from ptuning.system.signals import sigterm_as_ctrl_c
from ptuning.system.streams import lost_output, renew_streams

_FULL, _SHOW = "HYDRA_FULL_ERROR", "PTUNING_FULL_ERROR"


@contextmanager
def explain_errors(stopped: str = "Stopped.") -> Iterator[None]:
    """Print a user's mistake as one sentence and exit with 2; with ``HYDRA_FULL_ERROR=1`` show the traceback.

    What is printed meanwhile may be lost (``| head``, a full disk): that stops nothing. ``stopped`` is the sentence for
    Ctrl-C and SIGTERM.
    """
    renew_streams()
    wants_traceback = os.environ.get(_FULL, "0") == "1"
    os.environ[_SHOW] = "1" if wants_traceback else "0"
    os.environ[_FULL] = "1"  # lets Hydra's own exceptions through to here instead of printing them its way
    try:
        with sigterm_as_ctrl_c():
            yield
        if (lost := lost_output()) and not isinstance(lost, BrokenPipeError):
            sys.stderr.write(
                f"Standard output could not be written ({lost.strerror}). The work is done all the same.\n"
            )
    except KeyboardInterrupt:
        _leave(stopped, 130)
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
    """Print the manual page and return true, if ``--help`` is among the arguments.

    Hydra prints the same page, after it has listed every choice of every group twice for it, which takes a second.
    """
    if not {"--help", "-h"} & set(arguments) or any(word.startswith("hydra/help=") for word in arguments):
        return False
    manual = OmegaConf.load(config_folder() / "hydra" / "help" / "manual.yaml")
    sys.stdout.write(f"{manual.template}\n".replace("python train.py", train_command()))
    return True


def run_job(cfg: DictConfig) -> float | None:
    """Run one job of ``train.py`` and return its score; ``None`` from a dry run.

    A user's mistake in a single run ends the process here, before Hydra adds a line of its own. In a multirun it is
    told at once and stays that job's failure.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    _refuse_unheeded(cfg)
    try:
        if cfg.dry_run:
            from ptuning.sweeps.grid_status import show_run

            show_run(cfg)
            return None
        use_cache_for_run(cast(Mapping[str, Any], cfg))
        with large_imports():
            from ptuning.training.run import run

        return run(cfg)
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get(_SHOW) == "1":
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN and not isinstance(error, Interrupted):
            sys.stderr.write(printable(f"{' '.join(HydraConfig.get().overrides.task)}: {sentence}\n"))
            raise
        _leave(sentence, _code(error))


def _refuse_unheeded(cfg: DictConfig) -> None:
    """End the process, and with it a sweep of Hydra's own launcher, at what would say nothing there."""
    from hydra.core.hydra_config import HydraConfig

    from ptuning.sweeps.refusals import refuse_unheeded

    try:
        refuse_unheeded(HydraConfig.get(), cfg, calls_jobs=True)
    except ConfigError as error:
        if os.environ.get(_SHOW) == "1":
            raise
        _leave(str(error), 2)


def _code(error: BaseException) -> int:
    return 130 if isinstance(error, Interrupted) else 2


def _leave(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"{printable(sentence)}\n")
    sys.exit(code)
