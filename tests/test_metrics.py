"""Scores equal those of scikit-learn and SciPy, and have a value where a formula has none."""

import logging
import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ptuning.tasks.glue import TASKS
from ptuning.tasks.metrics import evaluate, score

TWO, THREE, SCORES = TASKS["cola"], TASKS["ax"], TASKS["stsb"]
MRPC, MNLI = TASKS["mrpc"], TASKS["mnli"]

SIX = 5e-7  # equal to six decimals


def logits_of(classes: Sequence[int], width: int, seed: int = 0) -> torch.Tensor:
    """Random logits whose largest is that of the given class, [rows, width]."""
    noise = torch.rand(len(classes), width, generator=torch.Generator().manual_seed(seed))
    return noise + 2 * torch.nn.functional.one_hot(torch.tensor(classes), width)


def sklearn(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "accuracy": float(accuracy_score(labels, predictions)),
            "f1": float(f1_score(labels, predictions)) if max(*labels, *predictions) < 2 else math.nan,
            "matthews": float(matthews_corrcoef(labels, predictions)),
        }


def rows(classes: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    each = st.integers(0, classes - 1)
    return st.lists(st.tuples(each, each), min_size=1, max_size=60)


def assert_equals_sklearn(pairs: list[tuple[int, int]], classes: int) -> None:
    labels, predictions = (list(column) for column in zip(*pairs, strict=True))
    expected = sklearn(labels, predictions)
    for task in (TWO, MRPC) if classes == 2 else (THREE, MNLI):
        got = evaluate(task, logits_of(predictions, classes), torch.tensor(labels))

        assert set(got) == set(task.metrics)
        assert got == pytest.approx({name: expected[name] for name in got}, abs=SIX)


@settings(deadline=None)
@given(pairs=rows(2))
def test_two_classes_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    assert_equals_sklearn(pairs, 2)


@settings(deadline=None)
@given(pairs=rows(3))
def test_three_classes_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    assert_equals_sklearn(pairs, 3)


@pytest.mark.parametrize(("wrong", "rare"), [(1, 2), (3, 5), (40, 60)])
def test_a_rare_class_among_many_rows_equals_scikit_learn(wrong: int, rare: int) -> None:
    labels = np.zeros(200_000, dtype=int)
    labels[:rare] = 1
    predictions = labels.copy()
    predictions[:wrong] = 0
    predictions[-wrong:] = 1

    got = evaluate(TWO, torch.nn.functional.one_hot(torch.tensor(predictions), 2).float(), torch.tensor(labels))

    assert got["matthews"] == pytest.approx(matthews_corrcoef(labels, predictions), abs=SIX)
    assert got["accuracy"] == pytest.approx(accuracy_score(labels, predictions), abs=SIX)


number = st.floats(-1e6, 1e6, allow_nan=False, width=32)
few = st.integers(-3, 3).map(float)  # many ties


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(number | few, few | number), min_size=2, max_size=60))
def test_correlations_equal_scipy_ties_included(pairs: list[tuple[float, float]]) -> None:
    predictions, labels = (np.array(column) for column in zip(*pairs, strict=True))
    # Where the values hardly differ beside their size SciPy itself loses the digits that are compared here.
    assume(all(np.ptp(v) > 1e-6 * max(np.abs(v).max(), 1e-30) and np.ptp(v) > 1e-30 for v in (predictions, labels)))

    got = evaluate(SCORES, torch.tensor(predictions)[:, None], torch.tensor(labels))

    assert got["pearson"] == pytest.approx(pearsonr(predictions, labels).statistic, abs=SIX)
    assert got["spearman"] == pytest.approx(spearmanr(predictions, labels).statistic, abs=SIX)


