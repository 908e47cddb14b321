"""Recovery, intervals over seeds and dev examples, and how many more seeds: by hand, against SciPy, and simulated."""

import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ptuning.cli.main import main
from ptuning.results import collect, summarise
from ptuning.results.bootstrap import Answers, resample
from ptuning.results.comparison_tables import comparison_tables
from ptuning.results.comparisons import Comparer, against_full
from ptuning.results.crossed import CROSSED, crossed_difference, crossed_interval
from ptuning.results.examples import Examples
from ptuning.results.more_seeds import MORE_COLUMNS, deviation_interval, how_many_more, say_more, seeds_needed
from ptuning.results.recovery import BOTH, EXAMPLES, SEEDS, fieller, recover
from ptuning.results.statistics import COMPARABLE, UNDECIDED, WORSE, Difference, paired_t
from ptuning.results.tables import module_tables
from ptuning.runs.predictions import keep_predictions
from ptuning.tasks.glue import TASKS
from support.records import record, seeds
from support.running import ROOT

ROWS = 400
NORMAL = np.random.default_rng(5).normal(size=20_000)
"""What was drawn: 90 % of it lies within 1.645 deviations."""
ENDLESS = 10**9
"""Dev rows, so many that their steps and what they do not show count for nothing."""


def run(runs: Path, module: str, seed: int, right: np.ndarray, **given: object) -> Path:
    """Write a record with its predictions, label 0 everywhere, and the accuracy that they have."""
    folder = record(runs, module=module, seed=seed, score=float(right.mean()), **given)
    labels = np.zeros(len(right), int)
    keep_predictions(folder / "predictions" / "validation.parquet", np.arange(len(right)), labels, np.eye(2)[1 - right])
    return folder


def right(share: float, seed: int) -> np.ndarray:
    """Answers, 1 where right: hard examples are the same ones for all runs, and each run has its own luck."""
    hard = np.random.default_rng(7).normal(size=ROWS)
    luck = 0.3 * np.random.default_rng(seed).normal(size=ROWS)
    return (hard + luck < stats.norm.ppf(share) * math.hypot(1, 0.3)).astype(int)


# Fieller


def test_fiellers_interval_is_every_ratio_that_a_t_test_lets_stand() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(0.02, 0.005, size=(3, 6)) + np.array([[0.8], [0.6], [0.85]])
    found = recover(scores)
    assert found is not None
    above, below = scores[0] - scores[1], scores[2] - scores[1]
    assert found.estimate == pytest.approx(above.mean() / below.mean())
    assert found.over == SEEDS
    for end in (found.low, found.high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05)
    assert stats.ttest_1samp(above - found.estimate * below, 0).pvalue > 0.99


def test_fiellers_interval_by_hand() -> None:
    # (3 - 4r)² = 1 + r², as both means have a squared half-width of 1: 15r² - 24r + 8 = 0
    assert fieller(3, 4, np.eye(2)) == pytest.approx(((24 - 96**0.5) / 30, (24 + 96**0.5) / 30))
    # Without doubt about the denominator it is the numerator's interval, divided.
    assert fieller(3, 4, np.diag([1.0, 0.0])) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("below", [-4.0, 0.0, 0.9, 1.0])
def test_there_is_no_recovery_where_full_fine_tuning_is_not_surely_above_the_head(below: float) -> None:
    assert fieller(3, below, np.eye(2)) is None
    assert fieller(3, 1.1, np.eye(2)) is not None


def test_recovery_counts_examples_too_and_with_one_seed_them_alone() -> None:
    scores = np.array([[0.80, 0.81, 0.79], [0.60, 0.61, 0.60], [0.85, 0.85, 0.86]])
    drawn = scores.mean(1, keepdims=True) + 0.01 * np.random.default_rng(1).normal(size=(3, 2000))
    bare, both, one = recover(scores), recover(scores, drawn), recover(scores[:, :1], drawn)
    assert bare
    assert both
    assert one
    assert (bare.over, both.over, one.over) == (SEEDS, BOTH, EXAMPLES)
    assert both.low < bare.low < bare.estimate == both.estimate < bare.high < both.high
    assert recover(scores[:, :1]) is None
    # The interval of one seed is the percentile interval of the resampled ratio, as the denominator is far from 0.
    ratios = (drawn[0] - drawn[1]) / (drawn[2] - drawn[1])
    shift = one.estimate - float(np.median(ratios))
    expected = np.quantile(ratios, [0.025, 0.975]) + shift
    assert (one.low, one.high) == pytest.approx(tuple(expected), abs=0.01)


