"""W&B: what an offline run wrote is read back from its own file."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from conftest import TINY, Train, TypeIt
from ptuning.config.rules import compose
from ptuning.errors import ConfigError
from ptuning.runs.record import RunRecord
from ptuning.tracking import run_logger as tracking
from ptuning.tracking import wandb_settings
from ptuning.training.module import GlueClassifier

ROOT = Path(__file__).parents[1]

RECORD = RunRecord(name="name", task="rte", module="layernorm", backbone="tiny", wandb_id="1d")


def scan(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def read_back(folder: Path) -> dict[str, Any]:
    """Everything a W&B run logged, from its offline file."""
    (file,) = folder.rglob("*.wandb")
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "artifacts": [], "exit": None}
    for data in scan(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"name": run.display_name, "group": run.run_group, "tags": list(run.tags), "project": run.project}
            found |= {"job_type": run.job_type, "id": run.run_id, "sweep": run.sweep_id}
            found["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "config":
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            found["history"].append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
        elif kind == "summary":
            found["summary"] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "artifact":
            found["artifacts"].append((record.artifact.type, [e.path for e in record.artifact.manifest.contents]))
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def test_an_offline_run_holds_names_configuration_metrics_and_the_delta(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("logger=wandb", "module=layernorm", "trainer.log_every_n_steps=1")
    found = read_back(run.path)

    assert found["name"] == "rte/layernorm/all/seed=1"
    assert found["project"] == "ptuning"
    assert {"rte", "layernorm", "tiny"} <= set(found["tags"])
    assert found["config"]["task"]["name"] == "rte"
    assert found["config"]["trainable_parameters"] == 256
    keys = {key for row in found["history"] for key in row}
    assert {"train/loss", "train/lr", "train/examples_per_second", "val/score", "val/accuracy"} <= keys
    scores = [row["val/score"] for row in found["history"] if "val/score" in row]
    assert scores == pytest.approx([entry["score"] for entry in run.record["history"]])
    assert found["summary"]["score"] == pytest.approx(run.record["score"])
    assert found["summary"]["status"] == "finished"
    assert found["artifacts"][0][0] == "delta"
    assert set(found["artifacts"][0][1]) == {"delta.safetensors", "delta.json"}
    assert found["exit"] == 0
    out = capsys.readouterr().out
    assert "wandb sync" in out
    assert Path(run.record["wandb_sync"].split()[-1]).is_dir() or "runs" in run.record["wandb_sync"]


def test_a_failed_run_is_finished_as_failed(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(self: GlueClassifier, batch: object, batch_idx: int) -> None:
        raise ZeroDivisionError("the reason")

    with monkeypatch.context() as patch:
        patch.setattr(GlueClassifier, "training_step", fail)
        with pytest.raises(ZeroDivisionError):
            train("logger=wandb")
    found = read_back(tmp_path)
    assert found["exit"] == 1
    assert found["summary"]["status"] == "failed"
    assert found["artifacts"] == []


def test_w_and_b_goes_offline_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no W&B key" in str(wandb_settings.why_offline())
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    assert "does not answer" in str(wandb_settings.why_offline())
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("WANDB_MODE", "onlin", r"WANDB_MODE=onlin is not known. Did you mean 'online'"),
        ("WANDB_MODE", "shared", r"WANDB_MODE=shared is not known"),
        ("WANDB_MODE", "online", r"WANDB_MODE=online, but there is no W&B key"),
        ("WANDB_MODE", "RUN", r"WANDB_MODE=RUN, but there is no W&B key"),
        ("WANDB_BASE_URL", "nonsense", r"WANDB_BASE_URL=nonsense is no address"),
        ("WANDB_BASE_URL", "http://h:99999", r"WANDB_BASE_URL=http://h:99999 is no address"),
        ("WANDB_BASE_URL", "http://[", r"WANDB_BASE_URL=http://\[ is no address"),
        ("WANDB_RESUME", "sometimes", r"W&B cannot begin .*resume"),
        ("WANDB_HTTP_TIMEOUT", "soon", r"W&B cannot begin .*"),
    ],
)
def test_what_w_and_b_cannot_begin_with_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(variable, value)

    def begin() -> None:
        logger = tracking.make_logger(compose(["logger=wandb"]).logger, tmp_path, RECORD)
        tracking.begin(logger, {})

    with pytest.raises(ConfigError, match=told):
        begin()


def test_a_mode_that_is_typed_is_checked_too_and_a_project(train: Train) -> None:
    with pytest.raises(ConfigError, match=r"logger.mode=onlin"):
        train("logger=wandb", "logger.mode=onlin")
    with pytest.raises(ConfigError, match=r"W&B cannot begin .*project.*logger=none"):
        train("logger=wandb", "logger.project=a/b")


@pytest.mark.parametrize(("mode", "found"), [("disabled", None), ("dryrun", "offline"), ("OFFLINE", "offline")])
def test_modes_that_w_and_b_knows_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, found: str | None
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    settings = compose(["logger=wandb"]).logger
    logger = tracking.make_logger(settings, tmp_path, RECORD)
    assert tracking.logs_to_wandb(settings) is (found is not None)
    assert bool(logger) is (found is not None)
    if logger:
        assert logger._wandb_init["mode"] == found


def test_what_w_and_b_loses_at_the_end_costs_a_sentence(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: object, path: str) -> None:
        raise PermissionError("Unable to write staging files. Set WANDB_DATA_DIR.")

    monkeypatch.setattr("wandb.Artifact.add_file", refuse)
    run = train("logger=wandb", "trainer.max_epochs=1")
    assert run.record["status"] == "finished"
    assert "Set WANDB_DATA_DIR" in run.record["logger_failed"]
    assert run.record["wandb_sync"].startswith("wandb sync ")  # its run has ended, and is whole but for the delta
    found = read_back(run.path)
    assert (found["exit"], found["artifacts"]) == (0, [])
    out = capsys.readouterr().out
    assert out.count("W&B failed") == 1
    assert "score " in out


def test_csv_and_any_lightning_logger_work_by_their_target(train: Train) -> None:
    run = train("logger=csv", "trainer.log_every_n_steps=1")
    text = (run.path / "csv" / "metrics.csv").read_text()
    assert "val/score" in text
    assert "train/loss" in text


def test_a_sweep_leaves_one_group_a_run_per_job_and_a_summary_run(tmp_path: Path, type_it: TypeIt) -> None:
    grid = ("module=query,bias", "layers=0,1")
    told = type_it("-m", *TINY, "logger=wandb", *grid, f"runs_dir={tmp_path}", "trainer.max_epochs=1")
    assert told.code == 0, told
    assert "wandb sync" in told.out
    (scratch,) = (tmp_path / ".sweeps").iterdir()
    runs = [read_back(path.parent) for path in tmp_path.glob("tiny/**/record.json")]
    assert {run["group"] for run in runs} == {scratch.name}
    assert {run["name"] for run in runs} == {f"rte/{m}/{n}/seed=1" for m in ("query", "bias") for n in (0, 1)}
    assert [run["exit"] for run in runs] == [0, 0, 0, 0]
    assert all(set(grid) <= set(run["config"]["sweep"]["grid"]) for run in runs)

    found = read_back(scratch)
    assert (found["group"], found["job_type"], found["exit"]) == (scratch.name, "sweep", 0)
    assert found["summary"]["jobs/done"] == 4
    assert found["summary"]["best/rte"] == pytest.approx(max(run["summary"]["score"] for run in runs))
    keys = {key for row in found["history"] for key in row}
    assert {"cells", "report"} <= {key.split("/")[0] for key in keys}
    assert any("layers" in key for key in keys)
    ((_, files),) = [artifact for artifact in found["artifacts"] if artifact[0] == "report"]
    assert "index.html" in files
