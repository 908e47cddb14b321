"""TensorBoard and MLflow: what a run logged is read back from their own stores."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger

from ptuning.errors import ConfigError
from support.callbacks import FAILS, ctrl_c_at, stopped
from support.commands import TypeIt
from support.running import TINY, Run, Train
from support.wandb_files import read_back


def scalars(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Everything a run's TensorBoard folder holds: tag → (step, value)."""
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_metrics_hyperparameters_and_the_score(train: Train) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    run = train("logger=tensorboard", "trainer.log_every_n_steps=1")
    found = scalars(run)
    assert {"train/loss", "train/lr", "train/examples_per_second", "val/score"} <= set(found)
    # Lightning counts from 0: what is known after six steps is logged at 5.
    assert found["val/score"] == [(e["step"] - 1, pytest.approx(e["score"])) for e in run.record["history"]]
    assert found["score"] == [(run.record["last"]["step"], pytest.approx(run.record["score"]))]
    written = (run.path / "tensorboard" / "hparams.yaml").read_text()
    assert "module_name: layernorm" in written
    assert f"trainable_parameters: {run.record['trainable_parameters']}" in written

    # Its table of hyperparameters: the session's start names them, beside the score.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["module_name"].string_value == "layernorm"
    assert hparams["optimisation/lr"].number_value == pytest.approx(run.record["optimisation"]["lr"])

    # Once more from the start, in the same folder: nothing of the earlier attempt is mixed in.
    again = train("logger=tensorboard", "trainer.log_every_n_steps=1", "force=true")
    assert again.path == run.path
    assert scalars(again)["val/score"] == found["val/score"]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables and nothing in them, which takes seconds to make."""
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}")
    return file


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "runs" / "mlflow.db"
    file.parent.mkdir()
    shutil.copy(empty_store, file)
    return MlflowClient(f"sqlite:///{file}")


def runs_of(client: Any) -> list[Any]:
    return list(client.search_runs([client.get_experiment_by_name("ptuning").experiment_id]))


def test_mlflow_holds_names_tags_parameters_metrics_and_how_a_run_ended(client: Any, train: Train) -> None:
    run = train("logger=mlflow", "trainer.log_every_n_steps=1", "+logger.mlflow.tags={owner: me}")
    (found,) = runs_of(client)
    assert found.info.run_name == "rte/layernorm/all/seed=1"
    assert found.info.status == "FINISHED"
    assert found.info.run_id == run.record["mlflow_run_id"]
    assert {"task": "rte", "module": "layernorm", "backbone": "tiny", "owner": "me"}.items() <= found.data.tags.items()
    assert found.data.params["module_name"] == "layernorm"
    assert found.data.params["trainable_parameters"] == "256"
    assert found.data.params["task/name"] == "rte"
    assert found.data.metrics["score"] == pytest.approx(run.record["score"])
    scores = [m.value for m in client.get_metric_history(found.info.run_id, "val/score")]
    assert scores == pytest.approx([entry["score"] for entry in run.record["history"]])

    with pytest.raises(ZeroDivisionError):
        train("logger=mlflow", "seed=2", FAILS)
    by_name = {run.info.run_name: run for run in runs_of(client)}
    assert by_name["rte/layernorm/all/seed=2"].info.status == "FAILED"


def test_a_resumed_run_goes_on_in_its_mlflow_run(client: Any, train: Train) -> None:
    command = ("logger=mlflow", "trainer.log_every_n_steps=1", ctrl_c_at(1))
    with stopped():
        train(*command)
    (found,) = runs_of(client)
    assert found.info.status == "KILLED"
    run = train(*command)
    (found,) = runs_of(client)
    assert found.info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "train/loss")]
    assert len(steps) == len(set(steps))  # the earlier steps and the later ones, none twice
    assert max(steps) == run.record["last"]["step"] - 1
    assert found.data.metrics["score"] == pytest.approx(run.record["score"])


@pytest.mark.parametrize(("logger", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_missing_package_is_named_by_its_extra(
    train: Train, monkeypatch: pytest.MonkeyPatch, logger: str, package: str
) -> None:
    import lightning.fabric.loggers.tensorboard as fabric
    import lightning.pytorch.loggers.mlflow as of_mlflow

    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(fabric, name, False)
    monkeypatch.setattr(of_mlflow, "_MLFLOW_AVAILABLE", False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'ptuning\[{logger}\]'"):
        train(f"logger={logger}")


def test_any_other_logger_of_lightning_hears_of_the_run(train: Train) -> None:
    run = train("logger=csv")
    assert "module_name: layernorm" in (run.path / "csv" / "hparams.yaml").read_text()
    assert "score" in (run.path / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")


def test_a_csv_of_a_run_that_goes_on_has_the_rows_of_one_that_was_never_stopped(train: Train) -> None:
    often = ("logger=csv", "trainer.log_every_n_steps=1", "module=query")
    whole = train(*often, "seed=2").path
    shutil.move(whole, whole.with_name("whole"))
    for step in (1, 3):
        with stopped():
            train(*often, "seed=2", "checkpoint_seconds=0", ctrl_c_at(step))
    run = train(*often, "seed=2")
    tables = [pd.read_csv(path / "csv" / "metrics.csv") for path in (whole.with_name("whole"), run.path)]
    names = [name for name in tables[0].columns if not re.search("second|peak_memory", name)]
    numbers = [
        table[names].select_dtypes("number").sort_values(["step", "epoch"]).reset_index(drop=True) for table in tables
    ]
    pd.testing.assert_frame_equal(numbers[1], numbers[0])
    assert not list(run.path.rglob("metrics-before.csv"))


class Failing(CSVLogger):
    """A reader's own logger, which fails at one place."""

    at = ""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._fail("log_metrics")
        super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any = None) -> None:
        self._fail("log_hyperparams")
        super().log_hyperparams(params)

    def finalize(self, status: str) -> None:
        self._fail("finalize")
        super().finalize(status)

    def _fail(self, place: str) -> None:
        if place == self.at:
            raise ConnectionError("the server is gone.")