def test_fiellers_interval_covers_the_ratio_in_95_percent_of_simulations() -> None:
    generator, inside, shown = np.random.default_rng(2), 0, 0
    for _ in range(1500):
        common = generator.normal(0, 0.01, size=5)
        scores = np.array([[0.78], [0.60], [0.84]]) + common + generator.normal(0, 0.02, size=(3, 5))
        if found := recover(scores):
            shown, inside = shown + 1, inside + (found.low <= 0.75 <= found.high)
    assert shown > 1450
    assert 0.935 <= inside / shown <= 0.965


def test_tables_show_recovery_between_the_head_alone_and_full_fine_tuning(tmp_path: Path) -> None:
    seeds(tmp_path, 0.80, 0.81, 0.82, module="full")
    seeds(tmp_path, 0.60, 0.61, 0.63, module="frozen")
    seeds(tmp_path, 0.75, 0.76, 0.775)
    seeds(tmp_path, 0.70, module="bias")
    seeds(tmp_path, 0.59, 0.95, 0.63, module="full", task="cola")
    seeds(tmp_path, 0.60, 0.61, 0.63, module="frozen", task="cola")
    seeds(tmp_path, 0.60, 0.64, 0.66, task="cola")
    summary = summarise(collect(tmp_path).runs)
    cells = {(row["task"], row["module"]): row for row in summary.to_dict("records")}
    shown = cells["rte", "layernorm"]
    assert shown["recovery"] == pytest.approx(0.445 / 0.59)
    assert shown["recovery_low"] < shown["recovery"] < shown["recovery_high"]
    assert {place for place, row in cells.items() if not math.isnan(row["recovery"])} == {("rte", "layernorm")}
    (table,) = module_tables(summary)
    text = {str(row[0]): [str(cell) for cell in row] for row in table.rows}["layernorm"]
    assert text[-1].endswith("(75 [74, 77])")
    assert "recovery: percent of the way from the head alone (frozen) to full" in table.caption


@pytest.mark.parametrize("other", [{"precision": "bf16-mixed"}, {"data": "sha256:other"}, {"select_on": "holdout"}])
def test_a_head_that_is_not_alike_is_no_head_to_recover_from(tmp_path: Path, other: dict[str, str]) -> None:
    seeds(tmp_path, 0.80, 0.81, 0.82, module="full")
    seeds(tmp_path, 0.60, 0.61, 0.63, module="frozen", **other)
    seeds(tmp_path, 0.75, 0.76, 0.775)
    summary = summarise(collect(tmp_path).runs)
    assert summary["recovery"].isna().all()
    assert set(summary["head_recipe"]) - {""} <= set(summary["recipe"])


# Seeds and examples


def test_the_crossed_interval_adds_half_widths_as_squares() -> None:
    scores = [0.70, 0.72, 0.74]
    low, high = crossed_interval(scores, 0.72 + 0.01 * NORMAL, ENDLESS, level=0.95)
    over_seeds = stats.t.ppf(0.975, 2) * 0.02 / math.sqrt(3)
    assert (low + high) / 2 == pytest.approx(0.72)
    assert (high - low) / 2 == pytest.approx(math.hypot(over_seeds, 1.96 * 0.01), rel=0.01)


