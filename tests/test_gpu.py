"""What a GPU must not change. `make gpu` runs it; without CUDA it is skipped.

PTUNING_GPU_TESTS=cpu runs on a CPU what can be had there, so that these tests are known to be right but for the device.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn

import ptuning
from ptuning.acceleration import accelerate, none
from ptuning.acceleration.attention import attention_forward
from ptuning.acceleration.compile import CompiledForward, blocks_of
from ptuning.acceleration.frozen_casts import FrozenCasts
from ptuning.backbones.load import load_model
from ptuning.backbones.random_init import random_config
from ptuning.backbones.source import find_backbone
from ptuning.deltas.format import read_delta
from ptuning.runs.predictions import read_predictions
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS
from ptuning.training.run import execute
from ptuning.training.session import Session
from support.callbacks import ctrl_c_at, hooks, stopped
from support.families import ENCODERS, SIZES, batch, tiny
from support.learning import assert_same_step, learnt
from support.running import ROOT, TINY, Run, composed, run_in

DEVICE = "cuda" if torch.cuda.is_available() else os.environ.get("PTUNING_GPU_TESTS", "")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not DEVICE, reason="there is no CUDA here (PTUNING_GPU_TESTS=cpu tries what a CPU can)"),
]
needs_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="a CPU has nothing of the kind")
if DEVICE == "cuda":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS begins: for trainer.deterministic

HERE = (*TINY, f"trainer.accelerator={DEVICE or 'cpu'}", "trainer.precision=32")
LOW = "bf16-mixed"


def run_here(folder: Path, *overrides: str) -> Run:
    return run_in(folder, *HERE, *overrides)


def here(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(DEVICE) for name, value in values.items()}


def without_dropout(family: str) -> Any:
    """A tiny model of a family in training, which drops nothing: what it computes is the same on every device."""
    config = random_config({**SIZES, "model_type": family}, {})
    zeros = {name: 0.0 for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)}
    source = find_backbone("random:tiny", config={**SIZES, "model_type": family, **zeros})
    return load_model(source, TASKS["rte"], 1).train()


def deltas(run: Run) -> dict[str, Tensor]:
    return read_delta(run.path)[0]


def assert_same_bits(found: Run, expected: Run) -> None:
    one, other = deltas(found), deltas(expected)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], value) for name, value in other.items())


# The mathematics


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("module", ["layernorm", "attention", "output", "full"])
def test_loss_and_gradients_are_those_of_a_cpu(family: str, module: str) -> None:
    model = without_dropout(family)
    select(model, module)
    expected = learnt(none(model), batch(model))
    found = learnt(accelerate(model.to(DEVICE)), here(batch(model)))
    assert_same_step({name: value.cpu() for name, value in found.items()}, expected, near=1e-5)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("module", ["layernorm", "output"])
def test_frozen_weights_that_were_cast_change_no_bit(family: str, module: str) -> None:
    model: Any = tiny(family).to(DEVICE)
    select(model, module)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = {name: value for name, value in here(batch(model)).items() if name in ("input_ids", "attention_mask")}

    def answers() -> dict[str, Tensor]:
        model.eval().zero_grad()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, cache_enabled=False):
            logits = model(**inputs).logits
            loss = logits.float().square().sum()
        loss.backward()
        named = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return {"logits": logits.detach(), **named}

    expected = answers()
    casts = FrozenCasts(model, torch.bfloat16)
    found = answers()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    casts.give_back()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@needs_cuda
@pytest.mark.xfail(Version(torch.__version__) < Version("2.12"), reason="pytorch 174245", strict=False)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_attention_drops_as_many_weights_as_asked(dtype: torch.dtype) -> None:
    query = torch.zeros(16, 12, 64, 64, device=DEVICE, dtype=dtype)  # so all weights are 1/64
    value = torch.eye(64, device=DEVICE, dtype=dtype).expand(16, 12, 64, 64)
    mask = torch.ones(16, 1, 64, 64, device=DEVICE, dtype=torch.bool)
    for given in (None, mask):
        weights, _ = attention_forward(nn.Module().train(), query, query, value, given, dropout=0.1)
        assert float((weights == 0).float().mean()) == pytest.approx(0.1, abs=0.004)


def test_a_compiled_step_is_the_plain_one_to_rounding() -> None:
    model = without_dropout("bert")
    select(model, "layernorm")
    acceleration = accelerate(model.to(DEVICE))
    rows = here(batch(model))
    expected = learnt(acceleration, rows)
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    acceleration.compiled = CompiledForward(
        acceleration.logits, blocks_of(model), 4, 64, model.config.pad_token_id, backend=backend
    )
    assert_same_step(learnt(acceleration, rows), expected, near=2e-2)


# A run


class NoWaiting(pl.Callback):
    """Lets a step fail that waits for the GPU, from the third of the run on: first steps make the optimiser's state."""

    steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx >= 2 and DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        NoWaiting.steps += batch_idx >= 2
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_no_step_waits_for_the_gpu(tmp_path: Path) -> None:
    NoWaiting.steps = 0
    watched = "+callbacks.watched._target_=test_gpu.NoWaiting"
    quiet = ("trainer.log_every_n_steps=1000", "trainer.gradient_clip_val=1.0", f"trainer.precision={LOW}")
    try:
        run_here(tmp_path, "module=layernorm", "trainer.max_epochs=1", *quiet, watched)
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert NoWaiting.steps == 4  # of 96 rows, 16 a step


