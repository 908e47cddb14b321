"""Precision: one answer through every door, decided where the job computes, and folders that earlier versions left."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet
from transformers import AutoModelForSequenceClassification

import ptuning
import ptuning.acceleration.precision
import ptuning.training.run
from ptuning.acceleration.precision import PINNED, choose_precision
from ptuning.backbones.load import input_names
from ptuning.config.compose import compose
from ptuning.data.sources import SyntheticSource
from ptuning.data.table import Table
from ptuning.data.tokenize import tokenize
from ptuning.deltas.export import export
from ptuning.deltas.format import read_delta
from ptuning.deltas.loading import load_run
from ptuning.deltas.predictor import Predictor
from ptuning.errors import ConfigError
from ptuning.inference.evaluation import evaluate
from ptuning.inference.stream import predict_rows
from ptuning.runs.folder import find_run
from ptuning.training.plan import make_plan
from support.callbacks import ctrl_c_at, stopped
from support.commands import TypeIt
from support.families import ANY_FAMILY, ENCODERS, QUICK, TEXTS, typed
from support.running import Run, Train, run_in

DOORS = [
    *((family, "bf16-mixed") for family in ENCODERS),
    *(pytest.param(family, "bf16-mixed", marks=pytest.mark.slow) for family in TEXTS[len(ENCODERS) :]),
    *(("bert", precision) for precision in ("32-true", "bf16-true", "64-true")),
    *((family, "bf16-true") for family in ("modernbert", "deberta-v2", "distilbert")),
]
TYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}


def stored(run: Run) -> torch.Tensor:
    """Return the logits [rows, outputs] that a run keeps of its dev set."""
    table = parquet.read_table(run.path / "predictions/validation.parquet")
    return torch.tensor(table["logits"].to_pylist())


def dev_set(run: Run) -> Table:
    source = SyntheticSource(load_run(run.path).task, run.record["config"]["data"]["sizes"], 0)
    return source.read("validation")


@pytest.mark.parametrize(("family", "precision"), DOORS)
def test_record_evaluate_predict_load_and_export_give_the_same_logits(
    family: str, precision: str, tmp_path: Path
) -> None:
    run = run_in(
        tmp_path, *ANY_FAMILY, *QUICK, *typed(family), "task=stsb", "module=layernorm", f"trainer.precision={precision}"
    )
    logits, table = stored(run), dev_set(run)
    assert run.record["precision"] == precision
    if precision != "bf16-true":  # whose last layer rounds this tiny model to few scores
        assert logits.unique(dim=0).shape[0] > 8

    loaded = load_run(run.path)
    assert loaded.model.dtype == TYPES.get(precision, torch.float32)
    predictor = Predictor(loaded)
    again, labels = predictor.answer_split(
        SyntheticSource(loaded.task, run.record["config"]["data"]["sizes"]), "validation"
    )
    assert torch.equal(again, logits)  # one process, one shape
    assert labels is not None
    assert labels.tolist() == parquet.read_table(run.path / "predictions/validation.parquet")["label"].to_pylist()
    assert evaluate(predictor).score == run.record["score"]

    (answers,) = predict_rows(predictor, enumerate(zip(*table.texts, strict=True)))
    told = torch.tensor([json.loads(line)["value"] for line in answers])
    torch.testing.assert_close(told, logits[:, 0], atol=1e-5, rtol=0)

    model, tokenizer = ptuning.load(run.path)
    export(loaded, "hf", tmp_path / "exported")
    exported: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported").eval()
    tokens = tokenize(table, tokenizer, loaded.max_length, None)
    batch = tokens[range(len(tokens))]
    inputs = {name: batch[name] for name in input_names(model)}
    with torch.no_grad():
        for one in (model, exported):
            torch.testing.assert_close(one(**inputs).logits.float(), logits, atol=1e-5, rtol=0)


def test_labels_are_not_rounded_and_what_moved_keeps_the_type_of_the_weights(train: Train) -> None:
    run = train("task=stsb", "module=bias", "trainer.precision=bf16-true", "data.sizes.train=32")
    labels = parquet.read_table(run.path / "predictions/validation.parquet")["label"].to_pylist()
    assert labels == pytest.approx(list(dev_set(run).labels or ()), abs=1e-6)
    values, _ = read_delta(run.path)
    assert {value.dtype for value in values.values()} == {torch.bfloat16}
    with pytest.raises(ptuning.UserError, match=r"was trained in torch\.bfloat16"):
        ptuning.load("random:tiny", deltas={"stsb": run.path})


def test_behind_a_cached_prefix_evaluation_is_fp32_too(train: Train) -> None:
    common = ("module=layernorm", "layers=1", "frozen_prefix=cache", "task=stsb")
    run = train(*common, "trainer.precision=bf16-mixed")
    logits, _ = Predictor(load_run(run.path)).answer_split(
        SyntheticSource(load_run(run.path).task, run.record["config"]["data"]["sizes"]), "validation"
    )
    torch.testing.assert_close(logits, stored(run), atol=1e-5, rtol=0)


# Where the precision is decided


def folder(runs_dir: Path, *overrides: str) -> Path:
    plan = make_plan(compose([*ANY_FAMILY, f"runs_dir={runs_dir}", *overrides]))
    return find_run(runs_dir, plan.backbone.label, plan.recipe())[0].path


def test_auto_has_one_folder_whatever_the_machine_and_the_record_says_what_it_became(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PINNED, "bf16-mixed")
    run = train("task=rte", "module=frozen")
    assert run.record["precision"] == "bf16-mixed"
    assert run.record["recipe"]["trainer"]["precision"] == "auto"
    monkeypatch.setenv(PINNED, "32-true")
    again = train("task=rte", "module=frozen")
    assert again.path == run.path
    assert again.record == run.record  # finished: shown, not trained again
    assert train("task=rte", "module=frozen", "trainer.precision=32").path != run.path


def test_an_interrupted_run_goes_on_in_the_precision_of_its_record(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PINNED, "bf16-mixed")
    command = (*ANY_FAMILY, *QUICK, "task=rte", "module=layernorm", "data.sizes.train=32")
    whole = run_in(tmp_path / "whole", *command)
    with stopped():
        run_in(tmp_path / "cut", *command, ctrl_c_at(1))
    monkeypatch.setenv(PINNED, "32-true")
    cut = run_in(tmp_path / "cut", *command, ctrl_c_at(1))
    assert cut.record["precision"] == "bf16-mixed"
    assert cut.record["history"] == whole.record["history"]


@pytest.mark.parametrize("became", ["32-true", "bf16-mixed", "16-mixed"])
def test_folders_of_earlier_versions_are_found_the_first_is_taken_and_others_are_named(
    became: str, tmp_path: Path, type_it: TypeIt
) -> None:
    runs = tmp_path / "runs"
    common = (*ANY_FAMILY, *QUICK, "task=rte", "module=frozen", f"runs_dir={runs}")
    typed_out = folder(runs, *QUICK, "task=rte", "module=frozen", f"trainer.precision={became}")
    auto = folder(runs, *QUICK, "task=rte", "module=frozen")
    assert typed_out != auto
    made = run_in(runs, *common[:-1], "trainer.precision=bf16-mixed" if became != "32-true" else "trainer.precision=32")
    if made.path != typed_out:
        made.path.rename(typed_out)  # a 16-mixed run is made on a GPU alone; its folder's name is what counts here
    assert folder(runs, *QUICK, "task=rte", "module=frozen") == typed_out
    said = type_it(*common)
    assert said.code == 0
    assert "finished earlier" in said.out
    if became != "16-mixed":
        return
    first = run_in(runs, *common[:-1], "trainer.precision=32")
    said = type_it(*common)
    assert first.path.name in said.out.splitlines()[-2]
    assert typed_out.name in said.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("overrides", "mend"),
    [
        (("trainer.accelerator=gpu",), "trainer.accelerator=auto"),
        (("trainer.accelerator=cuda",), "trainer.accelerator=auto"),
        (("trainer.accelerator=mps",), "trainer.accelerator=auto"),
        (("trainer.precision=16-mixed",), "trainer.precision=bf16-mixed or 32"),
        (("trainer.precision=16-true",), "16-mixed or bf16-true"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
def test_what_this_machine_lacks_is_planned_for_others_and_refused_where_it_would_compute(
    overrides: tuple[str, ...], mend: str, tmp_path: Path, type_it: TypeIt
) -> None:
    tiny = [word for word in ANY_FAMILY if not word.startswith("trainer.accelerator")]
    common = (*tiny, *QUICK, "task=rte", "module=frozen", f"runs_dir={tmp_path}", *overrides)
    if "16-true" not in mend and overrides != ("trainer.precision=16-true",):
        planned = type_it(*common, "dry_run=true")
        assert planned.code == 0, planned.err
        assert "1 to run" in planned.out
    said = type_it(*common)
    assert said.code == 2
    assert mend in said.err
    assert len(said.err.splitlines()) == 1


def test_auto_follows_the_hardware_and_a_machine_can_be_told_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PINNED, raising=False)
    units = {"_is_avx512_bf16_supported": False, "_is_amx_tile_supported": False}
    for name in units:
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert choose_precision("auto", "cpu") == choose_precision("auto", "mps") == "32-true"
    for name in units:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, name, lambda: True)
            assert choose_precision("auto", "cpu") == "bf16-mixed"
    for capability, expected in (((9, 0), "bf16-mixed"), ((8, 0), "bf16-mixed"), ((7, 5), "16-mixed")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert choose_precision("auto", "cuda") == expected
    monkeypatch.setenv(PINNED, "bf16")
    assert choose_precision("auto", "cpu") == "bf16-mixed"
    assert choose_precision("32-true", "cpu") == "32-true"  # what was typed stays
    monkeypatch.setenv(PINNED, "12")
    with pytest.raises(ConfigError, match="12 is not known"):
        choose_precision("auto", "cpu")
