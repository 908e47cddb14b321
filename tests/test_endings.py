"""How a command ends where it cannot be heard, cannot write, or was not the first in its process."""

import json
import logging
import os
import random
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from ptuning.backbones.source import find_backbone
from ptuning.config.compose import config_folder
from ptuning.errors import ConfigError
from ptuning.runs.folder import find_run
from ptuning.system.memory import peak_memory_mb, reset_peak_memory
from ptuning.system.os_errors import explain_os_error
from ptuning.tasks.glue import get_task
from ptuning.training.run import execute
from ptuning.training.session import Session, as_it_was
from support.commands import TypeIt
from support.running import ROOT, TINY


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, with ``python`` and ``train`` as words."""
    words = {"python": shlex.quote(sys.executable), "train": shlex.quote(str(ROOT / "train.py"))}
    return subprocess.run(
        ["bash", "-c", "".join(f"{word}={path}\n" for word, path in words.items()) + command],
        cwd=folder,
        env={**os.environ, "HYDRA_FULL_ERROR": "0", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# Nobody listens

TALKS = """
import subprocess, sys
from ptuning.system.streams import lost_output, renew_streams
renew_streams()
for number in range(30000):
    print(f"line {number} \u041f\U0001f600")
subprocess.run([sys.executable, "-c", "print(1)"], check=True)
lost = lost_output()
sys.stderr.write(f"done \u041f {lost and type(lost).__name__} {lost and lost.strerror}\\n")
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [("| head -1", "BrokenPipeError Broken pipe"), ("> /dev/full", "OSError No space"), (">&- <&-", "None None")],
)
def test_work_goes_on_where_nobody_listens(tmp_path: Path, end: str, told: str) -> None:
    (tmp_path / "talks.py").write_text(TALKS, "utf-8")
    done = shell(tmp_path, f"$python talks.py {end}; echo ${{PIPESTATUS[0]}}", PYTHONIOENCODING="ascii")
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr.startswith(f"done \\u041f {told}")
    assert done.stderr.count("\n") == 1
    if "head" in end:
        assert done.stdout.splitlines()[0] == "line 0 \\u041f\\U0001f600"


def test_the_manual_takes_any_end(tmp_path: Path) -> None:
    ends = ("| head -1", "> /dev/full", ">&-")
    done = shell(tmp_path, "\n".join(f"$python $train --help {end}; echo ${{PIPESTATUS[0]}}" for end in ends))
    assert done.stdout.split() == ["NAME", "0", "0", "0"]
    assert (
        done.stderr
        == "Standard output could not be written (No space left on device). The work is done all the same.\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs setpriv")
@pytest.mark.slow
def test_a_run_that_may_write_its_folder_alone_ends_well(tmp_path: Path) -> None:
    """Without a writable home, caches, folder for temporary files or UTF-8, into a pipe that closes at once."""
    lines = "".join(f"{text},{label}\n" for text, label in (("привет", "да😀"), ("hello", "нет")) * 8)
    (tmp_path / "данные.csv").write_text(f"text,label\n{lines}", "utf-8")
    for name in ("home", "work", "runs"):
        (tmp_path / name).mkdir()
    for name in ("home", "work"):
        (tmp_path / name).chmod(0o555)
    without_rights = "setpriv --inh-caps=-all --bounding-set=-all" if os.geteuid() == 0 else ""
    words = "backbone=tiny logger=wandb trainer.max_epochs=1 task=custom data.text=text module=frozen runs_dir=../runs"
    own = ("XDG_CACHE_HOME", "XDG_DATA_HOME", "PTUNING_CACHE", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "HF_HOME")
    done = shell(
        tmp_path / "work",
        f"unset {' '.join(own)}\n"
        f"""{without_rights} $python $train {words} 'data.train="../данные.csv"' | head -1; echo ${{PIPESTATUS[0]}}""",
        HOME=str(tmp_path / "home"),
        TMPDIR=str(tmp_path / "nowhere"),
        PYTHONIOENCODING="ascii",
        OMP_NUM_THREADS="1",
        WANDB_MODE="offline",
    )
    said, code = done.stdout.splitlines()
    assert (code, done.stderr) == ("0", "")
    assert "WANDB_DATA_DIR and WANDB_CACHE_DIR can name other folders" in said
    (file,) = (tmp_path / "runs").rglob("record.json")
    record = json.loads(file.read_text("utf-8"))
    assert record["status"] == "finished"
    assert record["score"] == record["best"]["score"]
    assert "logger_failed" not in record
    assert [path.name for path in file.parent.rglob("*.wandb")]
    assert not list((tmp_path / "home").iterdir())


# Places that cannot be

LONG = "x" * 300


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("runs_dir=file",), "should be a folder above it is a file"),
        (("runs_dir=/dev/null/x",), "should be a folder above it is a file"),
        (("runs_dir=loop/x",), "links that go in a circle"),
        (("runs_dir=/proc/x",), "cannot be made"),
        ((f"runs_dir={LONG}",), "has 300 bytes, and 255 fit"),
        (("runs_dir=" + "/".join(["y" * 100] * 50),), "bytes in all"),
        ((f"runs_dir={LONG}", "dry_run=true"), "has 300 bytes, and 255 fit"),
    ],
)
def test_a_place_that_cannot_be_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_it: TypeIt, overrides: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    done = type_it(*TINY, *overrides)
    assert done.code == 2
    assert told in done.err
    assert "runs_dir=FOLDER" in done.err
    assert done.err.count("\n") == 1
    assert len(done.err) < 500


