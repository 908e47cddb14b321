"""A run from door to door: what moves, what it leaves, and that nothing finished is lost or done twice."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import ptuning
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.deltas.description import write_description
from ptuning.deltas.format import read_delta
from ptuning.errors import ConfigError, RunError
from ptuning.selection.architectures import BERT, CROSS_CUTTING, GROUPS
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS
from support.callbacks import FAILS, ctrl_c_at, hooks, stopped
from support.running import ROOT, TINY, Run, Train, needs_minilm, run_in

TRAINED = [name for name, task in TASKS.items() if task.trains]
MODULES = [*BERT.elementary, *GROUPS, *CROSS_CUTTING]


def delta_of(run: Run) -> dict[str, torch.Tensor]:
    return read_delta(run.path)[0]


def pretrained(run: Run) -> torch.nn.Module:
    """The model as it was before the run."""
    backbone = run.record["config"]["backbone"]
    source = find_backbone(backbone["path"], config=backbone["config"])
    return load_model(source, TASKS[run.record["task"]], run.record["seed"])


# Each module on one task, and each task with two; `make slow` has all pairs.
PAIRS = [
    pytest.param(module, task, marks=() if m % len(TRAINED) == t else pytest.mark.slow)
    for m, module in enumerate(MODULES)
    for t, task in enumerate(TRAINED)
]


@pytest.mark.parametrize(("module", "task"), PAIRS)
def test_every_module_trains_on_every_task_and_the_rest_stays_bit_for_bit(train: Train, module: str, task: str) -> None:
    run = train(f"module={module}", f"task={task}", "trainer.max_epochs=1", "data.sizes.train=32", "optim.lr=0.01")

    before = pretrained(run)
    selection = select(before, module)
    assert run.record["status"] == "finished"
    assert run.record["trainable_parameters"] == selection.trainable_parameters
    assert set(delta_of(run)) == {*selection.names, *selection.head_names}
    after, _ = ptuning.load(run.path)
    after_parameters = dict(after.named_parameters())
    moved = {name for name, p in before.named_parameters() if not torch.equal(p, after_parameters[name])}
    assert moved <= {*selection.names, *selection.head_names}
    assert moved & {*selection.head_names}
    if module not in ("frozen", "key"):  # a shift of all keys leaves attention as it is: key biases have no gradient
        assert moved & set(selection.names)
    assert set(run.record["best"]) >= {"score", "epoch", "train_loss", *_metric_names(task)}


def _metric_names(task: str) -> set[str]:
    suffixes = [name.removeprefix("validation") for name in TASKS[task].validation]
    return {f"{metric}{suffix}" for metric in TASKS[task].metrics for suffix in suffixes}


def test_while_training_nothing_frozen_has_a_gradient_or_a_place_in_the_optimiser(train: Train) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def look(trainer: Any, classifier: Any, optimizer: torch.optim.Optimizer) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = dict(classifier.model.named_parameters())
        seen.append(
            ({n for n, p in named.items() if p.grad is not None}, {n for n, p in named.items() if id(p) in held})
        )

    run = train("module=layernorm", "layers=1", hooks(on_before_optimizer_step=look))

    moving = {*run.record["selection"], "classifier.weight", "classifier.bias"}
    assert seen
    assert all(with_gradient == moving and held == moving for with_gradient, held in seen)


def test_training_s_clock_runs_in_every_epoch_and_around_every_evaluation(train: Train) -> None:
    def wait(*_: Any) -> None:
        time.sleep(0.05)

    typed = ("task=rte", "trainer.max_epochs=3", "trainer.val_check_interval=3", "trainer.log_every_n_steps=1000")
    record = train(*typed, hooks(on_train_batch_end=wait, on_validation_batch_end=wait)).record
    assert len(record["history"]) == 6
    assert record["seconds"]["train"] > 18 * 0.05
    assert record["seconds"]["validate"] > 6 * 0.05
    assert record["train_examples_per_second"] < 3 * 96 / (18 * 0.05)


def test_a_record_says_what_ran_how_well_and_how_fast(train: Train) -> None:
    run = train("module=layernorm", "layers=last:1", "task=mrpc")
    record = run.record

    assert run.path.parts[-4:-1] == ("mrpc", "layernorm", "1")
    assert record["name"] == "mrpc/layernorm/1/seed=1"
    assert (record["trainable_parameters"], record["head_parameters"]) == (128, 66)
    assert record["trainable_percent"] == pytest.approx(100 * 128 / record["total_parameters"])
    assert [entry["epoch"] for entry in record["history"]] == [1, 2]
    assert record["score"] == record["best"]["score"] == max(entry["score"] for entry in record["history"])
    assert record["last"] == record["history"][-1]
    assert record["score"] == pytest.approx((record["best"]["accuracy"] + record["best"]["f1"]) / 2)
    assert record["train_examples_per_second"] > 0
    assert set(record["seconds"]) == {"data", "model", "train", "validate", "total"}
    assert record["peak_memory_mb"] > 50
    assert record["versions"]["torch"] == version("torch")  # of the package, which a CUDA build gives no suffix
    assert len(record["backbone_hash"]) == 64
    assert record["source"] == "synthetic"


def test_the_loaded_model_gives_the_logits_that_the_run_had_bit_for_bit(train: Train) -> None:
    run = train("module=attention", "task=mnli", "data.sizes.train=64", "optim.lr=0.01")
    model, tokenizer = ptuning.load(run.path)
    source = SyntheticSource(TASKS["mnli"], {"train": 64, "validation": 40, "test": 24})
    data = GlueDataModule(source, tokenizer)

    for split in ("validation_matched", "validation_mismatched"):
        kept = pq.read_table(run.path / "predictions" / f"{split}.parquet").to_pydict()
        logits = torch.zeros(40, 3)
        with torch.inference_mode():
            for batch in data.eval_dataloader(split):
                inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
                logits[batch["index"]] = model(**inputs).logits
        assert kept["index"] == list(range(40))
        assert torch.equal(torch.tensor(kept["logits"]), logits)


def test_the_same_command_twice_runs_once_and_force_runs_again(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train()
    values = delta_of(first)
    ended = (first.path / "record.json").stat().st_mtime_ns
    capsys.readouterr()
    train()
    assert (first.path / "record.json").stat().st_mtime_ns == ended
    assert "finished earlier" in capsys.readouterr().out

    again = train("force=true")
    assert again.path == first.path
    assert (first.path / "record.json").stat().st_mtime_ns > ended
    assert all(torch.equal(value, delta_of(again)[name]) for name, value in values.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "extra"),
    [
        ((1, 4, 5, 6, 9), ()),
        ((1, 4, 6, 9), ("trainer.accumulate_grad_batches=2",)),
        ((1, 4, 5, 6, 9), ("trainer.val_check_interval=3",)),
    ],
)
def test_a_run_stopped_anywhere_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, steps: tuple[int, ...], extra: tuple[str, ...]
) -> None:
    command = (*TINY, "module=[query,bias]", "optim.lr=0.01", "keep_checkpoint=true", *extra)
    whole = run_in(tmp_path / "whole", *command)
    command = (*command, ctrl_c_at(*steps))
    for _ in steps:
        with stopped():
            run_in(tmp_path / "stopped", *command)
        (record,) = (tmp_path / "stopped").rglob("record.json")
        assert json.loads(record.read_text())["status"] == "interrupted"
    resumed = run_in(tmp_path / "stopped", *command)

    assert resumed.record["status"] == "finished"
    assert [entry["score"] for entry in resumed.record["history"]] == [e["score"] for e in whole.record["history"]]
    for entry, expected in zip(resumed.record["history"], whole.record["history"], strict=True):
        assert entry == pytest.approx(expected)
    assert delta_of(resumed).keys() == delta_of(whole).keys()
    for name, value in delta_of(whole).items():
        assert torch.equal(value, delta_of(resumed)[name]), name
    last = [torch.load(run.path / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    command = (*TINY, "module=bias", "data.sizes.train=480", "trainer.max_epochs=6", "checkpoint_seconds=0")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "train.py", *command, f"runs_dir={tmp_path / 'killed'}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(tmp_path.rglob("last.ckpt")):
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.wait()
    (record,) = tmp_path.rglob("record.json")
    assert json.loads(record.read_text())["status"] == "running"
    reached = torch.load(record.parent / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < reached < 180

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = run_in(tmp_path / "killed", *command)
        whole = run_in(tmp_path / "whole", *command)
    finally:
        torch.set_num_threads(threads)
    assert resumed.path == record.parent
    for name, value in delta_of(whole).items():
        assert torch.equal(value, delta_of(resumed)[name]), name


def test_checkpoints_hold_only_what_moves(train: Train) -> None:
    run = train("module=layernorm", "keep_checkpoint=true")
    checkpoint = torch.load(run.path / "last.ckpt", weights_only=True)

    moving = {f"model.{name}" for name in (*run.record["selection"], "classifier.weight", "classifier.bias")}
    assert set(checkpoint["state_dict"]) == moving
    assert sum(len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"]) == len(moving)


def test_a_checkpoint_of_another_run_is_refused(train: Train) -> None:
    one, other = train("seed=1"), train("seed=2", "keep_checkpoint=true")
    for name in ("last.ckpt", "last.ckpt.sha256"):
        (one.path / name).write_bytes((other.path / name).read_bytes())
    (one.path / "record.json").unlink()
    with pytest.raises(RunError, match="another run"):
        train("seed=1")
    assert train("seed=1", "force=true").record["status"] == "finished"


def test_two_processes_never_share_a_run_folder(train: Train) -> None:
    run = train()
    from filelock import FileLock

    with FileLock(run.path / ".lock"), pytest.raises(RunError, match="another process"):
        train("force=true")


def test_a_failure_is_recorded_with_its_reason(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(FAILS)
    (path,) = tmp_path.rglob("record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "failed"
    assert "ZeroDivisionError: the reason" in record["reason"]


def test_a_delta_refuses_another_backbone_and_a_torn_pair(train: Train) -> None:
    run = train()
    description = json.loads((run.path / "delta.json").read_text())
    description["backbone"]["config"]["hidden_act"] = "relu"  # same shapes, and the same weights: still fits
    description["backbone"]["config"]["initializer_range"] = 0.5
    write_description(run.path, description)
    with pytest.raises(RunError, match="fits only the backbone"):
        ptuning.load(run.path)
    values = (run.path / "delta.safetensors").read_bytes()
    (run.path / "delta.safetensors").write_bytes(values[:-1] + b"\x01")
    with pytest.raises(RunError, match="do not belong together"):
        ptuning.load(run.path)
    with pytest.raises(RunError, match="no folder"):
        ptuning.load(run.path / "nowhere")


def test_unlabelled_splits_are_predicted_with_the_best_weights_also_later(train: Train) -> None:
    run = train("task=mnli", "data.sizes.train=32")
    ended = (run.path / "record.json").stat().st_mtime_ns
    train("task=mnli", "data.sizes.train=32", "predict=[test_matched,ax]")
    assert (run.path / "record.json").stat().st_mtime_ns == ended
    for split in ("test_matched", "ax"):
        table = pq.read_table(run.path / "predictions" / f"{split}.parquet").to_pydict()
        assert table["index"] == list(range(24))
        assert len(table["logits"][0]) == 3
        assert "label" not in table
    with pytest.raises(ConfigError, match="test_matched"):
        train("task=mnli", "predict=[test]")


def test_the_seed_alone_decides_the_result(train: Train) -> None:
    first = delta_of(train("task=cola"))
    torch.manual_seed(12345)
    torch.rand(7)
    again = delta_of(train("task=cola", "force=true"))
    other = delta_of(train("task=cola", "seed=2"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


@needs_minilm
def test_a_layernorm_run_of_minilm_leaves_less_than_a_megabyte(tmp_path: Path) -> None:
    small = ("data.sizes.train=32", "data.sizes.validation=32", "trainer.max_epochs=1", "logger=wandb")
    run = run_in(tmp_path, "experiment=demo", "module=layernorm", "task=rte", *small)
    size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    assert size < 1_000_000
    assert (run.record["trainable_parameters"], run.record["head_parameters"]) == (9216, 770)


@needs_minilm
@pytest.mark.slow
@pytest.mark.parametrize(("task", "floor"), [("sst2", 0.90), ("rte", 0.80)])
def test_layernorms_of_minilm_learn_the_synthetic_tasks(tmp_path: Path, task: str, floor: float) -> None:
    run = run_in(tmp_path, "experiment=demo", "module=layernorm", f"task={task}")
    assert run.record["score"] >= floor


def test_several_tasks_of_a_slurm_job_are_no_processes_of_a_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "4", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert train("task=rte", "trainer.max_steps=1").record["status"] == "finished"
