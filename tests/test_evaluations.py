"""What counts as an evaluation, what is said of a score from part of the data, and what a diverged model is called."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow.parquet as pq
import pytest
import torch

from ptuning.deltas.format import read_delta
from ptuning.errors import RunError
from ptuning.inference.glue_submission import choose_entries
from ptuning.runs.limits import part_of_data
from ptuning.runs.record import RunRecord
from support.running import Run, Train

SMALL = ("module=frozen", "data.eval_batch_size=8", "data.sizes.train=32")


class Poison(pl.Callback):
    """Makes the head's biases NaN after a step, so that losses up to it are finite."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.nn.init.constant_(pl_module.model.classifier.bias, float("nan"))


def rows_predicted(run: Run, split: str = "validation") -> int:
    return int(pq.read_table(run.path / "predictions" / f"{split}.parquet").num_rows)


@pytest.mark.parametrize(("task", "steps"), [("rte", 1), ("stsb", -1), ("mnli", 2)])
def test_the_sanity_check_before_the_first_step_is_no_evaluation(
    train: Train, task: str, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(*SMALL, f"task={task}", "logger=csv")
    before, logged = read_delta(plain.path)[0], _logged(plain)
    capsys.readouterr()
    run = train(*SMALL, f"task={task}", "logger=csv", f"trainer.num_sanity_val_steps={steps}", "force=true")
    assert run.path == plain.path  # it changes nothing, so it is the same run
    assert run.record["history"] == plain.record["history"]
    assert run.record["best"]["epoch"] >= 1
    assert capsys.readouterr().out.count("epoch 1/2") == 1
    for split in run.record["validation_examples"]:
        assert rows_predicted(run, split) == 40
    assert all(torch.equal(value, before[name]) for name, value in read_delta(run.path)[0].items())
    assert _logged(run) == logged


def _logged(run: Run) -> int:
    return next(run.path.rglob("metrics.csv")).read_text().count("\n")


def test_a_score_on_part_of_the_dev_set_says_so_everywhere(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(*SMALL, "trainer.limit_val_batches=1", "trainer.limit_train_batches=1", "task=mnli")
    told = capsys.readouterr().out
    parts = {"validation_matched": [8, 40], "validation_mismatched": [8, 40]}
    assert run.record["partial_evaluation"] == parts
    assert json.loads((run.path / "delta.json").read_text())["partial_evaluation"] == parts
    assert rows_predicted(run, "validation_matched") == 8
    assert "scored on 8 of 40 rows of matched" in told
    assert run.record["partial_training"] == [1, 2]
    assert "trained on 1 of 2 batches" in told
    train(*SMALL, "trainer.limit_val_batches=1", "trainer.limit_train_batches=1", "task=mnli")
    assert "8 of 40 rows" in capsys.readouterr().out  # a run that had finished earlier says it too


@pytest.mark.parametrize("limit", ["null", "1.0", "5", "1000"])
def test_a_score_on_all_rows_says_nothing_however_it_was_typed(train: Train, limit: str) -> None:
    limits = (f"trainer.limit_val_batches={limit}", f"trainer.limit_train_batches={limit}")
    record = train(*SMALL, *limits, "trainer.max_steps=1").record
    assert not {"partial_evaluation", "partial_training"} & set(record)
    assert record["validation_examples"] == {"validation": 40}
    assert part_of_data(RunRecord.read(record)) == ""


@pytest.mark.parametrize(
    ("limit", "says_rows", "parts", "passed_over"),
    [
        (None, False, None, False),
        (1.0, False, None, False),
        (1, False, None, True),
        (0.5, False, None, True),
        (1000, True, None, False),
        (1, True, {"validation": [8, 40]}, True),
    ],
)
def test_submit_passes_over_what_was_scored_in_part_in_records_of_before_too(
    train: Train, tmp_path: Path, limit: float | None, says_rows: bool, parts: Any, passed_over: bool
) -> None:
    record = train(*SMALL, "trainer.max_steps=1").record
    record |= {"source": "local", **({"partial_evaluation": parts} if parts else {})}
    record["config"]["trainer"]["limit_val_batches"] = limit
    if not says_rows:
        del record["validation_examples"]
    (file,) = tmp_path.rglob("record.json")
    file.write_text(json.dumps(record))
    if passed_over:
        with pytest.raises(RunError, match="scored on a part of the dev set"):
            choose_entries(tmp_path / "runs")
    else:
        (entry,) = (one for one in choose_entries(tmp_path / "runs") if one.rule.task == "rte")
        assert entry.run == file.parent


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_logits_that_are_not_finite_are_a_divergence_not_a_score(train: Train, tmp_path: Path, task: str) -> None:
    poison = ("+callbacks.poison._target_=test_evaluations.Poison", "trainer.limit_train_batches=1")
    with pytest.raises(
        RunError, match=r"Training diverged: the logits of 40 of 40 .* smaller learning rate: optim.lr="
    ):
        train(*SMALL, *poison, f"task={task}")
    (file,) = tmp_path.rglob("record.json")
    record = json.loads(file.read_text())
    assert record["status"] == "failed"
    assert "score" not in record