@pytest.mark.parametrize(
    ("part", "origin"),
    [("backbone", "the backbone's name"), ("task", "data.name"), ("module", "module"), ("layers", "layers and subset")],
)
def test_a_name_too_long_says_where_it_comes_from(tmp_path: Path, part: str, origin: str) -> None:
    recipe: dict[str, Any] = {"task": "t", "module": "m", "layers": "all", "seed": 1, part: "ж" * 128}
    with pytest.raises(ConfigError, match=f"256 bytes, and 255 fit. It comes from {origin}"):
        find_run(tmp_path, recipe.pop("backbone", "b"), recipe)
    recipe = {"task": "t", "module": "m", "layers": "all", "seed": 1, part: "x" * 255}
    find_run(tmp_path, recipe.pop("backbone", "b"), recipe)[0].lock().release()


def test_what_cannot_be_written_names_what_puts_it_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "PTUNING_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("HF_DATASETS_CACHE", "/data sets")
    for path, mend in (
        ("/h/.cache/huggingface/hub/x", "HF_HOME=FOLDER"),
        ("/data sets/glue", "HF_HOME=FOLDER"),
        ("/h/.cache/ptuning", "PTUNING_CACHE=FOLDER"),
        ("/h/.local/share/wandb/artifacts", "WANDB_DATA_DIR=FOLDER"),
        ("/h/.cache/other", "XDG_CACHE_HOME=FOLDER"),
        ("/h/.cached", "runs_dir=FOLDER"),
    ):
        for number in (13, 30):
            assert str(explain_os_error(OSError(number, os.strerror(number), path))).endswith(f"{mend}.")
    assert explain_os_error(PermissionError("Set WANDB_DATA_DIR.")) == "Set WANDB_DATA_DIR."
    with pytest.raises(ValueError, match="null") as caught:
        (tmp_path / "a\0b").read_text("utf-8")
    assert "the character NUL" in str(explain_os_error(caught.value))
    assert explain_os_error(FileNotFoundError(2, "No such file")) is None


# One process, several runs


def state() -> dict[str, Any]:
    """What a run may set for its process."""
    return {
        "environment": dict(os.environ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "benchmark": torch.backends.cudnn.benchmark,
        "anomaly": torch.is_anomaly_enabled(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        "warnings": list(warnings.filters),
        "levels": {name: logging.getLogger(name).level for name in (None, "lightning.pytorch", "transformers")},
        "signals": {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)},
    }


def test_a_second_run_of_a_process_is_as_if_it_were_alone(tmp_path: Path) -> None:
    def job(runs_dir: str, warm: Session, *overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = compose("config", [*TINY, "trainer.max_epochs=1", *overrides, f"runs_dir={tmp_path / runs_dir}"])
        return execute(cfg, warm).record.as_json()

    before = state()
    alone = job("alone", Session(), "trainer.precision=32")
    warm = Session()
    odd = ("trainer.deterministic=true", "trainer.benchmark=true", "trainer.detect_anomaly=true", "logger=wandb")
    job("other", warm, *odd, "trainer.precision=bf16-true", "seed=2")
    assert state() == before
    second = job("second", warm, "trainer.precision=32")
    for one in (alone, second):
        for differs in (
            "begun",
            "ended",
            "seconds",
            "train_examples_per_second",
            "peak_memory_mb",
            "wandb_id",
            "config",
        ):
            one.pop(differs)
    assert second == alone


def test_what_runs_set_for_their_process_is_put_back() -> None:
    before = state()

    @as_it_was()
    def fail() -> None:
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.autograd.set_detect_anomaly(True)
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        os.environ.pop("PATH")
        warnings.simplefilter("error")
        logging.getLogger("transformers").setLevel(1)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state() == before


def test_a_backbone_that_was_rounded_is_pretrained_again_for_the_next_run() -> None:
    source = find_backbone("random:tiny", config={"model_type": "modernbert", "num_hidden_layers": 1})
    warm = Session()
    model, _ = warm.model(source, get_task("rte"), 1)
    before = {name: value.clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    assert any(value.is_floating_point() for _, value in model.named_buffers())  # rotary frequencies
    mode = model.training
    model.to(torch.bfloat16).train(not mode)
    again, _ = warm.model(source, get_task("rte"), 1)
    assert again is model
    assert again.training is mode
    for name, value in (*again.named_parameters(), *again.named_buffers()):
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name]), name


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is counted anew on Linux alone")
def test_a_peak_of_memory_is_that_of_its_run() -> None:
    reset_peak_memory()
    start = peak_memory_mb(on_gpu=False)
    torch.ones(300 * 2**18)  # 300 MiB, given back at once
    assert peak_memory_mb(on_gpu=False) > start + 250
    reset_peak_memory()
    assert peak_memory_mb(on_gpu=False) < start + 100
