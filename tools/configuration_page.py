"""Writes docs/configuration.md: every group, choice and value, read from the schema and the files of ``conf/``."""

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf

from ptuning.config import Config

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/configuration.md"
CONF = ROOT / "conf"

_OPENING = """\
<!-- Written by tools/configuration_page.py from src/ptuning/config.py and conf/. Change those, then type `make docs`. -->

# Configuration

Every group, choice and value. A group takes the name of a choice, `backbone=minilm`; a value is typed by its key,
`trainer.max_epochs=3`; a list goes in brackets, `layers=[0,11]`; `null` is nothing. With `-m` several of either make a grid,
`seed=1,2,3`. A key or choice that does not exist ends the command with a sentence that names the nearest.
`python train.py --cfg job` and what you want to type prints the whole configuration that it makes.

Defaults are those of `python train.py` with nothing typed. A choice replaces them by what its table says it sets.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """Return the page."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        defaults = compose("config")
    types = get_type_hints(Config)
    described = griffe.load("ptuning.config", search_paths=[ROOT / "src"])
    parts = [_OPENING, "## Values without a group\n", _values("", Config, defaults, described, of_groups=False)]
    for group, default in _groups():
        parts.append(f"## `{group}`\n")
        schema = types.get(group)
        if is_dataclass(schema):
            parts.append(f"{_meaning(described[schema.__name__], schema.__name__)} Default: `{group}={default}`.\n")
            parts.append(_choices(group))
            parts.append(_values(f"{group}.", schema, defaults[group], described))
        else:
            said = f"{_meaning(described['Config'][group], group)} " if group in types else ""
            parts.append(f"{said}Default: {f'`{group}={default}`' if default else 'none'}. The files:\n")
            parts.extend(_file(file) for file in _files(group))
    return "\n".join(parts)


def _groups() -> Iterator[tuple[str, str]]:
    """Yield every folder of choices and what is taken where nothing is typed: in the order of config.yaml, then others."""
    chosen = {**_defaults(CONF / "config.yaml"), "hydra/sweeper": "basic"}  # Hydra's own
    for file in _files("hydra/sweeper"):
        chosen |= {f"hydra/sweeper/{name}": choice for name, choice in _defaults(file).items()}
    found = sorted({str(file.parent.relative_to(CONF)) for file in CONF.rglob("*.yaml")} - {".", "hydra/help"})
    for name in dict.fromkeys([*chosen, *found]):
        if name in found:
            yield name, chosen.get(name, "")


def _defaults(file: Path) -> dict[str, str]:
    """Return group → choice of a file's defaults list."""
    entries = [entry for entry in OmegaConf.load(file).get("defaults", []) if isinstance(entry, DictConfig)]
    return {
        str(group).removeprefix("override "): choice or "" for entry in entries for group, choice in entry.items()
    }


def _files(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"), key=lambda file: file.stem)


def _choices(group: str) -> str:
    rows = []
    for file in _files(group):
        values = OmegaConf.load(file)
        assert isinstance(values, DictConfig)
        sets = ", ".join(f"`{key}={value}`" for key, value in _leaves(values))
        rows.append((f"`{group}={file.stem}`", _comment(file), sets))
    return _table(("choice", "meaning", "sets"), rows)


def _leaves(values: DictConfig, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values that a file sets; those of a module's part by their last name."""
    for key, value in values.items():
        if isinstance(value, DictConfig):
            yield from _leaves(value, "" if place == "parts." else f"{place}{key}.")
        elif key != "defaults" and value is not None and value != []:
            yield f"{place}{key}", value


def _comment(file: Path) -> str:
    """Return the comment that a file opens with."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def _file(file: Path) -> str:
    return f"### `{file.parent.relative_to(CONF)}={file.stem}`\n\n```yaml\n{file.read_text()}```\n"


def _values(
    place: str, schema: type, defaults: Mapping[str, Any], described: griffe.Object, of_groups: bool = True
) -> str:
    return _table(("key", "type", "default", "meaning"), list(_rows(place, schema, defaults, described, of_groups)))


def _rows(
    place: str, schema: type, defaults: Mapping[str, Any], described: griffe.Object, of_groups: bool = True
) -> Iterator[tuple[str, ...]]:
    for key, kind in get_type_hints(schema).items():
        field = described[f"{schema.__name__}.{key}"]
        inside = (get_args(kind) or (None,))[-1]
        if is_dataclass(inside) and isinstance(inside, type):  # a value per name: `module.parts.NAME.learning_rate`
            yield from _rows(f"{place}{key}.NAME.", inside, {}, described)
        elif of_groups or not (CONF / key).is_dir():
            default = _spell(defaults[key]) if key in defaults else "the choice's"
            yield f"`{place}{key}`", f"`{_type(field)}`", default, _meaning(field, f"{schema.__name__}.{key}")


def _type(field: griffe.Object) -> str:
    return str(field.annotation).replace(" | None", " or null").replace("dict[str, Any]", "dict").replace("Any", "any")


def _spell(value: object) -> str:
    """Return a value as one types it."""
    if isinstance(value, DictConfig):
        return "`{" + ",".join(f"{key}:{item}" for key, item in value.items()) + "}`"
    if isinstance(value, ListConfig):
        return "`[" + ",".join(map(str, value)) + "]`"
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(described: griffe.Object, name: str) -> str:
    if described.docstring is None:
        raise SystemExit(f"{name} in src/ptuning/config.py has no meaning: write a docstring below it.")
    return " ".join(described.docstring.value.split()).replace("``", "`")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