def test_without_scatter_over_examples_the_crossed_test_is_the_t_test_and_without_scatter_over_seeds_it_is_normal() -> (
    None
):
    differences = np.array([-0.004, 0.006, 0.001, 0.003])
    bare, expected = crossed_difference(differences, np.zeros(100), ENDLESS), paired_t(differences, np.zeros(4))
    for name in ("estimate", "low", "high", "p_not_worse", "p_worse", "p_better"):
        assert getattr(bare, name) == pytest.approx(getattr(expected, name), abs=1e-6)
    assert bare.method == CROSSED
    even = crossed_difference(np.full(4, -0.002), 0.01 * NORMAL, ENDLESS)
    assert even.p_better == pytest.approx(stats.norm.sf(-0.2), abs=0.01)
    assert even.p_not_worse == pytest.approx(stats.norm.sf(0.8), abs=0.01)


@pytest.mark.parametrize("shift", [-0.05, -0.02, -0.01, 0.0, 0.004, 0.02])
def test_the_crossed_p_value_is_the_place_of_the_interval(shift: float) -> None:
    found = crossed_difference(np.array([0.002, -0.002, 0.001]) + shift, 0.004 * NORMAL, ENDLESS)
    assert (found.p_not_worse <= 0.05) == (found.low >= -0.01)
    assert (found.p_worse <= 0.05) == (found.high <= -0.01)
    assert (found.p_better <= 0.05) == (found.low >= 0)
    assert found.p_worse == pytest.approx(1 - found.p_not_worse)


def test_resamples_of_the_mean_over_seeds_hold_the_same_examples_and_two_dev_sets_are_drawn_apart(
    tmp_path: Path,
) -> None:
    answers = [right(0.8, seed) for seed in (1, 2)]
    folders = [run(tmp_path, "full", seed, one).relative_to(tmp_path) for seed, one in enumerate(answers)]
    found = Examples(tmp_path).mean([str(folder) for folder in folders], "rte")
    both = np.mean(answers, axis=0)  # the mean's variance over examples has their covariance in it
    assert found.drawn.std() == pytest.approx(both.std() / math.sqrt(ROWS), rel=0.05)
    mnli, labels = TASKS["mnli"], np.zeros(300)
    one = Answers(labels, np.eye(3)[(np.random.default_rng(3).random(300) < 0.3).astype(int)])
    apart = resample(mnli, dict.fromkeys(mnli.validation, one))
    together = one.logits[:, 0].std() / math.sqrt(300)
    assert apart.drawn.std() == pytest.approx(together / math.sqrt(2), rel=0.05)


