"""The labelled rows to score a run on: those of its training data, if they are unchanged, or what is typed."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from ptuning.config.compose import compose, compose_data, restore_data
from ptuning.config.schema import Config, DataConfig
from ptuning.data.custom import EvaluationSource, score_metrics
from ptuning.data.custom_options import CustomData, custom_data, refuse_custom_keys
from ptuning.data.sources import DataSource
from ptuning.deltas.loading import Loaded, find_own_record
from ptuning.errors import ConfigError, DataError, RunError, UserError, first_line
from ptuning.runs.record import RECORD
from ptuning.tasks.glue import CUSTOM, Task
from ptuning.training.data_source import make_source

_FILE_KEYS = {"train", "dev", "text", "label"}
"""Keys of ``data`` that name custom data to score, whatever the run was trained on."""

_PLACES = ("path", "config", "revision", "train", "dev", "test", "dev_share")
"""Keys of ``data`` that locate rows."""

_NOT_ROWS = {"eval_batch_size", "group_by_length", "train_rows", "select_on"}
"""Keys of ``data`` that say nothing of which rows there are."""

_UNTOLD = {
    "local": "where its data lie: type data=local data.dir=FOLDER, or data=hub",
    "synthetic": "which synthetic rows are its dev set: type data=synthetic, data.sizes and data.seed as in training",
}
"""Source → what a delta alone does not say of it, and the mend."""

_OTHERS = "To score other rows, type them: data.dev=FILE."


def evaluation_source(
    loaded: Loaded, task: Task, files: bool, overrides: Sequence[str], split: str | None
) -> DataSource:
    """Return the data source of the labelled rows.

    Parameters
    ----------
    loaded
        The run, and its task.
    task
        Whose rows are to be scored.
    files
        True for custom data, read with the run's task; see :func:`takes_files`.
    overrides
        The data as typed for ``train.py``, on top of the run's own.
    split
        Which rows are to be scored; ``None`` is the dev set.

    Raises
    ------
    ptuning.UserError
        If nothing was typed and the run's data are not here or have changed; if what was typed does not fit.
    """
    if files:
        return _files(loaded, overrides, split, _recorded(loaded) if loaded.task.is_custom else {})
    data = find_data(loaded, task, overrides)
    refuse_custom_keys(task.name, data)
    source = make_source(Config(data=data), task)
    if task == loaded.task and _typed_keys(overrides) <= _NOT_ROWS:
        _check_identity(source, loaded, str(data.dir or data.path or data.source), "data=local data.dir=FOLDER")
    return source


def takes_files(own: Task, task: Task, overrides: Sequence[str]) -> bool:
    """Return True if the rows are custom data, read with the run's task, rather than GLUE's."""
    return task == own and (own.is_custom or bool(_typed_keys(overrides) & _FILE_KEYS))


def find_data(loaded: Loaded, task: Task, overrides: Sequence[str]) -> DataConfig:
    """Return the configuration of a GLUE task's data: as the run was trained on, with what is typed on top.

    ``data=NAME`` begins anew, and so does everything typed for a run on custom data.
    """
    keys, source = _typed_keys(overrides), loaded.description.source
    if "source" in keys or (overrides and loaded.task.is_custom):
        return compose([f"task={task.name}", *overrides]).data
    if loaded.task.is_custom:
        raise ConfigError(f"Say where {task.name} lies: data=local data.dir=FOLDER, or data=hub.")
    if recorded := _recorded(loaded):
        own = _as_config(recorded, loaded)
        return compose_data(task.name, own, overrides) if overrides else own
    if source in _UNTOLD and keys <= _NOT_ROWS:
        raise ConfigError(f"A delta does not say {_UNTOLD[source]}.")
    return compose([f"task={task.name}", f"data={source}", *overrides]).data


def _files(
    loaded: Loaded, overrides: Sequence[str], split: str | None, recorded: Mapping[str, Any]
) -> EvaluationSource:
    keys = _typed_keys(overrides)
    data, elsewhere = _merged(recorded, overrides, keys, loaded.task.name if loaded.task.is_custom else CUSTOM)
    chosen = custom_data(data, trains=False)
    source = EvaluationSource(_as_typed(loaded.task, chosen, keys), chosen)
    scored = "train" if split == "train" or not source.has_dev else "dev"
    names_rows = bool(keys & {scored, "path"})
    if unread := [key for key in ("train", "test") if key in keys and not names_rows]:
        raise ConfigError(f"data.{unread[0]}={getattr(data, unread[0])} names no rows to score. {_OTHERS}")
    if "train" in keys and not source.has_dev:
        _refuse_other_training_rows(source, loaded)
    if drawn := [key for key in ("seed", "dev_share") if key in keys and not names_rows]:
        raise ConfigError(
            f"data.{drawn[0]}= would hold out rows that the run was trained on. Leave it out, or name other data. "
            f"{_OTHERS}"
        )
    if not elsewhere and not keys & {scored, "config", "revision"}:
        if not recorded:
            raise ConfigError(f"Neither the run nor what was typed says which rows to score. {_OTHERS}")
        trained_on = custom_data(_as_config(recorded, loaded))
        places = [place for place in (trained_on.train, trained_on.dev) if place]
        if not trained_on.path and (gone := [place for place in places if not Path(place).expanduser().exists()]):
            raise DataError(f"The data that the run was trained on are not here: there is no {gone[0]}. {_OTHERS}")
        shown = trained_on.path or " with ".join(places)
        _check_identity(EvaluationSource(loaded.task, trained_on), loaded, shown, "data.dev=FILE")
    return source


def _refuse_other_training_rows(source: EvaluationSource, loaded: Loaded) -> None:
    """Raise :class:`ConfigError` if rows would be held out that the run may have been trained on.

    The run's own training data may lie elsewhere: the rows that were held out of them are its dev set.
    """
    known, file = _trained_on(loaded), source.chosen.train
    if not loaded.task.is_custom or known is None or source.identity() != known:
        raise ConfigError(
            f"data.train={file} is not what the run was trained on, and rows held out of it may be some that the run "
            f"was trained on. data.dev={file} scores all its rows."
        )


def _merged(
    recorded: Mapping[str, Any], overrides: Sequence[str], keys: set[str], name: str
) -> tuple[DataConfig, bool]:
    """Return (the typed keys on top of the recorded ones, True if they name entirely different data)."""
    typed = compose([f"task={CUSTOM}", *overrides]).data
    elsewhere = "path" in keys
    if recorded.get("path") and not elsewhere:  # a split of that dataset, unless it is a file
        files = [getattr(typed, key) for key in ("train", "dev") if key in keys]
        asked = "source" in keys and typed.source == "files"
        elsewhere = asked or any(Path(str(file)).expanduser().is_file() for file in files)
    dropped = {"source", *(_PLACES if elsewhere else ["dev_share"] if "dev" in keys else [])}
    values = {key: value for key, value in recorded.items() if key not in dropped}
    values |= {key: getattr(typed, key) for key in keys}
    return restore_data({**values, "source": typed.source, "name": name}), elsewhere


def _as_typed(task: Task, chosen: CustomData, keys: set[str]) -> Task:
    """Return the run's task with the typed columns and metrics."""
    if len(chosen.text) not in (0, len(task.text)):
        raise ConfigError(f"data.text names {len(chosen.text)} columns, but the run reads {len(task.text)}.")
    if chosen.kind and (chosen.kind == "regression") != task.is_regression:
        raise ConfigError(f"data.kind={chosen.kind} does not fit: the run answers with {answers(task)}.")
    score_of = score_metrics(chosen, task.labels, {}) if "metric" in keys else task.score_of
    made = Task(
        task.name,
        chosen.text or task.text,
        task.labels,
        metrics=tuple(dict.fromkeys((*score_of, *task.metrics))),
        score_of=score_of,
        header=() if chosen.text else task.header,
    )
    return replace(made, label=chosen.label if "label" in keys or task.is_custom else task.label)


