"""The data source that a configuration names: synthetic, the Hub, a folder of GLUE's files, or custom data."""

from pathlib import Path

from ptuning.config.schema import Config
from ptuning.data.custom import custom_source
from ptuning.data.custom_options import custom_data, refuse_custom_keys
from ptuning.data.sources import GLUE, DataSource, HubSource, LocalSource, SyntheticSource
from ptuning.data.synthetic import SIZES
from ptuning.errors import ConfigError
from ptuning.tasks.glue import CUSTOM, Task, get_task


def check_predict(config: Config, task: Task) -> None:
    """Refuse ``predict=`` of splits that a task has not.

    Raises
    ------
    ConfigError
        With the splits that it has.
    """
    if task.is_custom and config.predict == ["test"] and not (config.data.test or config.data.path):
        raise ConfigError("predict=[test] needs a file to predict: data.test=FILE. It needs no labels.")
    allowed = [*task.test, *(["ax"] if task.name == "mnli" else [])]
    for split in config.predict:
        if split not in allowed:
            raise ConfigError(f"predict=[{split}] is not a split of {task.name}. Allowed: {', '.join(allowed)}.")


def training_source(config: Config) -> DataSource:
    """Return the data source of the task that a configuration names.

    Raises
    ------
    ConfigError
        If the task has no training data, or keys of custom data are typed for one of GLUE.
    """
    if config.task.name == CUSTOM:
        return custom_source(custom_data(config.data))
    task = get_task(config.task.name)
    if not task.trains:
        raise ConfigError(
            f"{task.name} has no training data. Train MNLI and predict {task.name} with its head: "
            f"task=mnli predict=[{task.name}]"
        )
    refuse_custom_keys(task.name, config.data)
    return make_source(config, task)


def make_source(config: Config, task: Task) -> DataSource:
    """Return the data source of a task."""
    if task.is_custom:
        return custom_source(custom_data(config.data))
    if config.data.source == "synthetic":
        return SyntheticSource(task, {**SIZES, **config.data.sizes}, config.data.seed)
    if config.data.source == "local":
        return LocalSource(task, Path(str(config.data.dir)).expanduser())
    return HubSource(task, config.data.path or GLUE, config.data.revision)
