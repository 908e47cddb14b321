"""How sure the results are: intervals, paired tests, corrections and resampled scores, against scipy and by hand."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ptuning.results.bootstrap import RESAMPLES, Answers, difference, draw, read_answers, resample, score
from ptuning.results.crossed import crossed_difference
from ptuning.results.statistics import (
    BETTER,
    BOOTSTRAP,
    COMPARABLE,
    T_SEEDS,
    UNDECIDED,
    WORSE,
    Difference,
    correct,
    from_bootstrap,
    holm,
    paired_t,
    t_interval,
)
from ptuning.tasks import metrics
from ptuning.tasks.glue import TASKS, Task
from ptuning.training.callbacks import write_predictions
from ptuning.training.module import Predictions

TRAINED = [name for name, task in TASKS.items() if task.trains]
OURS = [0.71, 0.69, 0.73, 0.70, 0.72]
FULL = [0.70, 0.70, 0.72, 0.71, 0.70]


def paired_bootstrap(
    task: Task, ours: Mapping[str, Answers], reference: Mapping[str, Answers], resamples: int = RESAMPLES
) -> Difference | None:
    return difference(resample(task, ours, resamples), resample(task, reference, resamples))


def test_the_interval_of_one_to_five_by_hand() -> None:
    # mean 3, s = sqrt(10 / 4), t(4, 0.975) = 2.776445: 3 ± 2.776445 · sqrt(2.5 / 5)
    assert t_interval([1, 2, 3, 4, 5]) == pytest.approx((1.036757, 4.963243), abs=1e-6)
    assert all(math.isnan(end) for end in t_interval([0.7]))


def test_the_interval_is_scipys() -> None:
    expected = stats.ttest_1samp(OURS, 0).confidence_interval(0.95)
    assert t_interval(OURS) == pytest.approx((expected.low, expected.high))


def test_paired_differences_by_hand() -> None:
    # differences 1, 3, 2 (points): mean 2, s = 1, error = 1 / sqrt(3), t(2, 0.95) = 2.919986
    found = paired_t([0.71, 0.73, 0.72], [0.70, 0.70, 0.70])
    assert found.estimate == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - 0.01 * 2.919986 / 3**0.5, 0.02 + 0.01 * 2.919986 / 3**0.5))
    # Student's t with 2 degrees of freedom: P(T > t) = 1/2 - t / (2 sqrt(2 + t²)), here at t = 3 sqrt(3) and 2 sqrt(3)
    assert found.p_not_worse == pytest.approx(0.5 - 27**0.5 / (2 * 29**0.5))
    assert found.p_better == pytest.approx(0.5 - 12**0.5 / (2 * 14**0.5))
    assert (found.pairs, found.method) == (3, T_SEEDS)


def test_paired_differences_are_scipys() -> None:
    found = paired_t(OURS, FULL, margin=0.015)
    expected = stats.ttest_rel(OURS, FULL).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    shifted = np.array(OURS) + 0.015
    assert found.p_not_worse == pytest.approx(stats.ttest_rel(shifted, FULL, alternative="greater").pvalue)
    assert found.p_worse == pytest.approx(stats.ttest_rel(shifted, FULL, alternative="less").pvalue)
    assert found.p_better == pytest.approx(stats.ttest_rel(OURS, FULL, alternative="greater").pvalue)


def test_equal_differences_leave_no_doubt_and_one_pair_is_refused() -> None:
    found = paired_t([0.70, 0.60], [0.70, 0.60])
    assert (found.low, found.estimate, found.high) == (0, 0, 0)
    assert found.verdict == COMPARABLE
    assert paired_t([0.60, 0.50], [0.70, 0.60]).verdict == WORSE
    exactly = paired_t([0.80, 0.82], [0.81, 0.83])  # a point below, and no more
    assert (exactly.verdict, exactly.p_worse) == (UNDECIDED, 1.0)
    with pytest.raises(ValueError, match="two pairs"):
        paired_t([0.7], [0.6])


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.002, -0.003, 0.001, 0.0], COMPARABLE),
        ([-0.004, -0.005, -0.006, -0.005], COMPARABLE),  # surely below, and surely by less than a point
        ([0.02, 0.021, 0.019, 0.02], BETTER),
        ([-0.03, -0.031, -0.029, -0.03], WORSE),
        ([-0.03, 0.02, -0.01, 0.01], UNDECIDED),
        ([-0.01, -0.011, -0.009, -0.01], UNDECIDED),
    ],
)
def test_the_verdict_is_read_off_the_margin(differences: list[float], verdict: str) -> None:
    found = paired_t(np.array(differences) + 0.5, np.full(4, 0.5))
    assert found.verdict == verdict
    # Without a correction the verdict is the place of the interval, since each end is what its test asks about.
    assert (found.low > -0.01) == (verdict in (COMPARABLE, BETTER))
    assert (found.high < -0.01) == (verdict == WORSE)
    assert (found.low > 0) == (verdict == BETTER)


def test_a_wider_margin_makes_more_comparable() -> None:
    ours, full = [0.680, 0.682, 0.678], [0.70, 0.70, 0.70]
    assert [paired_t(ours, full, margin).verdict for margin in (0.01, 0.02, 0.03)] == [WORSE, UNDECIDED, COMPARABLE]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_bare_value_and_bonferronis_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for bare, after in zip(p_values, adjusted, strict=True):
        assert bare <= after <= min(1.0, bare * len(p_values)) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
    assert min(adjusted) == pytest.approx(min(1.0, min(p_values) * len(p_values)))


def test_more_comparisons_ask_for_more_evidence() -> None:
    one = Difference(0.0, -0.009, 0.009, T_SEEDS, 3, 0.04, 0.96, 0.5)
    assert one.verdict == COMPARABLE
    assert {found.verdict for found in correct([one, one])} == {UNDECIDED}
    assert (one.low, one.high) == (correct([one, one])[0].low, correct([one, one])[0].high)


def test_the_95_percent_interval_covers_the_mean_in_95_percent_of_simulations() -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(0.7, 0.02, size=(4000, 5))
    inside = [low < 0.7 < high for low, high in map(t_interval, samples)]
    assert 0.93 <= np.mean(inside) <= 0.97


def test_the_bootstrap_interval_covers_the_difference_in_90_percent_of_simulations() -> None:
    generator, task = np.random.default_rng(1), TASKS["rte"]
    inside, labels = [], np.zeros(300)
    for _ in range(800):
        # Two runs that are right in 80 % and 75 % of the examples, mostly the same ones.
        shared = generator.random(300)
        pair = []
        for rate in (0.80, 0.75):
            wrong = np.where(generator.random(300) < 0.7, shared, generator.random(300)) > rate
            pair.append({"validation": Answers(labels, np.stack([~wrong, wrong], 1).astype(np.float64))})
        found = paired_bootstrap(task, pair[0], pair[1], resamples=400)
        assert found is not None
        inside.append(found.low <= 0.05 <= found.high)
    assert 0.88 <= np.mean(inside) <= 0.92


def answers(task: Task, rows: int, skill: float, seed: int) -> Answers:
    """Labels, the same for every seed, and answers that follow them more or less."""
    labels, noise = np.random.default_rng(99), np.random.default_rng(seed)
    if task.is_regression:
        true = labels.integers(0, 26, rows) / 5
        return Answers(true, (skill * true + noise.normal(0, 1, rows)).round(1)[:, None])
    true = labels.integers(task.num_outputs, size=rows).astype(np.float64)
    right = true[:, None] == np.arange(task.num_outputs)
    return Answers(true, noise.normal(size=(rows, task.num_outputs)) + skill * right)


@pytest.mark.parametrize("name", TRAINED)
def test_a_resampled_score_is_the_score_of_the_resampled_rows(name: str) -> None:
    task = TASKS[name]
    run = answers(task, 60, 1.0, seed=1)
    counts = draw(np.random.default_rng(2), 20, 60)
    assert (counts.sum(1) == 60).all()
    for row, found in zip(counts, score(task, [run], counts)[0], strict=True):
        rows = np.repeat(np.arange(60), row.astype(int))
        labels = torch.tensor(run.labels[rows])
        labels = labels if task.is_regression else labels.long()
        expected = metrics.score(task, metrics.evaluate(task, torch.tensor(run.logits[rows]), labels))
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb"])
def test_a_score_that_is_not_defined_is_zero_as_in_training(name: str) -> None:
    task, rows = TASKS[name], 8
    constant = np.zeros((rows, task.num_outputs))
    labels = np.zeros(rows) if name == "mrpc" else np.arange(rows) % 2 * 1.0
    found = score(task, [Answers(labels, constant), Answers(labels, constant * np.nan)], np.ones((1, rows)))
    label_tensor = torch.tensor(labels) if task.is_regression else torch.tensor(labels).long()
    for logits, value in zip((constant, constant * np.nan), found[:, 0], strict=True):
        expected = metrics.score(task, metrics.evaluate(task, torch.tensor(logits), label_tensor))
        assert value == pytest.approx(expected, abs=1e-6)


def test_the_paired_bootstrap_is_scipys() -> None:
    task = TASKS["rte"]
    ours, full = (answers(task, 400, skill, seed) for skill, seed in ((1.0, 1), (1.4, 2)))
    found = paired_bootstrap(task, {"validation": ours}, {"validation": full}, resamples=4000)
    right = [(run.logits.argmax(1) == run.labels).astype(float) for run in (ours, full)]
    expected = stats.bootstrap(
        right,
        lambda a, b, axis=-1: a.mean(axis) - b.mean(axis),
        paired=True,
        confidence_level=0.90,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(3),
    )
    assert found is not None
    assert (found.method, found.pairs) == (BOOTSTRAP, 400)
    assert found.estimate == pytest.approx(right[0].mean() - right[1].mean())
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.005)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.005)
    assert found.p_better == pytest.approx((1 + (expected.bootstrap_distribution <= 0).sum()) / 4001, abs=0.02)


def test_bootstrap_p_values_by_hand() -> None:
    found = from_bootstrap(0.01, [-0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06], 1000)
    assert (found.p_not_worse, found.p_worse, found.p_better) == pytest.approx((0.3, 1, 0.4))


@pytest.mark.parametrize(("rows", "verdict"), [(4, UNDECIDED), (277, UNDECIDED), (400, COMPARABLE)])
def test_equal_answers_on_few_rows_do_not_exclude_that_others_differ(rows: int, verdict: str) -> None:
    task, labels = TASKS["rte"], np.arange(rows) % 2
    same = resample(task, {"validation": Answers(labels.astype(float), np.eye(2)[labels])})
    found = difference(same, same)
    assert found is not None
    assert found.verdict == verdict
    assert (1 - found.high) ** rows == pytest.approx(0.05)  # the rule of three
    assert found.low == -found.high
    assert found.p_not_worse == pytest.approx(max(0.99**rows, 1 / 2001))
    assert crossed_difference([0.0, 0.0], same.drawn - same.drawn, rows, 0.001).verdict == UNDECIDED


@pytest.mark.parametrize("rows", [50, 277, 408])
def test_seeds_that_fall_on_one_step_of_few_rows_are_not_surely_better(rows: int) -> None:
    generator = np.random.default_rng(1)
    equals = [np.round(generator.normal(0, 1.5, (13, 2))) / rows for _ in range(200)]
    families = [correct([paired_t(one, np.zeros(2), rows=rows) for one in many]) for many in equals]
    assert sum(any(one.verdict == BETTER for one in family) for family in families) <= 0.05 * len(families)
    bare = [correct([paired_t(one, np.zeros(2)) for one in many]) for many in equals]
    assert sum(any(one.verdict == BETTER for one in family) for family in bare) > 0.3 * len(families)


def test_without_a_margin_equals_are_not_worse() -> None:
    assert crossed_difference([0.0, 0.0], np.zeros(100), 1000, 0.0).verdict == UNDECIDED


def test_comparisons_that_could_not_be_read_count_in_the_family() -> None:
    one = Difference(0.0, -0.009, 0.009, T_SEEDS, 3, 0.02, 0.98, 0.5)
    assert [found.p_not_worse for found in correct([one], 5)] == pytest.approx([0.1])


def test_a_bootstrap_is_the_same_every_time_and_several_dev_sets_count_alike() -> None:
    task = TASKS["mnli"]
    ours, full = (
        {split: answers(task, rows, skill, seed) for split, rows in zip(task.validation, (40, 90), strict=True)}
        for skill, seed in ((1.0, 1), (1.5, 2))
    )
    found = paired_bootstrap(task, ours, full)
    assert found == paired_bootstrap(task, ours, full)
    assert found is not None
    means = [np.mean([(r.logits.argmax(1) == r.labels).mean() for r in run.values()]) for run in (ours, full)]
    assert found.estimate == pytest.approx(means[0] - means[1])
    assert found.pairs == 130


def test_runs_on_other_examples_are_not_paired() -> None:
    task = TASKS["rte"]
    run = answers(task, 30, 1.0, 1)
    assert paired_bootstrap(task, {"validation": run}, {"validation": Answers(1 - run.labels, run.logits)}) is None
    assert paired_bootstrap(task, {"validation": run}, {"validation": answers(task, 31, 1.0, 1)}) is None


def test_kept_predictions_are_read_in_the_datas_order_or_not_at_all(tmp_path: Path) -> None:
    task = TASKS["mrpc"]
    assert read_answers(tmp_path, task) == "validation.parquet is not there"
    file = tmp_path / "predictions" / "validation.parquet"
    write_predictions(file, Predictions(torch.tensor([2, 0, 1]), torch.eye(3)[:, :2], torch.tensor([1, 0, 1])))
    found = read_answers(tmp_path, task)
    assert isinstance(found, dict)
    assert found["validation"].labels.tolist() == [0, 1, 1]
    assert found["validation"].logits.tolist() == [[0, 1], [0, 0], [1, 0]]
    file.write_bytes(b"half a file")
    assert "damaged" in read_answers(tmp_path, task)