@pytest.mark.parametrize("place", ["log_metrics", "finalize"])
def test_a_logger_that_fails_costs_one_sentence_and_not_the_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.setattr(Failing, "at", place)
    run = train("logger=csv", "logger.csv._target_=test_loggers.Failing")
    assert run.record["status"] == "finished"
    assert run.record["score"] == run.record["best"]["score"]
    told = "Failing failed and hears no more of this run (ConnectionError: the server is gone)."
    assert run.record["logger_failed"].startswith(told)
    out = capsys.readouterr().out
    assert out.count("the server is gone") == 1
    assert "score " in out.splitlines()[-2]


def test_a_logger_that_cannot_begin_is_a_sentence_before_training(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Failing, "at", "log_hyperparams")
    with pytest.raises(
        ConfigError, match=r"Failing cannot begin \(ConnectionError: the server is gone\)\..*logger=none"
    ):
        train("logger=csv", "logger.csv._target_=test_loggers.Failing")
    with pytest.raises(ConfigError, match="is no logger of Lightning's"):
        train("logger=csv", "logger.csv._target_=types.SimpleNamespace")
    with pytest.raises(ConfigError, match=r"no module 'mein'.* PYTHONPATH=\. before"):
        train("+logger.mine._target_=mein.Logger")
    monkeypatch.setattr(Failing, "at", "")
    assert train("logger=csv", "logger.csv._target_=test_loggers.Failing").record["status"] == "finished"


# Several at once


