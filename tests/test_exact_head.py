"""``optim.head=exact``: the head alone is fitted by regression, without steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn
from torch.nn import functional

import ptuning
from ptuning.config.compose import compose
from ptuning.config.training_keys import changed_training_keys
from ptuning.data.tokenize import TokenTable
from ptuning.deltas.loading import load_run
from ptuning.deltas.predictor import Predictor
from ptuning.errors import ConfigError, RunError
from ptuning.inference.evaluation import evaluate
from ptuning.tasks.glue import TASKS
from ptuning.training.exact_head import PENALTIES, fit_exact_head, fit_linear, linear_head
from ptuning.training.plan import make_plan
from ptuning.training.rerun import rerun
from support.families import tiny
from support.running import GLUE, Run, needs_minilm, run_in

PLAIN = (
    *("backbone=tiny", "data=synthetic", "data.sizes.train=96", "data.sizes.validation=40", "logger=none"),
    *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false"),
)
HEAD = (*PLAIN, "module=frozen")
CPU = torch.device("cpu")


def rows_of(number: int, width: int = 6, classes: int = 0) -> tuple[Tensor, Tensor]:
    """Features far from the origin, on scales far apart, and labels that follow from them with noise."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(number, width, generator=generator)
    told = plain @ torch.randn(width, max(classes, 1), generator=generator)
    told += 0.5 * torch.randn(told.shape, generator=generator)
    features = plain * 10.0 ** torch.arange(-2, width - 2) + 5.0
    return features, told.argmax(1) if classes else told[:, 0] + 3.0


def test_ridge_is_scikit_learns_on_standardised_features() -> None:
    x, y = rows_of(200)
    fit = fit_linear(x, y, TASKS["stsb"], seed=1)
    values = x.double().numpy()
    scaled = (values - values.mean(0)) / values.std(0)
    other = Ridge(alpha=fit.penalty * 200).fit(scaled, y.double().numpy())
    np.testing.assert_allclose(fit.logits(x)[:, 0], other.predict(scaled), rtol=1e-4)
    assert fit.penalty in PENALTIES
    assert fit.loss == pytest.approx(float(((fit.logits(x)[:, 0] - y) ** 2).mean()), rel=1e-3)


def optimum_of(x: Tensor, y: Tensor, penalty: float) -> tuple[np.ndarray, LogisticRegression]:
    """Standardised features, and scikit-learn's logistic regression on them by another solver than ours."""
    values = x.double().numpy()
    scaled = (values - values.mean(0)) / values.std(0)
    model = LogisticRegression(C=1 / (penalty * len(y)), solver="newton-cg", max_iter=10_000, tol=1e-10)
    return scaled, model.fit(scaled, y)


@pytest.mark.parametrize(("task", "classes"), [("mrpc", 2), ("mnli", 3)])
def test_logistic_regression_is_scikit_learns_and_its_loss_the_cross_entropy(task: str, classes: int) -> None:
    x, y = rows_of(300, classes=classes)
    fit = fit_linear(x, y, TASKS[task], seed=1)
    scaled, other = optimum_of(x, y, fit.penalty)
    probabilities = fit.logits(x).softmax(-1)
    np.testing.assert_allclose(probabilities, other.predict_proba(scaled), atol=1e-4)
    assert fit.loss == pytest.approx(float(functional.cross_entropy(fit.logits(x), y)), rel=1e-3)
    assert float((fit.logits(x).argmax(1) == y).float().mean()) > 0.8