def answers(task: Task) -> str:
    """Return the possible answers of a task's head for a sentence: its label names, or ``a number``."""
    return ", ".join(task.labels) or "a number"


def _check_identity(source: DataSource, loaded: Loaded, shown: str, mend: str) -> None:
    """Refuse rows that go by the name of those that the run was trained on and are others."""
    trained_on = _trained_on(loaded)
    if trained_on is None:
        return
    try:
        found = source.identity()
    except UserError as error:
        raise DataError(f"{shown} is not what the run was trained on: {error} To score other rows: {mend}.") from error
    if found != trained_on:
        raise DataError(
            f"{shown} is not what the run was trained on: its texts or labels are others. To score other rows, also "
            f"these: {mend}."
        )


def _trained_on(loaded: Loaded) -> Any:
    """Return the identity of a run's data; ``None`` for a delta alone, and a record of before it had a recipe."""
    record = find_own_record(loaded.folder, loaded.description)
    return record.recipe.get("data") if record else None


def _recorded(loaded: Loaded) -> dict[str, Any]:
    """Return the keys of ``data`` that the run was trained with; nothing for a delta alone.

    Raises
    ------
    RunError
        If the record is damaged: the rows that it lost are not made up.
    """
    record = find_own_record(loaded.folder, loaded.description)
    if record is None:
        return {}
    data = record.config.get("data")
    if not isinstance(data, Mapping) or not data:
        raise _says_no_data(loaded)
    known = {field.name for field in fields(DataConfig)}
    return {name: value for name, value in data.items() if name in known}


def _as_config(recorded: Mapping[str, Any], loaded: Loaded) -> DataConfig:
    """Return the recorded keys of ``data`` with their types checked."""
    try:
        return restore_data(recorded)
    except OmegaConfBaseException as error:
        raise _says_no_data(loaded, f" ({first_line(error)})") from None


def _says_no_data(loaded: Loaded, why: str = "") -> RunError:
    return RunError(
        f"{loaded.folder / RECORD} is damaged: it does not say what data the run was trained on{why}. Type the data to "
        "score: data=synthetic, data=local data.dir=FOLDER, data.dev=FILE."
    )


def _typed_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys of ``data`` that overrides name, ``source`` for ``data=…``.

    Raises
    ------
    ConfigError
        For an override that is not about the data.
    """
    keys = set()
    for word in overrides:
        key = word.split("=", 1)[0].lstrip("+~")
        if key != "data" and not key.startswith("data."):
            raise ConfigError(f"'{word}' says nothing about the data: data=local data.dir=FOLDER.")
        keys.add("source" if key == "data" else key.split(".")[1])
    return keys
