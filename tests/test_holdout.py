"""``data.select_on=holdout``: a tenth of train chooses the best evaluation, and dev is only reported."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer
from ptuning.data.datamodule import HOLDOUT, GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.deltas.format import read_delta
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from support.callbacks import ctrl_c_at, stopped
from support.running import TINY, Train, run_in

HELD = "data.select_on=holdout"


def data(select_on: str = HOLDOUT, seed: int = 1, train: int = 96, **given: object) -> GlueDataModule:
    source = SyntheticSource(TASKS["mrpc"], {"train": train, "validation": 20, "test": 10})
    return GlueDataModule(source, synthetic_tokenizer(), seed=seed, select_on=select_on, **given)  # type: ignore[arg-type]


def rows_of(module: GlueDataModule, split: str) -> list[tuple[int, ...]]:
    """Every row of a split as its token ids and label."""
    table = module.split(split)
    assert table.labels is not None
    cuts = zip(table.offsets[:-1].tolist(), table.offsets[1:].tolist(), table.labels.tolist(), strict=True)
    return [(*table.input_ids[start:end].tolist(), label) for start, end, label in cuts]


def test_a_tenth_of_train_is_kept_out_and_nothing_is_lost() -> None:
    held, whole = data(), data("dev")
    held.setup("fit")
    assert (len(held.split("train")), len(held.split(HOLDOUT))) == (86, 10)
    assert sorted(rows_of(held, "train") + rows_of(held, HOLDOUT)) == sorted(rows_of(whole, "train"))
    assert rows_of(held, "validation") == rows_of(whole, "validation")
    assert (held.evaluated, whole.evaluated) == (("validation", HOLDOUT), ("validation",))
    seen = sorted(int(i) for batch in held.train_dataloader() for i in batch["index"])
    assert seen == list(range(86))


def test_what_is_held_out_follows_from_the_seed_alone_and_a_shared_store_keeps_train_whole() -> None:
    shared: dict[str, object] = {}
    first, again, other = data(splits=shared), data(splits=shared), data(seed=2, splits=shared)
    assert rows_of(first, HOLDOUT) == rows_of(again, HOLDOUT)
    assert rows_of(first, HOLDOUT) != rows_of(other, HOLDOUT)
    assert len(data("dev", splits=shared).split("train")) == 96


def test_too_few_rows_are_one_sentence() -> None:
    with pytest.raises(DataError, match=r"9 rows here.*data\.select_on=dev"):
        data(train=9).setup("fit")


@pytest.mark.parametrize("task", ["mrpc", "mnli", "stsb"])
def test_the_held_out_part_chooses_and_dev_is_reported_at_that_epoch(
    train: Train, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.4])
    evaluated = GlueClassifier.on_validation_epoch_end

    def held(self: GlueClassifier) -> None:
        evaluated(self)
        assert 0 <= abs(self.val_metrics["holdout_score"]) <= 1
        self.val_metrics["holdout_score"] = next(scores)

    monkeypatch.setattr(GlueClassifier, "on_validation_epoch_end", held)
    run = train(HELD, "module=layernorm", f"task={task}", "trainer.max_epochs=3", "optim.lr=0.01")
    assert [entry["holdout_score"] for entry in run.record["history"]] == [0.2, 0.6, 0.4]
    assert run.record["best"] == run.record["history"][1]
    assert run.record["score"] == run.record["history"][1]["score"]
    assert (run.record["select_on"], run.record["train_examples"]) == ("holdout", 86)
    kept = {file.stem for file in (run.path / "predictions").glob("*.parquet")}
    assert kept == set(TASKS[task].validation)
    assert len(pq.read_table(run.path / "predictions" / f"{min(kept)}.parquet")) == 40
    assert read_delta(run.path)[1].epoch == 2


def test_runs_that_choose_on_dev_keep_their_folders_and_the_others_have_their_own(train: Train) -> None:
    plain, typed, held = train(), train("data.select_on=dev"), train(HELD)
    assert plain.path == typed.path != held.path
    assert "select_on" not in plain.record["recipe"]
    assert held.record["recipe"]["select_on"] == "holdout"
    assert (plain.record["select_on"], plain.record["train_examples"]) == ("dev", 96)
    assert "holdout_score" not in plain.record["best"]
    with pytest.raises(ConfigError, match="Did you mean 'holdout'"):
        train("data.select_on=holdot")


def test_a_stopped_run_holds_out_the_same_rows_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = (*TINY, HELD, "module=query", "optim.lr=0.01", "trainer.max_epochs=3")
    whole = run_in(tmp_path / "whole", *command)
    command = (*command, ctrl_c_at(1, 6))
    for _ in range(2):
        with stopped():
            run_in(tmp_path / "stopped", *command)
    (record,) = (tmp_path / "stopped").rglob("record.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
    resumed = run_in(tmp_path / "stopped", *command)
    for entry, expected in zip(resumed.record["history"], whole.record["history"], strict=True):
        assert entry == pytest.approx(expected)
    assert resumed.record["best"]["epoch"] == whole.record["best"]["epoch"]
    deltas = [read_delta(run.path)[0] for run in (whole, resumed)]
    assert all(torch.equal(value, deltas[1][name]) for name, value in deltas[0].items())


def test_the_recorder_goes_by_dev_where_nothing_is_held_out(train: Train) -> None:
    run = train("trainer.max_epochs=3", "optim.lr=0.01")
    assert run.record["score"] == max(entry["score"] for entry in run.record["history"])


def test_a_cached_prefix_serves_what_is_held_out_as_the_live_one_does(train: Train) -> None:
    """In evaluation there is no dropout, so before the first step both give the same answers."""
    typed = (HELD, "module=layernorm", "layers=1", "optim.lr=1e-12", "optim.head_lr=1e-12", "trainer.max_epochs=1")
    live, cached = train(*typed), train(*typed, "frozen_prefix=cache")
    assert cached.path != live.path
    assert cached.record["frozen_prefix"]["depth"] == 1
    for name in ("score", "accuracy", "holdout_score"):
        assert cached.record["history"][0][name] == pytest.approx(live.record["history"][0][name], abs=1e-6), name
    answers = [
        torch.tensor(pq.read_table(next((run.path / "predictions").glob("*.parquet")))["logits"].to_pylist())
        for run in (live, cached)
    ]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
