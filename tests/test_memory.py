"""Out of GPU memory: one more try with each batch in two micro-batches, recorded, with the same mathematics."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from ptuning.deltas.format import read_delta
from ptuning.errors import Interrupted
from ptuning.system.signals import stop
from ptuning.training.out_of_memory import is_out_of_memory
from support.running import TINY, run_in

SCARCE = "+callbacks.memory={_target_: test_memory.ScarceMemory, rows: %d}"
NO_DROPOUT = ("+backbone.config.hidden_dropout_prob=0", "+backbone.config.attention_probs_dropout_prob=0")


class ScarceMemory(pl.Callback):
    """A device whose memory holds no more than so many rows of a training batch.

    It is full at the second batch, and has to be made anew for the next attempt, as a callback with state does.
    """

    def __init__(self, rows: int, words: str = "") -> None:
        self.rows = rows
        self.error = RuntimeError(words) if words else torch.OutOfMemoryError("out of memory")
        self.used = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert not self.used
        self.used = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx and len(batch["labels"]) > self.rows:
            raise self.error


class StopAt(pl.Callback):
    """Asks for a stop after so many (micro-)batches, in the first attempt only."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.batch and trainer.global_step < self.batch:
            stop.asked = True


def test_a_batch_that_does_not_fit_is_taken_in_two_parts_with_the_same_result(tmp_path: Path) -> None:
    plain = run_in(tmp_path / "plain", *TINY, *NO_DROPOUT, "module=query")
    scarce = run_in(tmp_path / "scarce", *TINY, *NO_DROPOUT, "module=query", SCARCE % 8)
    assert plain.record["micro_batches"] == 1
    assert scarce.record["micro_batches"] == 2
    assert scarce.record["status"] == "finished"
    assert scarce.record["last"]["step"] == plain.record["last"]["step"] == 12  # 96 rows, 16 a step, 2 epochs
    expected, found = read_delta(plain.path)[0], read_delta(scarce.path)[0]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


TWO_OF_EIGHT = ("data.eval_batch_size=5", "trainer.limit_val_batches=2")
ONE_OF_THREE = ("data.eval_batch_size=14", "trainer.limit_val_batches=0.5")
SAME = {
    "a last batch of one row": ("data.sizes.train=65", "trainer.val_check_interval=5", *TWO_OF_EIGHT),
    "halves of 7 and 8 rows": ("data.sizes.train=45", "task.batch_size=15", *ONE_OF_THREE),
    "a share of the batches": ("data.sizes.train=80", "trainer.limit_train_batches=0.5"),
    "evaluations at shares of an epoch": ("data.sizes.train=48", "trainer.val_check_interval=0.5"),
}


@pytest.mark.parametrize("typed", SAME.values(), ids=SAME.keys())
def test_the_second_try_is_the_same_training_whatever_the_parts_and_shares(
    typed: tuple[str, ...], tmp_path: Path
) -> None:
    command = (*TINY, *NO_DROPOUT, "module=query", *typed, "optim.lr=0.001")
    plain, scarce = run_in(tmp_path / "plain", *command), run_in(tmp_path / "scarce", *command, SCARCE % 8)
    assert (plain.record["micro_batches"], scarce.record["micro_batches"]) == (1, 2)
    assert [entry["step"] for entry in plain.record["history"]] == [entry["step"] for entry in scarce.record["history"]]
    losses = [[entry["train_loss"] for entry in run.record["history"]] for run in (plain, scarce)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for field in ("partial_training", "partial_evaluation", "validation_examples"):
        assert plain.record.get(field) == scarce.record.get(field)
    found = read_delta(scarce.path)[0]
    for name, value in read_delta(plain.path)[0].items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1.2 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: …"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_every_way_to_say_that_memory_is_full_is_known(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_cublas_without_memory_is_no_failure_and_seconds_of_the_attempt_count_in_the_total_alone(
    tmp_path: Path,
) -> None:
    words = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    scarce = SCARCE.replace("rows: %d", f"rows: 8, words: '{words}'")
    record = run_in(
        tmp_path, *TINY, "module=frozen", scarce, "trainer.limit_val_batches=1", "data.eval_batch_size=16"
    ).record
    assert record["micro_batches"] == 2
    assert record["partial_evaluation"] == {"validation": [16, 40]}  # as many rows as in one whole batch
    assert record["seconds"]["total"] > sum(value for name, value in record["seconds"].items() if name != "total")


def test_batch_counts_of_the_trainer_mean_whole_batches_still(tmp_path: Path) -> None:
    limits = ("trainer.limit_train_batches=3", "trainer.accumulate_grad_batches=3", "trainer.max_epochs=1")
    run = run_in(tmp_path, *TINY, *limits, "module=query", SCARCE % 8)
    assert run.record["micro_batches"] == 2
    assert run.record["last"]["step"] == 1
    assert run.record["last"]["train_loss"] == pytest.approx(math.log(2), abs=0.1)  # the rows' mean, not a share of it


def test_what_still_does_not_fit_fails(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run_in(tmp_path, *TINY, "module=query", SCARCE % 7)


@pytest.mark.slow
def test_a_run_in_micro_batches_goes_on_in_micro_batches(tmp_path: Path) -> None:
    whole = run_in(tmp_path / "whole", *TINY, "task.batch_size=15", "module=query", SCARCE % 8)
    stopping = "+callbacks.stop={_target_: test_memory.StopAt, batch: 7}"
    overrides = (*TINY, "task.batch_size=15", "module=query", SCARCE % 8, stopping)
    with pytest.raises(Interrupted):
        run_in(tmp_path / "stopped", *overrides)
    stop.asked = False
    found = run_in(tmp_path / "stopped", *overrides)
    assert found.record["micro_batches"] == 2
    expected = read_delta(whole.path)[0]
    assert all(torch.equal(value, expected[name]) for name, value in read_delta(found.path)[0].items())
