"""Sentences for errors: those of Hydra and OmegaConf, ptuning's own, and what the file system refuses."""

import codecs
import re
import traceback
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml

from ptuning.config.schema import Config
from ptuning.errors import Interrupted, UserError, first_line, nearest, shorten
from ptuning.system.os_errors import explain_os_error
from ptuning.system.program import train_command

_EXTRAS = {"hydra/launcher/ptuning_slurm": "slurm", "hydra/launcher/submitit_local": "slurm"}
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
        if sentence := explain_os_error(link) or _explain_giant(link) or _explain_yaml(link):
            return sentence
    if isinstance(error, MissingConfigException) and (extra := _EXTRAS.get(error.missing_cfg_file or "")):
        return f"That needs packages that are not installed: pip install 'ptuning[{extra}]'"
    group, _, given = str(getattr(error, "missing_cfg_file", None) or "").rpartition("/")
    if isinstance(error, MissingConfigException) and (error.options or group in _GROUPS):
        # Of a choice inside of a list, module=[qury,key], Hydra does not say what else there is.
        choices = [option for option in error.options or _choices(group) if option != "schema"]
        other = ""
        if group == "backbone":
            other = " A folder or a Hub id does too, but no such folder is here, and the Hub has none or is silent. "
            other += "backbone=minilm needs no Hub."
        return f"There is no {group} '{given}'.{nearest(given, choices)} Choices: {', '.join(choices)}.{other}"
    if isinstance(error, OverrideParseException):
        key, _, value = shorten(error.override).partition("=")
        return (
            f"'{shorten(error.override)}' cannot be read as KEY=VALUE: {shorten(first_line(error), _MOST)}. "
            f"Quotes may be missing: '{key}=\"{value}\"'"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_override(error)
    if isinstance(error, ValueError) and "Config group override" in str(error):  # Hydra's, for task=null
        return "A group takes the name of one of its choices, not null or a number: module=layernorm, logger=none."
    if isinstance(error, AssertionError) and "Unexpected type for root" in str(error):  # OmegaConf's
        return "A key inside of ${…} cannot be set: type the values themselves."
    return None


_GROUPS = ("module", "logger")
"""Groups of which several choices can be taken at once."""


def _choices(group: str) -> list[str]:
    from ptuning.config.compose import config_folder  # which imports this file

    return sorted(file.stem for file in (config_folder() / group).glob("*.yaml"))


def _explain_giant(error: BaseException) -> str | None:
    """Return the sentence for what is too long or nested too deep for Python to read, or ``None``."""
    if isinstance(error, ValueError | OverflowError) and re.search("4300 digits|int too large to convert", str(error)):
        return "A number has too many digits to be read: no value takes more than 19."
    if isinstance(error, RecursionError):
        readers = ("antlr4", "omegaconf", "hydra", "yaml")
        files = [Path(frame.f_code.co_filename).parts for frame, _ in traceback.walk_tb(error.__traceback__)][-20:]
        if any(reader in parts for parts in files for reader in readers):
            return TOO_DEEP
    return None


_MOST = 300
"""Characters that a sentence repeats of what was typed or of a library's words."""
TOO_DEEP = "A value is nested too deep to be read: lists and objects inside one another, or ${…} that leads to itself."


_FILES = ("data.train", "data.dev", "data.test")
_ONE_FILE = " Of several files: join them into one, or name a folder with them, data.path=FOLDER."


def _explain_override(error: BaseException) -> str:
    text = str(error)
    detail = shorten(first_line(error.__cause__), _MOST) if error.__cause__ else ""
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].split("@")[0]
        return f"There is no key '{key}'.{suggest_key(key)}"
    if match := re.search(r"Error merging override (\S+)", text):
        why = detail or shorten(first_line(error), _MOST)
        key, _, value = match[1].partition("=")
        if "does not support deletion" in why:
            return f"{shorten(match[1])} does not fit: only names of a group can be taken away. Type {key[1:]}=null."
        if "is not a ListConfig" in why:
            return f"{shorten(match[1])} does not fit: {key} takes a list, {key}=[{shorten(value)}]."
        if "'list' to string" in why:
            mend = _ONE_FILE if key.lstrip("+") in _FILES else ""
            return f"{shorten(match[1])} does not fit: {key.lstrip('+')} takes one value, no list.{mend}"
        return f"{match[1]} does not fit: {why}. `{train_command()} --help` says what fits."
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        list_too = f".{_ONE_FILE}" if match[1].split("=")[0] in _FILES else ", or put a list in brackets."
        return f"{match[1]} names several values: add -m to sweep over them{list_too}"
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"'{match[1]}' exists already: type it without the +."
    if "HydraConfig was not set" in text:
        return (
            "${hydra:…} has a value in a single run alone, and none in a sweep: say it by the configuration's own "
            "keys, ${task.name} or ${seed}."
        )
    if text.startswith("In 'wandb/"):
        return "conf/wandb holds sweeps for W&B's own agents: wandb sweep conf/wandb/modules.yaml"
    first = shorten(first_line(error), _MOST)
    if match := re.match("In '([^']+)': .* raised while composing", text):
        return _explain_file(error, match[1], text)
    return f"{first}{f' ({detail})' if detail and detail not in first else ''}"