def folder_of_runs(runs: Path, unread: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the summary and the comparisons of runs of five modules, one of them of one seed."""
    for module, share in (("full", 0.85), ("frozen", 0.6), ("layernorm", 0.82), ("bias", 0.845)):
        for seed in (1, 2, 3):
            place = run(runs, module, seed, right(share, 10 * seed + len(module)))
            if module == unread and seed == 2:
                (place / "predictions" / "validation.parquet").unlink()
    run(runs, "query", 1, right(0.7, 50))
    table, examples = collect(runs).runs, Examples(runs)
    summary = summarise(table, examples)
    return summary, against_full(Comparer(runs, table, examples=examples), summary)


def test_verdicts_come_twice_and_without_predictions_the_one_of_the_seeds_remains(tmp_path: Path) -> None:
    summary, comparisons = folder_of_runs(tmp_path, unread="bias")
    table, cells = comparisons.set_index("module"), summary.set_index("module")
    norms = table.loc["layernorm"]
    assert norms["low_task"] < norms["low"] < norms["difference"] < norms["high"] < norms["high_task"]
    assert table.loc["frozen", ["verdict", "verdict_task"]].tolist() == [WORSE, WORSE]
    assert table.loc["bias", "verdict_task"] == "not enough runs"
    assert "validation.parquet is not there" in table.loc["bias", "why_task"]
    assert math.isnan(table.loc["bias", "low_task"])
    one = table.loc["query"]
    assert (one["low"], one["verdict"]) == (one["low_task"], one["verdict_task"])
    assert cells["interval_over"].to_dict() == {
        **dict.fromkeys(("full", "frozen", "layernorm"), BOTH),
        "bias": SEEDS,
        "query": EXAMPLES,
    }
    assert cells.loc["layernorm", "low_task"] < cells.loc["layernorm", "low"]
    assert "validation.parquet is not there" in cells.loc["bias", "interval_why"]
    assert cells.loc[["layernorm", "bias", "query"], "recovery_over"].tolist() == [BOTH, SEEDS, EXAMPLES]
    shown = {str(row[0]): str(row[-1]) for row in module_tables(summary)[0].rows}
    assert "] seeds" in shown["bias"]
    assert "] examples" in shown["query"]
    ((_, compared),) = comparison_tables(comparisons)
    texts = {row[0]: row for row in compared.rows}
    assert str(texts["query"][5]) == "one seed"
    assert texts["query"][-1].endswith("seeds not in it")
    assert "validation.parquet is not there" in compared.caption


def test_no_predictions_are_read_twice_and_none_by_the_table_in_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptuning.results import bootstrap

    opened: list[Path] = []
    real = bootstrap.read_predictions
    monkeypatch.setattr(bootstrap, "read_predictions", lambda path: opened.append(path) or real(path))
    folder_of_runs(tmp_path)
    assert len(opened) == len(set(opened)) == 13
    opened.clear()
    main(["results", str(tmp_path)])
    shown = capsys.readouterr().out
    assert not opened
    assert "on this dev set" in shown
    assert "on the task" not in shown
    assert "ptuning report compares by dev examples" in shown


# How many more


def exact_power(pairs: int, effect: float, level: float) -> float:
    return float(stats.nct.sf(stats.t.isf(level, pairs - 1), pairs - 1, effect * math.sqrt(pairs)))


@pytest.mark.parametrize(("points", "family", "needed"), [(0.7, 1, 5), (1.07, 5, 15), (1.01, 5, 14), (1.5, 1, 16)])
def test_the_number_of_seeds_is_the_least_with_80_percent_power(points: float, family: int, needed: int) -> None:
    assert seeds_needed(1 / points, 0.05 / family) == needed
    assert exact_power(needed, 1 / points, 0.05 / family) >= 0.8 > exact_power(needed - 1, 1 / points, 0.05 / family)


def test_past_thirty_seeds_none_are_counted() -> None:
    assert seeds_needed(1 / 1.90, 0.01) is None
    assert seeds_needed(0.0) is None
    assert seeds_needed(math.inf) == 2


def test_the_interval_of_a_deviation_is_that_of_chi_square() -> None:
    low, high = deviation_interval(1.0, 3)
    # P(χ² < x) = 1 - exp(-x / 2) with two degrees of freedom: 0.2 at x = 0.446, 0.8 at 3.219
    assert (low, high) == pytest.approx((math.sqrt(2 / (-2 * math.log(0.2))), math.sqrt(2 / (-2 * math.log(0.8)))))


def undecided(seen: float, scatter: float = 0.0) -> tuple[Difference, Difference]:
    """Three pairs with a deviation of 1 point around a difference, and the same with scatter over examples."""
    sample = np.array([-0.01, 0.0, 0.01]) + seen
    return paired_t(sample, np.zeros(3)), crossed_difference(sample, scatter * NORMAL, ENDLESS)


def test_what_is_undecided_needs_seeds_for_the_difference_seen_and_for_none() -> None:
    here, _ = undecided(0.005)
    assert here.verdict == UNDECIDED
    more = how_many_more(here, None, 1, 0.01)
    ends = deviation_interval(0.01, 3)
    assert more.seen == tuple(max(1, (seeds_needed(0.015 / one) or 99) - 3) for one in ends)
    assert more.equal == tuple((seeds_needed(0.01 / one) or 99) - 3 for one in ends)
    assert more.task is more.scatter is None
    wider = how_many_more(here, None, 10, 0.01)
    assert (wider.seen or ())[0] > (more.seen or ())[0]  # a family asks for more
    on_the_margin = how_many_more(undecided(-0.01)[0], None, 1, 0.01)
    assert on_the_margin.seen == (None, None)


def test_no_number_of_seeds_decides_what_the_dev_sets_own_scatter_leaves_open() -> None:
    here, task = undecided(0.0, scatter=0.01)
    more = how_many_more(here, task, 1, 0.01)
    assert more.scatter == pytest.approx(0.01645, rel=0.02)
    assert more.margin == pytest.approx(more.scatter)
    assert more.rows == pytest.approx((more.scatter / 0.01) ** 2)
    assert more.task is None
    endless = Difference(0.0, -more.scatter, more.scatter, CROSSED, 10_000, 0.2, 0.8, 0.5)
    assert endless.low < -0.01  # with seeds without end
    few = how_many_more(*undecided(0.0, scatter=0.003), 1, 0.01)
    assert few.scatter is None
    assert (few.task or ())[0] >= (few.equal or ())[0]


def test_what_is_decided_needs_nothing_and_one_seed_tells_no_number() -> None:
    sure = paired_t([0.7, 0.7001, 0.6999], [0.7, 0.7, 0.7])
    assert sure.verdict == COMPARABLE
    assert all(map(math.isnan, how_many_more(sure, None, 1, 0.01).columns((3, 3, 3), (1, 1)).values()))
    one = Difference(0.0, -0.02, 0.02, "bootstrap over dev examples", 300, 0.2, 0.8, 0.5)
    assert how_many_more(one, one, 1, 0.01).seen is None


def test_the_cost_is_that_of_the_runs_that_are_missing(tmp_path: Path) -> None:
    seeds(tmp_path, *np.linspace(0.80, 0.81, 8), module="full", seconds={"train": 50.0, "total": 60.0})
    for seed, score in ((1, 0.795), (2, 0.810), (3, 0.795)):
        record(tmp_path, seed=seed, score=score, seconds={"train": 5.0, "total": 6.0})
    runs = collect(tmp_path).runs
    (row,) = against_full(Comparer(tmp_path, runs), summarise(runs)).to_dict("records")
    assert row["verdict"] == UNDECIDED
    low, high = row["more_low"], row["more_high"]
    # Full fine-tuning has five seeds to spare.
    expected = [6.0 * more + 60.0 * max(0, more - 5) for more in (low, high)]
    assert [row["more_seconds_low"], row["more_seconds_high"]] == pytest.approx(expected)
    assert {"more_low", "dev_scatter"} <= set(MORE_COLUMNS)
    ((_, table),) = comparison_tables(against_full(Comparer(tmp_path, runs), summarise(runs)))
    assert say_more(low, high, tuple(expected)) in table.rows[0][6]
    assert "Choose the number first" in table.caption


def test_tables_say_which_end_an_undecided_verdict_has(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        run(tmp_path, "full", seed, right(0.80, seed))
        run(tmp_path, "bias", seed, np.roll(right(0.80, seed), 100))  # other examples are hard for it
    run(tmp_path, "query", 1, np.roll(right(0.80, 1), 50))
    runs = collect(tmp_path).runs
    ((_, table),) = comparison_tables(against_full(Comparer(tmp_path, runs), summarise(runs)))
    ends = {row[0]: row[-1] for row in table.rows}
    assert re.fullmatch(r"undecided, no number of seeds: ±\d\.\d; margin \d\.\d or [\d.]+ × dev", ends["bias"])
    assert "No number of seeds: the dev set's own scatter" in table.caption
    assert [row[6] for row in table.rows if row[0] == "query"] == ["first a second seed"]
    assert say_more(4, math.inf) == "4 to past 30"
    assert say_more(math.inf, math.inf) == "past 30"


# Simulated


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import interval_coverage

    return interval_coverage


@pytest.mark.parametrize("mix", ["seeds", "examples", "both"])
def test_the_crossed_interval_covers_the_truth_whatever_scatters(mix: str, simulation: ModuleType) -> None:
    covered = simulation.coverage(simulation.MIXES[mix], 3, repetitions=300, examples=150, resamples=300, seed=1)
    assert 0.93 <= covered["crossed"] <= 1
    assert min(covered.values()) < 0.9  # of the others each fails somewhere


def test_at_the_number_of_seeds_four_of_five_comparisons_are_decided(simulation: ModuleType) -> None:
    for points, family in ((0.7, 1), (1.07, 5)):
        total = seeds_needed(1 / points, 0.05 / family)
        assert total is not None
        assert 0.75 <= simulation.decided(points / 100, total, family, 400) <= 0.87
