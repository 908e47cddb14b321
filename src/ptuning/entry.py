"""The way in from a command line: mistakes become one sentence with the mend, and exit codes mean something.

0 done, 1 a failure inside (with a traceback), 2 something to mend in what was typed or around it, 130 stopped.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import ptuning.config
from ptuning.errors import UserError, nearest

_FULL = "HYDRA_FULL_ERROR"


@contextmanager
def explain_errors() -> Iterator[None]:
    """Print a reader's mistake as one sentence and exit with 2; with ``HYDRA_FULL_ERROR=1`` show the traceback."""
    wants_traceback = os.environ.get(_FULL, "0") == "1"
    os.environ[_FULL] = "1"  # lets Hydra's own exceptions through to here instead of printing them its way
    try:
        yield
    except KeyboardInterrupt:
        _leave("Stopped.", 130)
    except Exception as error:
        sentence = explain(error)
        if wants_traceback or sentence is None:
            raise
        _leave(sentence, 130 if type(error).__name__ == "Interrupted" else 2)
    finally:
        os.environ[_FULL] = "1" if wants_traceback else "0"


def explain(error: BaseException) -> str | None:
    """Return the sentence for an error that the reader can mend, or ``None`` for one of ours."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"The disk is full ({link.filename or 'while writing the run folder'}). Make room, or put runs "
                "elsewhere (runs_dir=FOLDER), and type the same command again: it goes on from the last checkpoint."
            )
        if isinstance(link, PermissionError):
            return f"{link.filename} may not be written. Put runs elsewhere: runs_dir=FOLDER."
    if type(error).__name__ == "Interrupted":
        return str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, given = (error.missing_cfg_file or "").rpartition("/")
        choices = [option for option in error.options if option != "schema"]
        return f"There is no {group} '{given}'.{nearest(given, choices)} Choices: {', '.join(choices)}."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_override(error)
    return None


def _explain_override(error: BaseException) -> str:
    text = str(error)
    detail = str(error.__cause__).splitlines()[0] if error.__cause__ else ""
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].split("@")[0]
        return f"There is no key '{key}'.{ptuning.config.suggest_key(key)}"
    if match := re.search(r"Error merging override (\S+)", text):
        return f"{match[1]} does not fit: {detail or text.splitlines()[0]}. `python train.py --help` says what fits."
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]} names several values: add -m to sweep over them, or put a list in brackets."
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"'{match[1]}' exists already: type it without the +."
    first = text.splitlines()[0]
    return f"{first}{f' ({detail})' if detail and detail not in first else ''}"


def _leave(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"{sentence}\n")
    sys.exit(code)