def _explain_file(error: BaseException, name: str, text: str) -> str:
    """Return the sentence for a file of the reader's own that was read and does not fit into the configuration."""
    lines = text.splitlines()[1:] or [""]
    why, key, file = shorten(lines[0], _MOST), _key_in(text), _file_of(error)
    if file is not None and file.read_bytes().startswith(codecs.BOM_UTF8):
        return (
            f"{file} begins with a byte-order mark, behind which the line # @package _global_ is not seen: save it in "
            "UTF-8 without one."
        )
    if "Key 'experiment' not in 'Config'" in text:
        return f"{name}.yaml cannot be composed ({why}). An experiment begins with the line # @package _global_."
    if key and why.startswith("Key '"):
        return f"{file or name}: there is no key '{key}'.{suggest_key(key)}"
    return f"{file or name} cannot be composed: {why}{f' ({key})' if key else ''}."


def _key_in(text: str) -> str:
    """Return the key that an error of OmegaConf's names; empty if it names none."""
    found = re.search(r"^\s*full_key: (\S+)$", text, re.MULTILINE)
    return found[1] if found else ""


def _file_of(error: BaseException) -> Path | None:
    """Return the file that Hydra was at when it raised an error; ``None`` for what is no file, or unknown."""
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        within = frame.f_locals
        if "full_path" in within and frame.f_code.co_filename.endswith("file_config_source.py"):
            return Path(str(within["full_path"]))
        loaded: Any = within.get("loaded")
        default: Any = within.get("default")
        if str(getattr(loaded, "path", "")).startswith("file://") and hasattr(default, "config_path"):
            path = Path(loaded.path.removeprefix("file://")) / f"{default.config_path.removesuffix('.yaml')}.yaml"
            return path if path.is_file() else None
    return None


def _explain_yaml(error: BaseException) -> str | None:
    """Return the sentence for a file that cannot be read as YAML, with its line, or ``None``."""
    if not isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return None
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        problem = str(error.problem or error.context)
        mend = " Indent with spaces in the place of tabs." if "'\\t'" in problem else ""
        return f"{mark.name}, line {mark.line + 1}: {problem}.{mend}"
    file = _file_of(error)
    if file is None:
        return None
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    if half := re.search("[\udc80-\udcff]", text):
        return f"{file}, line {_line(text, half.start())}: this is not in UTF-8. Save the file in UTF-8."
    if isinstance(error, yaml.reader.ReaderError):
        return f"{file}, line {_line(text, error.position)}: a character that no YAML has. Take it out."
    return None


def _line(text: str, place: int) -> int:
    return text[:place].count("\n") + 1


def _leaves(schema: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (last part, whole key) of the keys inside groups."""
    for one in fields(schema):
        if is_dataclass(one.type):
            yield from _leaves(one.type, f"{place}{one.name}.")
        elif place:
            yield one.name, f"{place}{one.name}"


_ROWS_OF_TRAIN = re.compile(
    "(limit|max|num|n|subset)_train(ing)?(_(rows|samples|examples|size))?|train(ing)?_(samples|examples|size)"
)
"""Names that other programs have for a number of training rows: ``max_train_samples``."""


def suggest_key(key: str) -> str:
    """Return a sentence naming the keys at the place of a misspelt ``key``, the nearest first."""
    node: Any = Config
    *parents, last = key.split(".")
    if parents in ([], ["data"]) and _ROWS_OF_TRAIN.fullmatch(last):
        return (
            " Did you mean 'data.train_rows', so many rows of train, or 'trainer.limit_train_batches', so many batches "
            "of every epoch?"
        )
    if parents == ["logger"]:
        return f" Each logger has keys of its own: logger.wandb.{last}, or of your own class logger.NAME.{last}."
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
    leaves = {} if parents else dict(_leaves(Config))
    best = get_close_matches(last, [*names, *leaves], n=1, cutoff=0.7)
    if best and best[0] not in names:
        return f" Did you mean '{leaves[best[0]]}'? `{train_command()} --help` says what there is."
    near = nearest(last, names).replace("'", f"'{prefix}", 1)
    return f"{near} There is: {', '.join(prefix + name for name in names)}."
