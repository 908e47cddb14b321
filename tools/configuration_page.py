"""Writes docs/configuration.md: every group, choice and value, read from the schema and the files of ``conf/``."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ptuning.config.compose import config_folder
from ptuning.config.schema import Config

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/configuration.md"
CONF = config_folder()  # of the clone

_OPENING = """\
<!-- tools/configuration_page.py writes this from src/ptuning/config/ and conf/. Change those, then `make docs`. -->

# Configuration

Every group, choice and value. A group takes the name of a choice, `backbone=minilm`; a value is typed by its key,
`trainer.max_epochs=3`; a list goes in brackets, `layers=[0,11]`; `null` is nothing. With `-m` several of either make a
grid, `seed=1,2,3`. A key or choice that does not exist ends the command with a sentence that names the nearest.
`python train.py --cfg job` with what you want to type behind it prints the configuration that it makes.

Defaults are those of `python train.py` with nothing typed. A choice replaces them by what its table says it sets.
"""
_SCHEMA = griffe.load("ptuning.config.schema", search_paths=[ROOT / "src"])


def main() -> None:
    """Write the page; with ``--check``, only say whether it is what it would be."""
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/configuration.md is not what the schema and conf/ say: type `make docs`.")


def page() -> str:
    """Return the page."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        defaults: Any = OmegaConf.to_container(compose("config"))
    types = get_type_hints(Config)
    alone = list(_values("", Config, defaults))
    parts = [_OPENING, "## Values without a group\n", _table(("key", "type", "default", "meaning"), alone)]
    for group, choice in _groups():
        default = f"Default: `{group}={choice}`." if choice else "Default: none."
        parts.append(f"## `{group}`\n")
        if is_dataclass(schema := types.get(group)):
            assert isinstance(schema, type)
            parts.append(f"{_meaning(schema.__name__)} {default}\n")
            parts.append(_table(("choice", "meaning", "sets"), [_choice(file) for file in _files(group)]))
            rows = list(_values(f"{group}.", schema, defaults[group]))
            parts.append(_table(("key", "type", "default", "meaning"), rows))
        else:
            parts.append(f"{_meaning(f'Config.{group}')} {default}\n" if group in types else f"{default}\n")
            parts.extend(f"### `{group}={file.stem}`\n\n```yaml\n{file.read_text()}```\n" for file in _files(group))
    return "\n".join(parts)


def _groups() -> Iterator[tuple[str, str]]:
    """Yield every folder of choices and what is taken where nothing is typed, in the order of config.yaml."""
    chosen = {**_defaults(CONF / "config.yaml"), "hydra/sweeper": "basic"}  # Hydra's own
    for file in _files("hydra/sweeper"):
        chosen |= {f"hydra/sweeper/{name}": choice for name, choice in _defaults(file).items()}
    found = sorted({str(file.parent.relative_to(CONF)) for file in CONF.rglob("*.yaml")} - {".", "hydra/help", "wandb"})
    for name in dict.fromkeys([*chosen, *found]):
        if name in found:
            yield name, chosen.get(name, "")


def _defaults(file: Path) -> dict[str, str]:
    """Return group → choice of a file's defaults list."""
    entries = [entry for entry in yaml.safe_load(file.read_text()).get("defaults", []) if isinstance(entry, dict)]
    return {group.removeprefix("override "): choice or "" for entry in entries for group, choice in entry.items()}


def _files(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"), key=lambda file: file.stem)


def _choice(file: Path) -> tuple[str, ...]:
    """Return the row of one choice: what to type, the comment that its file opens with, the values in it."""
    comment = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    sets = ", ".join(f"`{key}={value}`" for key, value in _leaves(yaml.safe_load(file.read_text())))
    return f"`{file.parent.relative_to(CONF)}={file.stem}`", " ".join(comment), sets


def _leaves(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values that a file sets; those of a module's part by their last name."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, "" if place == "chosen." else f"{place}{key}.")
        elif key != "defaults" and value is not None and value != []:
            yield f"{place}{key}", value


def _values(place: str, schema: type, defaults: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a schema's values: key, type, default, meaning."""
    for key, kind in get_type_hints(schema).items():
        inside = (get_args(kind) or (None,))[-1]
        if not place and (CONF / key).is_dir():  # a group, which has a section
            continue
        if is_dataclass(kind) and isinstance(kind, type):  # `race.margin`
            yield from _values(f"{place}{key}.", kind, defaults[key])
        elif is_dataclass(inside) and isinstance(inside, type):  # a value per name: `module.chosen.NAME.learning_rate`
            yield from _values(f"{place}{key}.NAME.", inside, {})
        else:
            name = f"{schema.__name__}.{key}"
            default = f"`{_spell(defaults[key])}`" if key in defaults else "the choice's"
            yield f"`{place}{key}`", f"`{_type(name)}`", default, _meaning(name)


def _type(name: str) -> str:
    """Return a field's type in words that YAML has too: ``float or null``."""
    field = _SCHEMA[name]
    assert isinstance(field, griffe.Attribute)
    return str(field.annotation).replace(" | None", " or null").replace("dict[str, Any]", "dict").replace("Any", "any")


def _meaning(name: str) -> str:
    """Return the docstring of a class or a field of the schema."""
    docstring = _SCHEMA[name].docstring
    if docstring is None:
        raise SystemExit(f"{name} in src/ptuning/config/schema.py has no meaning: write a docstring below it.")
    return " ".join(docstring.value.split()).replace("``", "`")


def _spell(value: Any) -> str:
    """Return a value as one types it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_spell(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spell, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
