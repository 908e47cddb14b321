"""The configuration of custom data, checked before any file is opened. Knows no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptuning.config.schema import DataConfig
from ptuning.errors import ConfigError, nearest
from ptuning.tasks.glue import CUSTOM, TASKS

KINDS = ("classification", "regression")
NO_NEED = "data.dev_share holds rows of data.train out; with {} there is no need: drop one."
CUSTOM_KEYS = ("train", "dev", "test", "text", "label", "kind", "metric", "dev_share", "name", "config")
"""Keys of ``data`` that only custom data has."""


@dataclass(frozen=True)
class CustomData:
    """The keys of ``data`` for ``task=custom``, checked and with their defaults.

    Attributes
    ----------
    name
        Name of the data in run folders and tables.
    train, dev, test
        Files, or with ``path`` the names of splits; ``None`` if not typed.
    text
        The one or two text columns; empty if not typed.
    label
        The label column.
    kind
        ``classification``, ``regression``, or ``None`` to decide by the labels.
    metric
        Metrics whose mean is the score; empty for the default.
    typed_share
        ``data.dev_share``; ``None`` if not typed.
    seed
        Seed of the rows held out.
    path, config, revision
        A dataset of the Hub or a folder that ``datasets`` reads, its configuration and revision; ``None`` for files.
    """

    name: str
    train: str | None
    dev: str | None
    test: str | None
    text: tuple[str, ...]
    label: str
    kind: str | None
    metric: tuple[str, ...]
    typed_share: float | None
    seed: int
    path: str | None
    config: str | None
    revision: str | None

    @property
    def dev_share(self) -> float:
        """Share of the training rows to hold out if there is no dev set."""
        return 0.1 if self.typed_share is None else self.typed_share


def custom_data(data: DataConfig, trains: bool = True) -> CustomData:
    """Return the keys of ``data`` for ``task=custom``, checked and with their defaults.

    Parameters
    ----------
    data
        The keys.
    trains
        True if training rows are required; scoring a run needs none.

    Raises
    ------
    ConfigError
        For a key that is missing, does not fit, or belongs to GLUE.
    """
    if data.source in ("local", "synthetic"):
        raise ConfigError(f"data={data.source} holds GLUE's tasks; for task=custom type data=files data.train=FILE.")
    for key in ("dir", "sizes"):
        if getattr(data, key):
            raise ConfigError(f"data.{key} is for GLUE's tasks; task=custom reads data.train=FILE, data.dev=FILE.")
    if not data.path:
        if data.source == "hub":
            raise ConfigError("task=custom with data=hub needs the dataset's name: data.path=owner/name.")
        if not data.train and trains:
            raise ConfigError(
                "task=custom needs a file to train on, data.train=train.csv, or a dataset of the Hub, "
                "data.path=owner/name."
            )
        for key in ("config", "revision"):
            if getattr(data, key) is not None:
                raise ConfigError(f"data.{key} is for a dataset of the Hub: data.path=owner/name.")
    text, metric = _names("text", data.text), _names("metric", data.metric)
    label = data.label or "label"
    if len(text) > 2 or len(set(text)) < len(text):
        raise ConfigError(f"data.text=[{','.join(text)}] must name one column or two different ones.")
    if label in text:
        raise ConfigError(f"'{label}' is named both as text and as label: see data.text and data.label.")
    if data.kind is not None and data.kind not in KINDS:
        raise ConfigError(
            f"data.kind={data.kind} is not known.{nearest(data.kind, KINDS)} Allowed: {', '.join(KINDS)}."
        )
    _refuse_share(data)
    if data.dev_share is not None and data.dev:
        raise ConfigError(NO_NEED.format("data.dev"))
    if data.dev_share is not None and not 0 < data.dev_share <= 0.5:
        raise ConfigError(f"data.dev_share={data.dev_share} must lie above 0 and be at most 0.5, e.g. 0.1.")
    return CustomData(
        name=custom_name(data),
        train=data.train,
        dev=data.dev,
        test=data.test,
        text=text,
        label=label,
        kind=data.kind,
        metric=metric,
        typed_share=data.dev_share,
        seed=data.seed,
        path=data.path,
        config=data.config,
        revision=data.revision,
    )


def _refuse_share(data: DataConfig) -> None:
    """Raise :class:`ConfigError` for a number as the dev set, which is meant as a share of train."""
    dev = str(data.dev or "")
    if re.fullmatch(r"\d*\.\d+|\d+%", dev) or (dev.isdecimal() and not data.path):
        share = float(dev.removesuffix("%")) / (100 if dev.endswith("%") else 1)
        raise ConfigError(
            f"data.dev={dev} is a number, and data.dev takes a file or a split. To hold a share of the training "
            f"rows out: data.dev_share={share if 0 < share <= 0.5 else 0.1:g}."
        )


def custom_name(data: Any) -> str:
    """Return the data's name in run folders and tables: ``data.name``, else that of the training file or dataset.

    Raises
    ------
    ConfigError
        If the name does not serve as a folder's, or is that of a task of GLUE.
    """
    name = data.name
    if name is None:
        found = Path(data.path or data.train or CUSTOM)
        name = "-".join([found.name if data.path else found.stem, *([data.config] if data.config else [])])
        name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or CUSTOM
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ConfigError(f"data.name={name} is not a name: letters, digits, dots and hyphens, e.g. data.name=reviews.")
    if name.lower() in TASKS:
        raise ConfigError(
            f"'{name}' would be taken for GLUE's task in tables: give yours another name, data.name=my-{name}."
        )
    return str(name)


def refuse_custom_keys(task: str, data: DataConfig) -> None:
    """Raise :class:`ConfigError` for keys of custom data on a task of GLUE."""
    for key in CUSTOM_KEYS:
        if getattr(data, key) is not None:
            raise ConfigError(f"data.{key} is for custom data, not for task={task}: type task=custom.")
    if data.source == "files":
        raise ConfigError(f"data=files is for task=custom; files of task={task} are data=local data.dir=FOLDER.")


def _names(key: str, value: Any) -> tuple[str, ...]:
    """Return one name or a list of them as a tuple."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str | int) and str(name) for name in values):
        raise ConfigError(f"data.{key}={value} must be a name or a list of names, e.g. data.{key}=[a,b].")
    return tuple(map(str, values))
