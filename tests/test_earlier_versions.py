"""What version 0.1.0 left on disk: run folders are found, records and deltas loaded, checkpoints gone on with."""

import shutil
from pathlib import Path

import pytest
import torch
from pyarrow import parquet

import ptuning
from ptuning.deltas.format import read_delta
from ptuning.deltas.loading import load_run
from ptuning.deltas.predictor import Predictor
from ptuning.inference.evaluation_data import evaluation_source
from ptuning.results import read_results
from support.running import ROOT, run_in

WRITTEN = ROOT / "tests" / "fixtures" / "written_by_0.1.0"
COMMON = ("backbone=tiny", "logger=none", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu")
SYNTHETIC = (*COMMON, "task.batch_size=16", "data=synthetic", "data.sizes.train=64", "data.sizes.validation=24")
RUNS = {
    "rte/layernorm/all": (*SYNTHETIC, "task=rte", "module=layernorm", "trainer.max_epochs=2"),
    "stsb/query/all,top=10%": (*SYNTHETIC, "task=stsb", "module=query", "subset=top:10%", "trainer.max_epochs=1"),
    "mnli/layernorm/1": (
        *SYNTHETIC,
        *("task=mnli", "module=layernorm", "layers=1", "frozen_prefix=cache", "trainer.max_epochs=1"),
    ),
    "train/bias/all": (
        *COMMON,
        *("task.batch_size=16", "task=custom", "data.train=train.csv", "data.text=text", "module=bias"),
        "trainer.max_epochs=1",
    ),
}
INTERRUPTED = (*SYNTHETIC, "task=mrpc", "module=layernorm", "trainer.max_epochs=2")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the fixtures, in which the test stands."""
    shutil.copytree(WRITTEN, tmp_path / "runs")
    for beside in ("train.csv", "whole"):
        shutil.move(tmp_path / "runs" / beside, tmp_path / beside)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize("place", RUNS)
def test_a_finished_run_is_found_loaded_and_scored_as_it_was(place: str, written: Path) -> None:
    (folder,) = (written / "tiny" / place).iterdir()
    record = (folder / "record.json").read_bytes()
    run_in(written, *RUNS[place])
    assert (folder / "record.json").read_bytes() == record  # found, and not trained again
    assert not (folder / "last.ckpt").exists()
    predictor = Predictor(load_run(folder))
    source = evaluation_source(predictor.loaded, predictor.task, predictor.task.is_custom, (), None)
    for file in (folder / "predictions").iterdir():
        logits, _ = predictor.answer_split(source, file.stem)
        kept = torch.tensor(parquet.read_table(file)["logits"].to_pylist())
        torch.testing.assert_close(logits, kept, atol=1e-4, rtol=0)  # another processor rounds otherwise


def test_an_interrupted_run_goes_on_to_the_weights_of_an_undisturbed_one(written: Path) -> None:
    (folder,) = (written / "tiny/mrpc/layernorm/all").iterdir()
    run = run_in(written, *INTERRUPTED)
    assert run.path == folder
    assert run.record["status"] == "finished"
    whole, _ = read_delta(WRITTEN / "whole")
    for name, value in read_delta(folder)[0].items():
        torch.testing.assert_close(value, whole[name], atol=1e-4, rtol=1e-3)  # another processor rounds otherwise


def test_its_records_make_tables_and_a_stack(written: Path) -> None:
    results = read_results(written)
    assert len(results.collected.runs) == 5
    assert len(results.summary) == 4  # one was interrupted
    stack = ptuning.load("random:tiny", deltas={"rte": next((written / "tiny/rte/layernorm/all").iterdir())})
    assert stack.current == "rte"
