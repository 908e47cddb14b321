"""What Lightning refuses, as one sentence of ours."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ptuning.config.schema import TrainerConfig
from ptuning.errors import ConfigError, RunError

_LIGHTNING = Path(lightning.__file__).parent
_KEYS = "|".join(field.name for field in fields(TrainerConfig))


@contextmanager
def explain_refusals() -> Iterator[None]:
    """Turn what Lightning refuses while a trainer is made or runs into a sentence with our keys.

    Raises
    ------
    ConfigError
        For a ``MisconfigurationException``; for a ``ValueError`` or ``TypeError`` that Lightning's own code raises, and
        a ``RuntimeError`` of its callbacks; for an operation that ``trainer.deterministic=true`` forbids. Errors that
        are raised elsewhere, in a callback of the reader's too, stay as they are.
    RunError
        Where ``torch.compile`` fails, at the first batch or its backward pass.
    KeyboardInterrupt
        Where Lightning has made an exit of it.
    """
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if "torch.use_deterministic_algorithms" in str(error):
            operation = str(error).split(" does not have")[0]
            raise ConfigError(
                f"trainer.deterministic=true: {operation} has no deterministic implementation here. "
                "Type trainer.deterministic=warn to take the other one."
            ) from error
        if any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RunError(f"torch.compile does not work here ({reason}). Leave it: trainer.compile=false.") from error
        if not _is_refusal(error):
            raise
        mend = " Type trainer.devices=1." if "CPUAccelerator" in str(error) else ""
        raise ConfigError(f"Lightning's Trainer refuses this: {_in_our_words(str(error))}{mend}") from error


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, MisconfigurationException):
        return True
    place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if not place.is_relative_to(_LIGHTNING):
        return False
    # A RuntimeError may as well come from an operation of PyTorch's that Lightning calls.
    return isinstance(error, ValueError | TypeError) or (type(error) is RuntimeError and "callback" in str(place))


def _in_our_words(text: str) -> str:
    """Return Lightning's text in one line, with ``trainer.`` before the keys that it names, as they are typed."""
    line = " ".join(text.split())
    line = re.sub(rf"`(?:Trainer\()?({_KEYS})(=[^`)]*)?\)?`", r"trainer.\1\2", line)
    line = re.sub(rf"\bTrainer\(({_KEYS})(=[^)]*)?\)", r"trainer.\1\2", line)
    return line.replace("=None", "=null").replace("=True", "=true").replace("=False", "=false")
