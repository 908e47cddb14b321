"""W&B's own sweeps: their files, the command line that an agent builds from them, and whose run it is."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from ptuning.config.compose import compose, config_folder
from ptuning.config.explain import explain
from ptuning.errors import ConfigError
from support.commands import TypeIt
from support.running import ROOT, TINY, Train
from support.wandb_files import read_back

SWEEPS = sorted((config_folder() / "wandb").glob("*.yaml"))


def command_line(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What W&B's agent runs for one choice of parameters: its own functions fill in the sweep's command."""
    words: dict[str, list[str]] = {
        **create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}}),
        "env": ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [sweep["program"]],
    }
    template = create_sweep_command(list(sweep["command"]))
    return [word for part in template for word in (words[part[2:-1]] if part.startswith("${") else [part])]


def candidates(parameter: dict[str, Any]) -> list[Any]:
    return parameter.get("values") or [parameter[key] for key in ("value", "min", "max") if key in parameter]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_choice_of_a_sweep_is_one_run_that_composes(file: Path) -> None:
    sweep = load_sweep_config(str(file))
    assert sweep is not None
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["project"] == compose().logger["wandb"]["project"]
    assert sweep["metric"]["goal"] == "maximize"
    assert sweep["metric"]["name"] in ("score", "val/score")  # what runs log: test_tracking.py reads it back
    parameters = {name: candidates(parameter) for name, parameter in sweep["parameters"].items()}
    assert set(parameters["module"]) <= {file.stem for file in (config_folder() / "module").glob("*.yaml")}
    assert set(parameters["task"]) <= {file.stem for file in (config_folder() / "task").glob("*.yaml")}
    for place in (0, -1):
        chosen = {name: values[place] for name, values in parameters.items()}
        words = command_line(sweep, chosen)
        assert words[:3] == ["/usr/bin/env", sys.executable, "train.py"]
        assert "-m" not in words
        config = compose(words[3:])
        assert config.logger["wandb"]["_target_"] == "ptuning.tracking.wandb.WandbTracker"
        assert list(config.module.chosen) == [chosen["module"]]
        assert config.task.name == chosen["task"]
        assert config.optim.lr == chosen.get("optim.lr")


def test_the_grid_of_w_and_b_is_that_of_the_experiment() -> None:
    sweep = load_sweep_config(str(config_folder() / "wandb" / "modules.yaml"))
    assert sweep is not None
    assert sweep["method"] == "grid"
    size = len(list(itertools.product(*(candidates(parameter) for parameter in sweep["parameters"].values()))))
    assert size == 18 * 8 * 3


def test_a_folder_of_sweeps_is_no_group_of_the_configuration() -> None:
    with pytest.raises(Exception, match="wandb/modules") as caught:
        compose(["+wandb=modules"])
    assert "wandb sweep conf/wandb/modules.yaml" in str(explain(caught.value))


def test_an_agents_run_belongs_to_its_sweep_and_so_does_one_that_had_finished(
    train: Train, type_it: TypeIt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep_config(str(config_folder() / "wandb" / "modules.yaml"))
    assert sweep is not None
    chosen = {"module": "bias", "task": "rte", "seed": 2}
    parameters = tmp_path / "parameters.yaml"  # as the agent writes it beside its run
    parameters.write_text(json.dumps({"wandb_version": 1, **{k: {"value": v} for k, v in chosen.items()}}))
    agent = {"WANDB_SWEEP_ID": "sw33p", "WANDB_PROJECT": "swept", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    for name, value in {**agent, "WANDB_RUN_ID": "first1", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    _, _, _, *typed = command_line(sweep, chosen)
    small = [word for word in TINY if not word.startswith("logger")]
    done = type_it(*typed, *small, "trainer.max_epochs=1", f"runs_dir={tmp_path / 'runs'}")
    assert done.code == 0, done.err
    assert "locked" not in done.out + done.err
    (folder,) = (tmp_path / "runs").rglob("*-run-*-first1")
    first = read_back(folder)
    assert (first["id"], first["sweep"], first["name"]) == ("first1", "sw33p", "rte/bias/all/seed=2")
    record = json.loads(next((tmp_path / "runs").rglob("record.json")).read_text())
    assert record["wandb_id"] == "first1"
    assert first["summary"]["score"] == pytest.approx(record["score"])
    assert first["config"]["module"] == "bias"  # as the sweep chose it
    assert first["config"]["module_name"] == "bias"
    assert first["config"]["trainable_parameters"] == record["trainable_parameters"]

    # Another sweep asks for the same run.
    monkeypatch.setenv("WANDB_SWEEP_ID", "0ther")
    monkeypatch.setenv("WANDB_RUN_ID", "second2")
    again = train("logger=wandb", "trainer.max_epochs=1", "module=bias", "seed=2")
    assert again.record == record
    second = read_back(next(again.path.rglob("*-run-*-second2")))
    assert (second["id"], second["sweep"], second["exit"]) == ("second2", "0ther", 0)
    assert second["summary"]["score"] == pytest.approx(record["score"])
    assert [row["val/score"] for row in second["history"] if "val/score" in row] == [record["score"]]
    assert [kind for kind, _ in second["artifacts"]] == ["delta"]


def test_a_multirun_has_no_place_below_an_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ptuning.runs.record import RunRecord
    from ptuning.tracking.make_loggers import make_loggers
    from ptuning.tracking.run_logger import identify

    monkeypatch.setenv("WANDB_SWEEP_ID", "sw33p")
    monkeypatch.setenv("WANDB_RUN_ID", "first1")
    settings = compose(["logger=wandb"]).logger
    with pytest.raises(ConfigError, match=r"leave -m out"):
        make_loggers(settings, tmp_path, RunRecord(name="name", **identify(None, "key")), "group")
