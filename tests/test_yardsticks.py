"""``ptuning yardsticks``: constant answer, untrained cosine and linear probes, as records beside those of modules."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from ptuning.cli.main import main
from ptuning.config.compose import compose
from ptuning.errors import RunError
from ptuning.inference.glue_submission import choose_entries
from ptuning.inference.yardsticks import Measured, _Measuring, _thresholds, measure_yardsticks
from ptuning.results import collect, read_results, summarise
from ptuning.results.tables import module_tables
from ptuning.runs.predictions import read_predictions
from ptuning.runs.record import load_record
from ptuning.training.plan import make_plan
from ptuning.training.rerun import rerun
from support.running import GLUE, TINY, needs_minilm, run_in

SMALL = (*TINY, "trainer.enable_progress_bar=false")


def measured(runs: Path, *overrides: str) -> dict[str, Measured]:
    config = compose([*SMALL, "module=frozen", *overrides, f"runs_dir={runs}"])
    return {found.record.module: found for found in measure_yardsticks(config)}


@dataclass(frozen=True)
class Beside:
    """A folder of runs with two modules and yardsticks."""

    runs: Path
    yardsticks: dict[str, Measured]


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Beside:
    runs = tmp_path_factory.mktemp("runs")
    for module in ("full", "layernorm", "frozen"):
        run_in(runs, *SMALL, "task=mrpc", f"module={module}")
    return Beside(runs, measured(runs, "task=mrpc"))


def test_every_yardstick_is_a_finished_run_with_predictions_and_its_score(beside: Beside) -> None:
    assert list(beside.yardsticks) == ["constant", "cosine", "probe_cls", "probe_mean"]
    for name, found in beside.yardsticks.items():
        record = load_record(found.folder / "record.json")
        assert (record.kind, record.module, record.status, record.trainable_parameters) == (
            "yardstick",
            name,
            "finished",
            0,
        )
        answers = read_predictions(found.folder / "predictions" / "validation.parquet")
        assert answers.labels is not None
        classes = answers.logits.argmax(1)
        own = (accuracy_score(answers.labels, classes) + f1_score(answers.labels, classes)) / 2
        assert record.score == pytest.approx(own)
    assert beside.yardsticks["probe_cls"].record.head_parameters == 2 * 32 + 2
    assert beside.yardsticks["constant"].record.head_parameters == 0


def test_the_constant_answer_is_the_class_that_scores_best_on_train(beside: Beside) -> None:
    answers = read_predictions(beside.yardsticks["constant"].folder / "predictions" / "validation.parquet")
    assert (answers.logits.argmax(1) == 1).all()  # whose F1 is not 0


def test_what_was_measured_is_found_and_force_measures_it_again(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    again = measured(beside.runs, "task=mrpc", "module=layernorm", "optim.lr=0.1")  # which change no yardstick
    assert all(found.earlier for found in again.values())
    assert {found.folder for found in again.values()} == {found.folder for found in beside.yardsticks.values()}
    (again["constant"].folder / "predictions" / "validation.parquet").unlink()
    assert [name for name, found in measured(beside.runs, "task=mrpc").items() if not found.earlier] == ["constant"]
    main(["yardsticks", *SMALL, "task=mrpc", f"runs_dir={beside.runs}"])
    assert capsys.readouterr().out.count("finished earlier") == 4


def test_nothing_below_zero_is_shown_as_minus_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "task=rte", f"runs_dir={tmp_path}"]
    main(["yardsticks", *words])
    (file,) = tmp_path.glob("*/rte/cosine/*/*/record.json")
    values = json.loads(file.read_text())
    del values["sha256"]
    values["score"] = values["best"]["score"] = values["best"]["accuracy"] = -0.0003
    file.write_text(json.dumps(values))
    capsys.readouterr()
    main(["yardsticks", *words])
    assert "cosine        0.0 (synthetic data)  (accuracy 0.0)\n" in capsys.readouterr().out


def test_tables_have_yardsticks_below_the_modules_and_claims_have_none(beside: Beside) -> None:
    (table,) = module_tables(summarise(collect(beside.runs).runs))
    names = ["layernorm", "full", "frozen", "constant", "cosine", "probe_cls", "probe_mean"]
    assert [row[0] for row in table.rows] == names
    results = read_results(beside.runs)
    assert set(results.comparisons["module"]) == {"layernorm", "frozen"}
    assert "probe" not in json.dumps([claim.table.rows for claim in results.claims])
    assert set(results.runs["kind"]) == {"", "yardstick"}


def test_a_yardstick_is_not_sent_to_glue_nor_trained_again(beside: Beside, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can be sent to GLUE"):
        choose_entries(beside.runs)
    with pytest.raises(RunError, match="is a yardstick, which trains nothing"):
        rerun(beside.yardsticks["cosine"].folder, tmp_path)


def test_regression_and_single_sentences_have_theirs(tmp_path: Path) -> None:
    stsb = measured(tmp_path, "task=stsb")
    assert stsb["constant"].record.score == 0
    assert stsb["cosine"].record.head_parameters == 0
    assert set(measured(tmp_path, "task=cola")) == {"constant", "probe_cls", "probe_mean"}
    nli = measured(tmp_path, "task=mnli")
    assert set(nli) == {"constant", "cosine", "probe_cls", "probe_mean"}
    assert nli["cosine"].record.validation_examples == {"validation_matched": 40, "validation_mismatched": 40}


@pytest.mark.parametrize(("cosines", "labels"), [([0.1, 0.2, 0.3, 0.4], [0, 1, 1, 0]), ([0.5] * 4, [1, 1, 1, 0])])
def test_the_threshold_is_the_one_that_scores_best_on_train(cosines: list[float], labels: list[int]) -> None:
    train = torch.tensor(cosines)[:, None]
    measuring = _Measuring(make_plan(compose([*TINY, "task=mrpc"])))
    for answers in (torch.tensor(labels), 1 - torch.tensor(labels)):
        found = measuring._threshold(train, answers).logits(train).argmax(1)
        splits = [torch.arange(4) >= cut for cut in range(5)] if len(set(cosines)) > 1 else [torch.ones(4).bool()]
        best = max(_mrpc(classes.long(), answers) for split in splits for classes in (split, ~split))
        assert _mrpc(found, answers) == pytest.approx(best)


def test_thresholds_lie_between_all_values_or_at_2000_quantiles_and_one_below() -> None:
    assert _thresholds(torch.tensor([3.0, 1.0, 2.0, 1.0])).tolist() == [0.0, 1.5, 2.5]
    many = torch.rand(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = _thresholds(many)
    assert len(found) == 2001
    assert found[0] < many.min() == found[1]


def _mrpc(answers: torch.Tensor, labels: torch.Tensor) -> float:
    return float(accuracy_score(labels, answers) + f1_score(labels, answers, zero_division=0)) / 2


def test_a_held_out_tenth_stays_out_of_every_fit(tmp_path: Path) -> None:
    found = measured(tmp_path, "task=mrpc", "data.select_on=holdout")
    assert {one.record.train_examples for one in found.values()} == {86}
    assert {one.record.select_on for one in found.values()} == {"holdout"}


@pytest.mark.slow
@needs_minilm
@pytest.mark.skipif(not GLUE.is_dir(), reason="GLUE's files are not here")
def test_the_untrained_cosine_of_real_sentences(tmp_path: Path) -> None:
    real = ("backbone=minilm", "data=local", f"data.dir={GLUE}", "task=stsb", "module=frozen", f"runs_dir={tmp_path}")
    cosine = next(one for one in measure_yardsticks(compose(real)) if one.record.module == "cosine")
    assert 100 * (cosine.record.score or 0) == pytest.approx(86.8, abs=0.1)