def nearly_dependent_rows(number: int, classes: int) -> tuple[Tensor, Tensor]:
    """Features that are nearly dependent, as hidden states are, where the smallest penalty is best and its fit flat."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    plain = torch.randn(number, 16, generator=generator)
    told = plain @ torch.randn(16, classes, generator=generator) / 4
    told += 0.3 * torch.randn(told.shape, generator=generator)
    return (plain * torch.logspace(0, -3, 16)) @ basis + 1.0, told.argmax(1)


@pytest.mark.parametrize(("task", "classes", "newton"), [("mrpc", 2, True), ("mrpc", 2, False), ("mnli", 3, True)])
def test_the_optimum_of_a_small_penalty_is_reached(
    task: str, classes: int, newton: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not newton:
        monkeypatch.setattr("ptuning.training.exact_head._NEWTON_WORK", 0)
    x, y = nearly_dependent_rows(600, classes)
    fit = fit_linear(x, y, TASKS[task], seed=1)
    assert fit.penalty == PENALTIES[0]
    scaled, other = optimum_of(x, y, fit.penalty)
    np.testing.assert_allclose(fit.logits(x).softmax(-1), other.predict_proba(scaled), atol=1e-2)
    best = float(functional.cross_entropy(torch.from_numpy(other.predict_log_proba(scaled)), y))
    assert fit.loss == pytest.approx(best, abs=1e-5)
    assert not caplog.records


def test_a_fit_that_ends_short_of_its_optimum_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ptuning.training.exact_head._SLOPE", 0.0)
    fit_linear(*rows_of(100, classes=2), TASKS["mrpc"], seed=1)
    assert "ended short of its optimum at penalty 10 (slope " in caplog.text


def test_rows_few_or_of_one_class_and_constant_features_have_a_fit() -> None:
    x, y = rows_of(3, classes=2)
    for labels in (y, torch.ones(3, dtype=torch.int64)):
        assert fit_linear(x, labels, TASKS["mrpc"], seed=1).logits(x).isfinite().all()
    one_class = fit_linear(*[value.repeat_interleave(10, 0) for value in (x, torch.ones(3).long())], TASKS["mnli"], 1)
    assert one_class.logits(x).argmax(1).tolist() == [1, 1, 1]
    same = torch.full((20, 4), 0.1)
    assert fit_linear(same, torch.arange(20.0), TASKS["stsb"], 1).logits(same)[:, 0].tolist() == pytest.approx(
        [9.5] * 20
    )


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
def test_a_head_of_one_linear_layer_is_fitted_on_what_it_reads(family: str) -> None:
    model: Any = tiny(family)
    tokens = TokenTable(
        torch.randint(5, 60, (12 * 6,)),
        torch.zeros(12 * 6, dtype=torch.int64),
        torch.arange(13) * 6,
        torch.arange(12) % 2,
        0,
    )
    fit = fit_exact_head(model, TASKS["rte"], tokens, 4, 1, CPU, list)
    batch = tokens[range(12)]
    with torch.no_grad():
        logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert float(functional.cross_entropy(logits, batch["labels"])) == pytest.approx(fit.loss, abs=1e-4)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2", "mpnet"])
def test_a_head_with_a_dense_layer_of_its_own_is_trained(family: str) -> None:
    assert linear_head(tiny(family)) is None
    typed = [*HEAD, f"++backbone.config.model_type={family}"]
    assert not make_plan(compose(typed)).fits_exactly
    with pytest.raises(ConfigError, match="takes a head of one linear layer"):
        make_plan(compose([*typed, "optim.head=exact"]))


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.max_epochs=2",
        "trainer.max_steps=5",
        "optim.lr=0.001",
        "optim.warmup=0.1",
        "task.max_epochs=2",
        "module.chosen.frozen.head_learning_rate=0.001",
        "+callbacks.early._target_=lightning.pytorch.callbacks.Timer",
        "optim.head=trained",
    ],
)
def test_a_key_of_training_that_was_typed_trains_the_head(typed: str) -> None:
    plan = make_plan(compose([*HEAD, typed]))
    assert not plan.fits_exactly
    assert "head" not in plan.recipe()["optimisation"]
    if typed != "optim.head=trained":
        with pytest.raises(ConfigError, match=r"optim.head=exact fits without steps, so that .* would say nothing"):
            make_plan(compose([*HEAD, typed, "optim.head=exact"]))


def test_the_head_alone_is_exact_by_itself_and_in_the_recipe_only_then() -> None:
    assert not changed_training_keys(compose(["module=frozen", "task=custom", "data.train=x.csv"]))
    exact = make_plan(compose(HEAD)).recipe()
    assert exact["optimisation"] == {"head": "exact"}
    same = (*("optim.head=exact", "frozen_prefix=cache", "trainer.gradient_clip_val=1.0", "attention_dropout=0.3"),)
    assert all(make_plan(compose([*HEAD, typed])).recipe() == exact for typed in same)
    spelled = ("limit_train_batches=1.0", "min_epochs=1", "gradient_clip_algorithm=norm", "num_sanity_val_steps=2")
    logs = "+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    assert make_plan(compose([*HEAD, *(f"trainer.{one}" for one in spelled), logs])).recipe() == exact
    moving = make_plan(compose([*PLAIN, "module=layernorm"])).recipe()
    assert moving == make_plan(compose([*PLAIN, "module=layernorm", "optim.head=trained"])).recipe()
    assert moving["optimisation"].keys() == {"lr", "head_lr", "weight_decay", "warmup", "schedule", "betas", "eps"}
    with pytest.raises(ConfigError, match=r"goes with module=frozen only. Leave it out, or type optim.head=trained"):
        make_plan(compose([*PLAIN, "module=layernorm", "optim.head=exact"]))


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_in(tmp_path_factory.mktemp("runs"), *HEAD, "task=stsb", "data.select_on=holdout")


def test_a_run_with_an_exact_head_leaves_what_every_run_leaves(exact: Run, capsys: pytest.CaptureFixture[str]) -> None:
    record = exact.record
    assert record["status"] == "finished"
    assert record["optimisation"]["head"] == "exact"
    assert record["optimisation"]["penalty"] in PENALTIES
    assert len(record["history"]) == 1
    assert record["best"]["holdout_score"] is not None
    assert "max_epochs" not in record
    assert not (exact.path / "last.ckpt").exists()
    found = evaluate(Predictor(load_run(exact.path)))
    assert found.score == pytest.approx(record["score"], abs=1e-6)
    model, _ = ptuning.load(exact.path)
    assert isinstance(model.classifier, nn.Linear)
    capsys.readouterr()
    again = run_in(exact.path.parents[4], *HEAD, "task=stsb", "data.select_on=holdout")
    assert again.path == exact.path
    assert "finished earlier" in capsys.readouterr().out


def test_a_rerun_has_the_same_bits_and_an_earlier_versions_head_is_trained(exact: Run, tmp_path: Path) -> None:
    assert rerun(exact.path, tmp_path / "again").is_same
    trained = run_in(tmp_path, *HEAD, "task=rte", "optim.head=trained", "module.chosen.frozen.max_epochs=1")
    assert "head" not in trained.record["recipe"]["optimisation"]
    assert rerun(trained.path, tmp_path.parent / "reruns").is_same


def test_the_mean_has_an_exact_head_too(tmp_path: Path) -> None:
    run = run_in(tmp_path, *HEAD, "task=mrpc", "pooling=mean")
    assert evaluate(Predictor(load_run(run.path))).score == pytest.approx(run.record["score"], abs=1e-6)


def test_vectors_that_are_no_numbers_are_one_sentence() -> None:
    model: Any = tiny("bert")
    with torch.no_grad():
        model.bert.pooler.dense.bias[0] = torch.nan
    tokens = TokenTable(torch.full((8,), 5), torch.zeros(8).long(), torch.arange(5) * 2, torch.arange(4) % 2, 0)
    with pytest.raises(RunError, match="vectors are not finite numbers"):
        fit_exact_head(model, TASKS["rte"], tokens, 4, 1, CPU, list)


@pytest.mark.slow
@needs_minilm
@pytest.mark.skipif(not GLUE.is_dir(), reason="GLUE's files are not here")
@pytest.mark.parametrize(("task", "score"), [("stsb", 49.6), ("mrpc", 75.9)])
def test_the_head_alone_on_real_files(task: str, score: float, tmp_path: Path) -> None:
    run = run_in(
        tmp_path, "backbone=minilm", "data=local", f"data.dir={GLUE}", f"task={task}", "module=frozen", "logger=none"
    )
    assert 100 * run.record["score"] == pytest.approx(score, abs=1.5)