@pytest.mark.parametrize("precision", ["32", LOW])
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(tmp_path: Path, precision: str) -> None:
    typed = ("module=attention", f"trainer.precision={precision}", "trainer.deterministic=true")
    expected = run_here(tmp_path / "whole", *typed)
    with stopped():
        run_here(tmp_path / "stopped", *typed, ctrl_c_at(8))
    assert_same_bits(run_here(tmp_path / "stopped", *typed, ctrl_c_at(8)), expected)


def test_a_run_in_a_warm_process_is_a_run_in_a_cold_one(tmp_path: Path) -> None:
    typed = ("module=query", "trainer.deterministic=true")
    expected = run_here(tmp_path / "cold", *typed)
    session = Session()
    execute(composed(tmp_path / "another", *HERE, "module=full", f"trainer.precision={LOW}"), session)
    execute(composed(tmp_path / "warm", *HERE, *typed), session)
    [record] = (tmp_path / "warm").rglob("record.json")
    assert_same_bits(Run(record.parent, {}), expected)


@needs_cuda
def test_the_peak_of_memory_is_the_runs_own(tmp_path: Path) -> None:
    torch.empty(2**30, dtype=torch.uint8, device=DEVICE)  # given back at once
    assert 0 < run_here(tmp_path, "module=layernorm").record["peak_memory_mb"] < 512


class Fills(pl.Callback):
    """Asks for more memory than there is at the second batch, if that has more than eight rows."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx and len(batch["labels"]) > 8:
            torch.empty(2**50, dtype=torch.uint8, device=pl_module.device)


def test_a_batch_that_does_not_fit_is_taken_in_two_parts(tmp_path: Path) -> None:
    run = run_here(tmp_path, "module=query", "+callbacks.fills._target_=test_gpu.Fills")
    assert (run.record["status"], run.record["micro_batches"]) == ("finished", 2)


@needs_cuda
@pytest.mark.parametrize("subset", ["all", "top:10%"])
def test_fp16_trains_with_its_scaler(tmp_path: Path, subset: str) -> None:
    run = run_here(tmp_path, "module=query", f"subset={subset}", "trainer.precision=16-mixed", "optim.lr=0.01")
    assert run.record["precision"] == "16-mixed"
    before = load_model(find_backbone("random:tiny", config=run.record["config"]["backbone"]["config"]), TASKS["rte"])
    after = dict(ptuning.load(run.path)[0].named_parameters())
    moved = {name: int((after[name] != value).sum()) for name, value in before.named_parameters()}
    weights = "bert.encoder.layer.0.attention.self.query.weight"
    assert moved[weights] > 0
    if subset != "all":
        assert moved[weights] <= 0.1 * after[weights].numel()


@pytest.mark.parametrize("precision", ["32", LOW])
def test_load_answers_as_the_record_says(tmp_path: Path, precision: str) -> None:
    run = run_here(tmp_path, "module=layernorm", f"trainer.precision={precision}", "data.sizes.validation=200")
    [file] = (run.path / "predictions").glob("validation.parquet")
    written = read_predictions(file)
    model, tokenizer = ptuning.load(run.path)
    found = ptuning_answers(model.to(DEVICE), tokenizer, run)
    torch.testing.assert_close(found, torch.as_tensor(written.logits), rtol=1e-3, atol=1e-4)


def ptuning_answers(model: Any, tokenizer: Any, run: Run) -> Tensor:
    """Logits of the run's dev rows, one at a time, by Hugging Face's own forward."""
    from ptuning.data.synthetic import generate

    table = generate(TASKS["rte"], "validation", 200, 0)
    found = []
    with torch.inference_mode():
        for texts in zip(*table.texts, strict=True):
            encoded = tokenizer(*texts, truncation=True, max_length=128, return_tensors="pt").to(DEVICE)
            found.append(model.eval()(**encoded).logits.cpu())
    return torch.cat(found)


@needs_cuda
def test_a_sweep_shares_the_gpu(tmp_path: Path) -> None:
    typed = ("module=layernorm", "trainer.deterministic=true")
    expected = {seed: run_here(tmp_path / "plain", *typed, f"seed={seed}") for seed in (1, 2)}
    command = [sys.executable, "train.py", "-m", *HERE, *typed, "seed=1,2", "jobs_per_gpu=2"]
    subprocess.run([*command, f"runs_dir={tmp_path / 'sweep'}"], cwd=ROOT, check=True, timeout=300)
    for path in (tmp_path / "sweep").rglob("record.json"):
        assert_same_bits(Run(path.parent, {}), expected[int(path.parent.name.split("=")[1].split("-")[0])])


@contextmanager
def cudnn_attention(enabled: bool) -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_cudnns_attention_takes_no_part_in_training_and_is_put_back(tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())

    with cudnn_attention(True):
        run_here(tmp_path, "module=layernorm", "trainer.max_steps=2", hooks(on_train_batch_start=look))
        assert torch.backends.cuda.cudnn_sdp_enabled()
    assert seen == [DEVICE != "cuda"] * 2