def test_several_loggers_each_get_what_they_get_alone(client: Any, train: Train) -> None:
    command = ("logger=[wandb,mlflow,csv]", "logger.wandb.tags=[mine]", "trainer.log_every_n_steps=1", ctrl_c_at(1))
    with stopped():
        train(*command)
    run = train(*command)
    scores = [entry["score"] for entry in run.record["history"]]
    (found,) = runs_of(client)
    assert (found.info.run_id, found.info.status) == (run.record["mlflow_run_id"], "FINISHED")
    assert found.data.metrics["score"] == pytest.approx(run.record["score"])
    parts = [read_back(folder) for folder in (run.path / "wandb").glob("offline-run-*")]
    assert {part["id"] for part in parts} == {run.record["wandb_id"]}
    assert all("mine" in part["tags"] for part in parts)
    (whole,) = [part for part in parts if part["exit"] == 0]
    assert [row["val/score"] for row in whole["history"] if "val/score" in row] == pytest.approx(scores)
    assert whole["artifacts"][0][0] == "delta"
    assert run.record["wandb_sync"].startswith("wandb sync ")
    table = pd.read_csv(run.path / "csv" / "metrics.csv")
    assert table["val/score"].dropna().tolist() == pytest.approx(scores)
    assert "logger_failed" not in run.record


@pytest.mark.parametrize("place", ["log_metrics", "finalize"])
def test_one_that_fails_costs_the_others_nothing(train: Train, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(Failing, "at", place)
    twice = [f"+logger.{name}={{_target_: test_loggers.Failing, name: {name}}}" for name in ("first", "last")]
    run = train("logger=[csv,wandb]", *twice, "trainer.max_epochs=1")
    assert run.record["logger_failed"].count("Failing failed and hears no more of this run") == 2
    assert pd.read_csv(run.path / "csv" / "metrics.csv")["val/score"].dropna().tolist() == [run.record["score"]]
    found = read_back(run.path)
    assert (found["exit"], found["summary"]["score"]) == (0, pytest.approx(run.record["score"]))


def test_one_that_cannot_begin_ends_those_that_had_begun(
    client: Any, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "at", "log_hyperparams")
    with pytest.raises(ConfigError, match="Failing cannot begin"):
        train("logger=mlflow", "+logger.mine._target_=test_loggers.Failing")
    (found,) = runs_of(client)
    assert found.info.status == "FAILED"
    monkeypatch.setattr(Failing, "at", "")
    assert train("logger=mlflow", "+logger.mine._target_=test_loggers.Failing").record["status"] == "finished"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("+logger.mine.name=x", r"logger\.mine is no logger: .*\+logger\.mine\._target_=my_package\.MyLogger"),
        ("+logger.mine=5", r"logger=.*takes names and values|logger\.mine is no logger"),
        ("+logger.mine._target_=ptuning.tracking.wandb.WandbTracker", r"one W&B logger: leave out logger\.mine"),
        ("+logger.mine._target_=lightning.pytorch.loggers.WandbLogger", "all jobs of a sweep into one W&B run"),
        ("+logger.wandb.run_id=abc", r"logger\.wandb\.run_id is the run's own"),
        ("+logger.wandb.save_dir=there", r"logger\.wandb\.save_dir is the run's own"),
    ],
)
def test_what_is_no_logger_is_a_sentence(train: Train, typed: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        train("logger=wandb", typed)


def test_a_key_without_its_loggers_name_is_answered_with_the_whole_one(type_it: TypeIt) -> None:
    for typed, whole in (("logger.mode=offline", "logger.wandb.mode"), ("logger._target_=x.Y", "logger.NAME._target_")):
        told = type_it(*TINY, "logger=wandb", typed)
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert whole in told.err


@pytest.mark.parametrize("ends", ["trainer.check_val_every_n_epoch=2", "trainer.max_steps=15"])
def test_an_evaluation_after_the_last_step_is_logged_at_that_step(
    ends: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("logger=csv", "trainer.max_epochs=3", ends)  # six batches an epoch
    table = pd.read_csv(run.path / "csv" / "metrics.csv")
    steps = [entry["step"] for entry in run.record["history"]]
    assert steps[-1] == (15 if "max_steps" in ends else 18)
    for key in ("val/score", "train/examples_per_second"):
        rows = table[table[key].notna()]
        assert rows["step"].tolist() == [step - 1 for step in steps]
    assert table[table["val/score"].notna()]["epoch"].tolist() == [(step - 1) // 6 for step in steps]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == len(steps)
    assert all("loss 0." in line for line in lines)
