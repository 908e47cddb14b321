"""W&B: what an offline run wrote is read back from its own file."""

import shutil
import time
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from ptuning.config.compose import compose, config_folder
from ptuning.errors import ConfigError
from ptuning.runs.record import RunRecord
from ptuning.runs.sweep import Sweep, find_sweep, note_sweep
from ptuning.sweeps.grid import grid_of
from ptuning.tracking import run_logger as tracking
from ptuning.tracking import wandb_settings
from ptuning.tracking.make_loggers import make_loggers
from ptuning.tracking.make_loggers import wandb_settings as wandb_settings_of
from ptuning.tracking.wandb import WandbTracker
from ptuning.training.run import execute
from ptuning.training.session import Session
from support.callbacks import FAILS, ctrl_c_at, stopped
from support.commands import TypeIt
from support.running import TINY, Train
from support.wandb_files import read_back


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


def test_a_failed_run_is_finished_as_failed(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train("logger=wandb", FAILS)
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
        record = RunRecord(name="name", task="rte", module="layernorm", backbone="tiny", wandb_id="1d")
        tracking.begin(make_loggers(compose(["logger=wandb"]).logger, tmp_path, record), {})

    with pytest.raises(ConfigError, match=told):
        begin()


def test_a_name_a_group_and_a_project_of_ones_own_count(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    own = ("+logger.wandb.name=mine", "+logger.wandb.group=few", "logger.wandb.mode=offline")
    found = read_back(train("logger=wandb", "trainer.max_epochs=1", *own).path)
    assert (found["name"], found["group"], found["project"]) == ("mine", "few", "theirs")


@pytest.mark.parametrize("sweep", [None, "a sweep"])
def test_w_and_b_s_own_variables_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: str | None) -> None:
    for name, value in (("MODE", "offline"), ("TAGS", "one, two,"), ("RUN_GROUP", "theirs"), ("NAME", "by hand")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    record = RunRecord(name="name", task="rte", module="layernorm", backbone="tiny", wandb_id="1d")

    def known(*typed: str) -> tuple[str, str, list[str]]:
        (logger,) = make_loggers(compose(["logger=wandb", *typed]).logger, tmp_path, record, sweep)
        assert isinstance(logger, WandbTracker)
        told = logger._wandb_init  # what Lightning gives to wandb.init
        return told["name"], told["group"], told["tags"][3:]

    assert known("logger.wandb.tags=[typed,one]") == ("name" if sweep else "by hand", "theirs", ["typed", "one", "two"])
    assert known("+logger.wandb.name=typed", "+logger.wandb.group=few")[:2] == ("typed", "few")


def test_a_mode_that_is_typed_is_checked_too_and_a_project(train: Train) -> None:
    with pytest.raises(ConfigError, match=r"logger\.wandb\.mode=onlin"):
        train("logger=wandb", "logger.wandb.mode=onlin")
    with pytest.raises(ConfigError, match=r"W&B cannot begin .*project.*logger=none"):
        train("logger=wandb", "logger.wandb.project=a/b")


@pytest.mark.parametrize(("mode", "found"), [("disabled", None), ("dryrun", "offline"), ("OFFLINE", "offline")])
def test_modes_that_w_and_b_knows_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, found: str | None
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    settings = compose(["logger=wandb"]).logger
    made = make_loggers(settings, tmp_path, RunRecord(name="name", wandb_id="1d"))
    assert (wandb_settings_of(settings) is not None) is (found is not None)
    assert [logger._wandb_init["mode"] for logger in made] == ([found] if found else [])  # type: ignore[attr-defined]


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


@pytest.mark.slow
def test_a_sweep_leaves_one_group_a_run_per_job_and_a_summary_run(tmp_path: Path, type_it: TypeIt) -> None:
    grid = ("module=query,bias", "layers=0,1")
    command = ("-m", *TINY, "logger=wandb", *grid, f"runs_dir={tmp_path}", "trainer.max_epochs=1")
    told = type_it(*command)
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
    kinds = {key: value for row in found["history"] for key, value in row.items() if key.endswith("/_type")}
    assert kinds.pop("cells/_type") == "table-file"
    assert kinds.pop("report/_type") == "html-file"
    assert set(kinds.values()) == {"image-file"}
    ((_, files),) = [artifact for artifact in found["artifacts"] if artifact[0] == "report"]
    assert "index.html" in files

    # As after a stop: a job is missing. The same command goes on in the same group, and sums up in the same run.
    missing = next(tmp_path.glob("tiny/**/record.json")).parent
    shutil.rmtree(missing)
    told = type_it(*command, "workers=1")
    assert told.code == 0, told
    again = next(folder for folder in (tmp_path / ".sweeps").iterdir() if folder != scratch)
    summary = read_back(again)
    assert (summary["id"], summary["group"]) == (found["id"], scratch.name)
    assert summary["summary"]["jobs/done"] == 1
    assert read_back(missing)["group"] == scratch.name


@pytest.mark.slow
def test_a_race_leaves_a_summary_run_with_its_standings_and_its_picture(tmp_path: Path, type_it: TypeIt) -> None:
    race = (
        "hydra/sweeper=race",
        "module=query,frozen",
        "race.margin=90",
        "trainer.max_epochs=1",
        f"runs_dir={tmp_path}",
    )
    told = type_it("-m", *TINY, "logger=wandb", *race, "race.runs=2")
    assert told.code == 0, told
    (scratch,) = (tmp_path / ".sweeps").iterdir()
    found = read_back(scratch)
    assert (found["group"], found["job_type"], found["exit"]) == (scratch.name, "sweep", 0)
    ended = {name: found["summary"][f"race/{name}"] for name in ("answer", "end", "rounds", "runs")}
    assert ended == {"answer": "", "end": "runs spent", "rounds": 1, "runs": 2}
    keys = {key for row in found["history"] for key in row}
    assert {"race-1", "report", "figures"} <= {key.split("/")[0] for key in keys}
    # A larger budget goes on with the same race: in the same group, and the same summary.
    assert type_it("-m", *TINY, "logger=wandb", *race, "race.runs=4").code == 0
    again = read_back(next(folder for folder in (tmp_path / ".sweeps").iterdir() if folder != scratch))
    assert (again["id"], again["group"], again["summary"]["race/runs"]) == (found["id"], scratch.name, 4)


def test_a_run_that_goes_on_stays_in_the_group_that_began_it(tmp_path: Path) -> None:
    settings = ("logger=wandb", "trainer.max_epochs=1", ctrl_c_at(2), f"runs_dir={tmp_path}")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = hydra_compose("config", [*TINY, *settings])
    with stopped():
        execute(cfg, Session(keeps_backbone=False), Sweep("first"))
    record = execute(cfg, Session(keeps_backbone=False), Sweep("second")).record
    assert (record.status, record.sweep) == ("finished", "first")
    parts = [read_back(folder) for folder in tmp_path.rglob("offline-run-*")]
    assert [(part["id"], part["group"]) for part in parts] == [(record.wandb_id, "first")] * 2


def test_a_sweep_is_gone_on_with_by_the_same_grid_whatever_says_how(tmp_path: Path) -> None:
    first = find_sweep(tmp_path / "1", ("module=query,bias", "seed=1,2"))
    note_sweep(tmp_path / "1", first)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "sweep.json").write_text('{"name": 3}')
    same = (
        "seed=1,2",
        "module=query,bias",
        "workers=2",
        "hydra/launcher=ray",
        "logger=csv",
        "logger.wandb.mode=offline",
    )
    assert find_sweep(tmp_path / "2", same) == first
    for other in (("module=query,bias",), ("module=query,bias", "seed=1,2", "force=true")):
        assert find_sweep(tmp_path / "2", other).name == "2"


def test_sweeps_of_one_s_own_files_are_told_apart_by_what_the_files_say(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    own = tmp_path / "experiment" / "mine.yaml"

    def found(folder: str, config: str = "config", *typed: str) -> Sweep:
        """Begin a sweep, or find the earlier one, in a folder of calls."""
        with initialize_config_dir(str(tmp_path if config == "grid" else config_folder()), version_base="1.3"):
            words = [f"hydra.searchpath=[file://{config_folder()},file://{tmp_path}]", *typed]
            loader = GlobalHydra.instance().config_loader()
            cfg = loader.load_configuration(config, words, run_mode=RunMode.MULTIRUN)
        sweep = find_sweep(tmp_path / "sweeps" / folder, *grid_of(cfg))
        note_sweep(tmp_path / "sweeps" / folder, sweep)
        return sweep

    plain = found("1", "config", "module=query,key")
    packaged = found("2", "config", "experiment=quick")
    assert plain.params == packaged.params == ()  # as earlier versions noted them
    written = []
    for number, grid in enumerate(("seed: 1,2", "seed: 1,3"), start=3):
        own.write_text(f"# @package _global_\nhydra:\n  sweeper:\n    params:\n      {grid}\n")
        (tmp_path / "grid.yaml").write_text(f"defaults: [config, _self_]\n{own.read_text().partition(chr(10))[2]}")
        written.append(found(f"{number}-mine", "config", "experiment=mine", "module=query"))
        written.append(found(f"{number}-grid", "grid"))
        assert found(f"{number}-typed", "config", "experiment=mine", "module=query", "workers=2") == written[-2]
    added = found("5", "config", "experiment=quick", "++hydra.sweeper.params.seed='1,2'")
    assert len({sweep.name for sweep in (plain, packaged, added, *written)}) == 7
    assert found("6", "config", "module=query,key") == plain
    assert found("7", "config", "experiment=quick", "logger=none") == packaged
    assert found("8", "config", "experiment=mine", "seed=1,2").params == ()  # what is typed takes a line's place