@pytest.mark.parametrize("rows", [2, 3, 10, 1500])
@pytest.mark.parametrize("seed", range(5))
def test_single_precision_far_from_zero_loses_nothing_against_double(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.round(random.uniform(0, 5, rows) * 4).astype(np.float32) / 4
    labels[:2] = 0, 5
    predictions = (1000 + 1e-3 * (labels + random.normal(size=rows))).astype(np.float32)
    predictions[1] += 1e-3

    got = evaluate(SCORES, torch.from_numpy(predictions)[:, None], torch.from_numpy(labels))

    double = predictions.astype(np.float64), labels.astype(np.float64)
    assert got["pearson"] == pytest.approx(pearsonr(*double).statistic, abs=SIX)
    assert got["spearman"] == pytest.approx(spearmanr(*double).statistic, abs=SIX)


def test_perfect_and_opposite_correlations_are_exactly_one() -> None:
    values = torch.linspace(0.1, 4.7, 37)
    for sign in (1.0, -1.0):
        got = evaluate(SCORES, sign * values[:, None], values)

        assert got["spearman"] == pytest.approx(sign, abs=1e-12)
        assert got["pearson"] == pytest.approx(sign, abs=1e-12)
        assert max(map(abs, got.values())) <= 1


@pytest.mark.parametrize(
    ("labels", "predictions", "undefined"),
    [
        ([1, 1, 1], [1, 1, 1], {"matthews"}),
        ([0, 0, 0], [0, 0, 0], {"matthews", "f1"}),
        ([0, 0, 0], [1, 1, 1], {"matthews"}),
        ([1, 1, 1], [0, 1, 0], {"matthews"}),
        ([0, 1, 0], [1, 1, 1], {"matthews"}),
        ([0, 1, 0], [0, 0, 0], {"matthews"}),
        ([1], [1], {"matthews"}),
        ([0], [1], {"matthews"}),
        ([0], [0], {"matthews", "f1"}),
        ([0, 1], [1, 0], set()),
    ],
)
def test_one_class_only_has_scikit_learns_value_and_a_warning(
    labels: list[int], predictions: list[int], undefined: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected = sklearn(labels, predictions)
    for task, metric in ((TWO, "matthews"), (MRPC, "f1")):
        caplog.clear()

        got = evaluate(task, logits_of(predictions, 2), torch.tensor(labels))

        assert got == pytest.approx({name: expected[name] for name in got}, abs=SIX)
        warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert [text.startswith(f"{metric} is undefined") for text in warned] == [True] * (metric in undefined)


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [([2.5, 2.5, 2.5], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]), ([2.5, 2.5], [1.0, 1.0]), ([3.0], [3.0])],
    ids=["constant predictions", "constant labels", "both", "one row"],
)
def test_a_correlation_without_a_value_is_0_and_says_so(
    predictions: list[float], labels: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    got = evaluate(SCORES, torch.tensor(predictions)[:, None], torch.tensor(labels))

    assert got == {"pearson": 0.0, "spearman": 0.0}
    assert [record.message.split()[0] for record in caplog.records] == ["pearson", "spearman"]
    assert score(SCORES, got) == 0


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_logits_that_are_not_finite_score_0_and_say_so(
    name: str, value: float, everywhere: bool, caplog: pytest.LogCaptureFixture
) -> None:
    task = TASKS[name]
    labels = torch.tensor([0, 1, 0, 1])
    logits = torch.ones(4, task.num_outputs) * torch.tensor([[0.5], [1.0], [0.25], [2.0]])
    logits[slice(None) if everywhere else slice(1, 2)] = value

    got = evaluate(task, logits, labels.double() if task.is_regression else labels)

    assert got == dict.fromkeys(task.metrics, 0.0)
    assert "not finite" in caplog.text


def test_the_score_is_glues_number_of_the_task() -> None:
    assert score(TASKS["cola"], {"matthews": 0.5, "accuracy": 0.9}) == 0.5
    assert score(TASKS["mrpc"], {"accuracy": 0.8, "f1": 0.9}) == pytest.approx(0.85)
    assert score(TASKS["qqp"], {"accuracy": 0.8, "f1": 0.6}) == pytest.approx(0.7)
    assert score(TASKS["stsb"], {"pearson": 0.7, "spearman": 0.8}) == pytest.approx(0.75)
    for name in ("sst2", "mnli", "qnli", "rte", "wnli"):
        assert score(TASKS[name], {"accuracy": 0.625}) == 0.625


def test_half_precision_logits_are_scored_as_the_numbers_they_are() -> None:
    predictions = torch.tensor([0.1, 2.0, 3.3, 4.9], dtype=torch.bfloat16)
    labels = torch.tensor([0.0, 2.5, 3.0, 5.0])

    got = evaluate(SCORES, predictions[:, None], labels)

    assert got["pearson"] == pytest.approx(pearsonr(predictions.double().numpy(), labels.double().numpy()).statistic)
