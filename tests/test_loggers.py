"""TensorBoard and MLflow: what a run logged is read back from their own stores."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from ptuning.errors import ConfigError
from support.callbacks import FAILS, ctrl_c_at, stopped
from support.running import Run, Train


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
    run = train("logger=mlflow", "trainer.log_every_n_steps=1", "+logger.tags={owner: me}")
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
    run = train("logger=csv", "logger._target_=test_loggers.Failing")
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
        train("logger=csv", "logger._target_=test_loggers.Failing")
    with pytest.raises(ConfigError, match="is no logger of Lightning's"):
        train("logger=csv", "logger._target_=types.SimpleNamespace")
    monkeypatch.setattr(Failing, "at", "")
    assert train("logger=csv", "logger._target_=test_loggers.Failing").record["status"] == "finished"
