"""Sentences for errors: those of Hydra and OmegaConf, ptuning's own, and what the file system refuses."""

import re
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from ptuning.config.schema import Config
from ptuning.errors import Interrupted, UserError, first_line, nearest
from ptuning.system.os_errors import explain_os_error

_EXTRAS = {"hydra/launcher/submitit_slurm": "slurm", "hydra/launcher/submitit_local": "slurm"}
"""Configurations that come with optional packages, and the extra of ptuning that brings them."""


def explain(error: BaseException) -> str | None:
    """Return the sentence for an error that the reader can mend, or ``None`` for a fault of ptuning's own."""
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
            f"'{error.override}' cannot be read as KEY=VALUE: {first_line(error)}. "
            f"Quotes may be missing: '{key}=\"{value}\"'"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_override(error)
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra's, for task=null
        return "A group takes the name of one of its choices, not null or a number: module=layernorm, logger=none."
    return None


def _explain_override(error: BaseException) -> str:
    text = str(error)
    detail = first_line(error.__cause__) if error.__cause__ else ""
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].split("@")[0]
        return f"There is no key '{key}'.{suggest_key(key)}"
    if match := re.search(r"Error merging override (\S+)", text):
        return f"{match[1]} does not fit: {detail or first_line(error)}. `python train.py --help` says what fits."
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]} names several values: add -m to sweep over them, or put a list in brackets."
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"'{match[1]}' exists already: type it without the +."
    if text.startswith("In 'wandb/"):
        return "conf/wandb holds sweeps for W&B's own agents: wandb sweep conf/wandb/modules.yaml"
    first = first_line(error)
    return f"{first}{f' ({detail})' if detail and detail not in first else ''}"


def suggest_key(key: str) -> str:
    """Return a sentence naming the keys at the place of a misspelt ``key``, the nearest first."""
    node: Any = Config
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        if not is_dataclass(node):
            node = (get_args(node) or (None,))[-1]  # inside a dict, whose names are the reader's own
            continue
        types = {f.name: f.type for f in fields(node)}
        if parent not in types:
            return suggest_key(".".join(parents[:depth])) if parent != "hydra" else ""
        node = types[parent]
    if not is_dataclass(node):
        return ""
    names = [f.name for f in fields(node)]
    prefix = "".join(f"{parent}." for parent in parents)
    if last in names:
        return ""
    return f"{nearest(last, names)} There is: {', '.join(prefix + name for name in names)}."
