"""``data.train_rows``: few training rows, drawn from the seed evenly over labels or scores."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer
from ptuning.config.compose import compose
from ptuning.config.explain import explain
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.holdout import draw_rows
from ptuning.data.sources import SyntheticSource
from ptuning.data.tokenize import TokenTable
from ptuning.errors import ConfigError, DataError, UserError
from ptuning.results import collect, summarise
from ptuning.results.tables import column_names
from ptuning.runs.limits import part_of_data
from ptuning.runs.record import load_record
from ptuning.tasks.glue import TASKS
from support.records import record, seeds
from support.running import TINY, Train, run_in


def table(labels: list[int] | list[float]) -> TokenTable:
    """A table whose row ``i`` is the token ``i``."""
    rows = torch.arange(len(labels) + 1)
    return TokenTable(rows[:-1].int(), torch.zeros(len(labels)), rows, torch.tensor(labels), 0)


def drawn(labels: list[int] | list[float], count: int, seed: int = 1) -> list[int]:
    found = draw_rows(table(labels), count, seed, "rte").input_ids.tolist()
    assert len(set(found)) == len(found) == count
    assert found == sorted(found)
    return found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_each_class_has_its_share_to_within_a_row(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(labels)))
    rows = drawn(labels, count)
    for label in set(labels):
        share = count * labels.count(label) / len(labels)
        assert abs([labels[row] for row in rows].count(label) - share) <= 2


def test_scores_are_drawn_from_all_of_their_range() -> None:
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0)).tolist()
    found = sorted(scores[row] for row in drawn(scores, 10))
    ranked = sorted(scores)
    for number, score in enumerate(found):  # one of each tenth
        assert ranked[100 * number] <= score <= ranked[100 * number + 99]


def test_the_seed_decides_and_every_row_may_come() -> None:
    labels = [0, 1, 1] * 20
    assert drawn(labels, 9) == drawn(labels, 9) != drawn(labels, 9, seed=2)
    assert set().union(*(drawn(labels, 9, seed=seed) for seed in range(200))) == set(range(60))
    assert drawn(labels, 60) == list(range(60))


def test_what_is_held_out_is_a_tenth_of_the_rows_drawn_and_a_shared_store_keeps_train_whole() -> None:
    splits: dict[str, TokenTable] = {}
    source = SyntheticSource(TASKS["stsb"], {"train": 96, "validation": 20, "test": 10})
    given = {"splits": splits, "seed": 1}
    few = GlueDataModule(source, synthetic_tokenizer(), train_rows=40, select_on="holdout", **given)  # type: ignore[arg-type]
    few.setup("fit")
    assert (len(few.split("train")), len(few.split("holdout"))) == (36, 4)
    assert sum(len(batch["index"]) for batch in few.train_dataloader()) == 36
    assert len(GlueDataModule(source, synthetic_tokenizer(), **given).split("train")) == 96  # type: ignore[arg-type]


def test_a_run_on_few_rows_has_its_own_folder_and_says_so_wherever_its_number_shows(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, few = train("trainer.max_epochs=1"), train("trainer.max_epochs=1", "data.train_rows=24")
    assert "24 train (data.train_rows=24)" in capsys.readouterr().out
    assert "train_rows" not in whole.record["recipe"]
    assert few.path != whole.path
    assert (few.record["recipe"]["train_rows"], few.record["train_examples"]) == (24, 24)
    assert part_of_data(load_record(few.path / "record.json")) == "trained on 24 rows (data.train_rows)"
    cell = summarise(collect(tmp_path / "runs").runs)
    assert cell["part"].tolist() == [""]  # the whole run is shown
    assert "24 (1 seed" in cell["note"].item()
    assert "trained on 24 rows (data.train_rows)" in cell["note"].item()


def test_a_cached_prefix_keeps_to_the_rows(tmp_path: Path) -> None:
    common = (*TINY, "data.train_rows=24", "module=layernorm", "layers=1", "trainer.max_epochs=1", "optim.lr=1e-12")
    live = run_in(tmp_path, *common, "optim.head_lr=1e-12")
    cached = run_in(tmp_path, *common, "optim.head_lr=1e-12", "frozen_prefix=cache")
    assert cached.record["frozen_prefix"]["depth"] == 1
    assert cached.record["train_examples"] == live.record["train_examples"] == 24
    assert cached.record["score"] == pytest.approx(live.record["score"], abs=1e-6)


def test_custom_data_takes_few_rows_after_its_dev_rows_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"word {n},{'yes' if n % 3 else 'no'}\n" for n in range(60))
    )
    own = ("backbone=tiny", "task=custom", f"data.train={tmp_path / 'a.csv'}", "data.text=text", "logger=none")
    run = run_in(tmp_path, *own, "data.train_rows=12", "trainer.max_epochs=1", "trainer.accelerator=cpu")
    assert (run.record["train_examples"], run.record["validation_examples"]) == (12, {"validation": 6})


@pytest.mark.parametrize("rows", ["0", "-5", "1.5", "some"])
def test_a_number_that_is_none_is_one_sentence(rows: str) -> None:
    with pytest.raises(Exception, match="train_rows") as caught:
        compose([f"data.train_rows={rows}"])
    assert "data.train_rows" in str(explain(caught.value))


def test_more_rows_than_there_are_say_how_many_there_are(train: Train) -> None:
    with pytest.raises(
        DataError, match=r"data\.train_rows=97 is more than rte has to train on, 96 rows here: at most 96"
    ):
        train("data.train_rows=97", "module=layernorm")
    with pytest.raises(DataError, match="9 rows here"):
        train("data.train_rows=9", "data.select_on=holdout")


@pytest.mark.parametrize("key", ["limit_train", "max_train_samples", "data.num_train", "train_size"])
def test_what_other_programs_call_it_is_answered_with_the_key_that_does_it(key: str) -> None:
    with pytest.raises((ConfigError, UserError, Exception)) as caught:
        compose([f"{key}=500"])
    assert "Did you mean 'data.train_rows', so many rows of train" in str(explain(caught.value))


def test_tables_have_a_column_per_number_of_rows_and_claims_ask_none_of_them(tmp_path: Path) -> None:
    seeds(tmp_path, 0.8, 0.81)
    for rows in (1000, 300):
        record(tmp_path, score=0.7, train_rows=rows)
    cells = summarise(collect(tmp_path).runs)
    names = list(column_names(cells).values())
    assert [name.partition("(")[2].rstrip(")").partition(", ")[2] for name in names] == ["", "300 rows", "1,000 rows"]
    assert sorted(cells["part"]) == ["", *(f"trained on {rows} rows (data.train_rows)" for rows in ("1,000", "300"))]
