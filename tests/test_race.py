"""A race: its rules against cases worked by hand, and races of the tiny BERT through the command."""

import io
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats

from ptuning.config.schema import RaceConfig
from ptuning.results.race_bounds import SEEDS, nominal_levels, scatter
from ptuning.results.race_rules import FAILED, IN, OUT, PAUSED, REFUSED, SCORE, Race, RaceRules
from ptuning.runs.ranking import RankedModule
from ptuning.sweeps.race import RaceState, default_margin, told_apart
from ptuning.sweeps.race_order import fisher_of
from ptuning.sweeps.race_runs import HeldOut, RaceRun, RaceRuns
from ptuning.sweeps.race_screen import show_answer
from support.commands import TypeIt
from support.running import TINY
from support.sweeps import records, typed

RULES = RaceRules(margin=0.01, alpha=0.05)


def race_of(means: Sequence[float], noise: float, rules: RaceRules = RULES, seed: int = 1) -> Race:
    """A race to its end: weights in the order of the means (in points), scores drawn around them."""
    scores = drawn(means, noise, seed)
    race = Race(range(len(means)), rules)
    while turns := race.turns():
        race.end_round({one: scores[one, number - 1] for one, number in turns})
    return race


def drawn(means: Sequence[float], noise: float, seed: int = 1) -> Any:
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal(SEEDS)
    own = generator.standard_normal((len(means), SEEDS))
    return (np.array(means)[:, None] + noise * own + shared) / 100


# Bounds


def test_one_seed_puts_nobody_out_and_all_levels_together_spend_alpha() -> None:
    race = Race([1, 2, 3], RULES)
    race.end_round({0: 0.1, 1: 0.5, 2: 0.9})
    assert race.status == [IN] * 3
    walks = np.random.default_rng(1).standard_normal((40_000, SEEDS)).cumsum(axis=1) / np.sqrt(np.arange(1, SEEDS + 1))
    crossed = (walks[:, 1:] > stats.norm.isf(nominal_levels(0.05)[1:])).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=0.004)
    assert nominal_levels(0.05)[1] == pytest.approx(0.05 * (2 / SEEDS) ** 0.75, rel=1e-2)


def test_the_scatter_is_that_of_a_two_way_table_and_of_one_that_scatters_more_its_own() -> None:
    scores = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 4.0]])
    # Less candidates' means (2, 2, 2) and seeds' effects (-1, +1): residuals 0, 0; 1, -1; -1, 1. 4 over 2 x 1.
    variance, freedom = scatter(scores)
    assert variance == pytest.approx([2.0] * 3)
    assert freedom == pytest.approx([2.0] * 3)
    generator = np.random.default_rng(3)
    wild = generator.standard_normal((6, 12))
    wild[4] *= 5
    variance, freedom = scatter(wild)
    assert variance[4] > 8
    assert set(np.round(np.delete(variance, 4), 12)) == {round(float(variance[0]), 12)}
    assert 0.5 < variance[0] < 4  # the wild one is in the seeds' effects
    assert freedom[4] < 11 < freedom[0]


# Rules


def test_far_below_is_out_and_the_smallest_that_is_surely_within_the_margin_is_the_answer() -> None:
    race = race_of([-6, -0.1, 0, -0.1, 0], noise=0.3)
    assert race.status[0] == OUT
    assert race.gaps[0].estimate == pytest.approx(-0.06, abs=0.01)
    assert race.answer == 1
    assert [race.status[one] for one in (2, 3, 4)] == [PAUSED] * 3
    assert all(by == 1 for by in race.by[2:])


def test_by_hand_a_paused_candidate_returns_when_the_one_it_pauses_for_goes_out() -> None:
    race = Race([1, 2, 3], RULES)
    for first, second, third in [(0.700, 0.7002, 0.70), (0.701, 0.701, 0.7008), (0.699, 0.6993, 0.699)]:
        race.end_round({0: first, 1: second, 2: third})
        if PAUSED in race.status:
            break
    assert race.answer == 0
    assert race.turns() == []
    race = Race([1, 2, 3], RULES)
    race._low[0, 2] = 0.0  # the first lets the third pause, and is put out by the second
    race._decide()
    assert race.status == [IN, IN, PAUSED]
    assert {one for one, _ in race.turns()} == {0, 1}
    race._low_out[1, 0] = 0.02
    race._decide()
    assert race.status == [OUT, IN, IN]
    assert {one for one, _ in race.turns()} == {1, 2}


def test_the_objective_score_looks_for_the_best() -> None:
    race = race_of([-2, -1.5, 0.4, -3], noise=0.2, rules=RaceRules(0.005, 0.05, SCORE))
    assert race.answer == 2
    assert race.status[3] == OUT


def test_a_failed_candidate_is_no_answer_and_stops_nobody() -> None:
    scores = drawn([0, 0, 0], 0.2)
    race = Race([1, 2, 3], RULES)
    race.end_round({0: None, 1: scores[1, 0], 2: scores[2, 0]})
    while turns := race.turns():
        race.end_round({one: scores[one, number - 1] for one, number in turns})
    assert race.status[0] == FAILED
    assert race.answer == 1


def test_who_is_refused_takes_no_share_of_alpha() -> None:
    scores = drawn([-0.4, 0, -0.1], 0.3)
    alone, among = Race([1, 2, 3], RULES), Race([1, 0, 2, 3, 0], RULES, refused=(1, 4))
    for number in range(4):
        alone.end_round({one: scores[one, number] for one in range(3)})
        among.end_round({(0, 2, 3)[one]: scores[one, number] for one in range(3)})
    ours, theirs = alone.differences(0)[1], among.differences(0)[2]
    assert ours is not None
    assert theirs is not None
    assert ours.half == theirs.half
    assert [among.status[one] for one in (0, 2, 3)] == alone.status
    assert among.status[1] == among.status[4] == REFUSED
    assert {one for one, _ in among.turns()} <= {0, 2, 3}


@pytest.mark.parametrize("seed", range(6))
def test_the_order_in_which_a_round_came_in_changes_nothing(seed: int) -> None:
    shuffled, scores = random.Random(seed), drawn([-1.4, -0.6, 0, -0.9, 0.1], 0.7, seed)
    races = [Race(range(5), RULES) for _ in range(2)]
    for race in races:
        while turns := race.turns():
            came_in = list(turns) if race is races[0] else shuffled.sample(turns, len(turns))
            race.end_round({one: scores[one, number - 1] for one, number in came_in})
    one, other = races
    assert (one.status, one.by, one.answer, one.seeds) == (other.status, other.by, other.answer, other.seeds)
    assert max(one.seeds) <= SEEDS


def test_wrong_eliminations_stay_below_alpha() -> None:
    """Four of six lie exactly at the margin, where an elimination is wrong and as likely as it can be."""
    wrong = 0
    for seed in range(60):
        race = race_of([-1, -1, -1, -1, 0, 0], noise=0.6, seed=seed)
        wrong += OUT in race.status
    assert wrong <= 7  # of 60 at 5 % it would be more in one of 60 tries


def test_what_held_out_rows_tell_apart_gives_own_data_their_margin() -> None:
    assert told_apart(45, 4) == pytest.approx(0.097, abs=1e-3)
    assert default_margin(HeldOut(45, is_own=True)) == 0.065
    assert default_margin(HeldOut(45, is_own=False)) == default_margin(None) == 0.01
    assert default_margin(HeldOut(10**6, is_own=True)) == 0.01


# Races


def state(runs_dir: Path) -> dict[str, Any]:
    file = max(runs_dir.glob(".sweeps/*/race.json"), key=lambda path: path.stat().st_mtime_ns)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


RACE = (
    "hydra/sweeper=race",
    "hydra/launcher=basic",
    "module=layernorm,frozen",
    "layers=all,0,9",
    "task=rte",
    "trainer.max_epochs=1",
)


@pytest.mark.slow
def test_a_race_ends_with_an_answer_goes_on_and_runs_nothing_twice(tmp_path: Path, type_it: TypeIt) -> None:
    out = typed(type_it, tmp_path, *RACE, "race.margin=90", "race.runs=3")
    assert "10 held-out rows per seed" in out
    assert "layernorm layers=9 cannot run: layers=9 names layer 9" in out
    assert "Not known yet" in out
    means = {one["name"]: one["scores"][0] for one in state(tmp_path)["candidates"] if one["scores"]}
    assert means[out.split("not surely so: ")[1].splitlines()[0]] == max(means.values())
    assert "3 of 3 runs" in out
    assert "exit 0" in out
    first = records(tmp_path)
    assert {record["config"]["data"]["select_on"] for record in first.values()} == {"holdout"}
    assert len(first) == 3  # frozen in all layers and in layer 0 are one run
    out = typed(type_it, tmp_path, *RACE, "race.margin=90")
    assert "smallest surely within 90 points of the best: frozen layers=all (0 weights, 0 %)" in out
    train = out.split("train it as in the race, with the next seed: ")[1].splitlines()[0]
    assert train.startswith("python train.py ")
    assert "race" not in train.replace(str(tmp_path), "")
    assert f"data.select_on=holdout module=frozen layers=all seed={state(tmp_path)['rounds'] + 1}" in train
    second = records(tmp_path)
    assert all(second[name]["ended"] == record["ended"] for name, record in first.items())
    found = state(tmp_path)
    assert found["answer"] == "frozen layers=all"
    assert found["end"] == "answered"
    by_name = {one["name"]: one for one in found["candidates"]}
    assert by_name["layernorm layers=9"]["status"] == REFUSED
    held_out = [record["best"]["holdout_score"] for record in second.values() if record["module"] == "frozen"]
    assert sorted(by_name["frozen layers=all"]["scores"]) == pytest.approx(sorted(held_out))
    assert found["runs"] == len(second)
    out = typed(type_it, tmp_path, *RACE, "race.margin=90")
    assert "smallest surely within 90 points" in out
    assert "[1/" not in out
    assert {**state(tmp_path)} == found


@pytest.mark.slow
def test_minutes_that_are_too_few_begin_no_job_and_are_an_answer(tmp_path: Path, type_it: TypeIt) -> None:
    out = typed(type_it, tmp_path, *RACE, "race.minutes=0.0001")
    assert "No round has ended" in out
    assert "exit 0" in out
    assert records(tmp_path) == {}
    like = [one for one in RACE if not one.startswith(("module=", "hydra/sweeper", "race.", "layers="))]
    typed(type_it, tmp_path, *like, "module=layernorm,frozen", "layers=all", "seed=9", "data.select_on=holdout")
    out = typed(type_it, tmp_path, *RACE, "race.minutes=0.0001")
    assert re.search(r"A round is \d runs, about \d", out)
    assert len(records(tmp_path)) == 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("module=query",), "nothing to choose between"),
        (("module=query,key", "seed=1,2"), "seeds 1, 2, 3"),
        (("module=query,key", "race.margin=0"), "race.margin=0.0 does not fit"),
        (("module=query,key", "race.objective=best"), "race.objective=best is not known"),
        (("module=query,key", "race.marign=1"), "race.margin"),
    ],
)
def test_what_cannot_race_is_told_in_one_sentence(
    overrides: tuple[str, ...], sentence: str, tmp_path: Path, type_it: TypeIt
) -> None:
    told = type_it("-m", *TINY, f"runs_dir={tmp_path}", "hydra/sweeper=race", *overrides)
    assert told.code == 2
    assert sentence in told.err
    assert "Traceback" not in told.out + told.err


def test_more_seeds_that_are_needed_are_few_where_the_gap_is_wide() -> None:
    race, scores = Race(range(3), RULES), drawn([-0.2, 0, -0.1], 0.5)
    for _ in range(3):
        race.end_round({one: scores[one, number - 1] for one, number in race.turns()})
    more = race.more_seeds(1)
    assert more is None or 1 <= more <= SEEDS
    assert all(gap is None or math.isfinite(gap.half) for gap in race.differences(0))


def test_what_the_best_needs_to_be_told_apart_is_asked_about_the_best() -> None:
    rules, told = RaceRules(0.01, 0.05, SCORE), []
    for seed in range(40):
        scores, race = drawn([80, 82], 0.8, seed), Race([1, 2], rules)
        while turns := race.turns():
            race.end_round({one: scores[one, number - 1] for one, number in turns})
            if race.seeds == [4, 4] and race.answer is None:
                told.append([race.more_seeds(one) for one in race.left()])
        assert race.answer == 1
        assert race.seeds[1] < 10
    assert len(told) > 5
    assert all(more is not None and more < 10 for pair in told for more in pair), told


def test_seeds_are_promised_to_those_alone_that_get_them(tmp_path: Path) -> None:
    race, scores = Race(range(3), RULES), drawn([80, 80, 80.9], 0.4, seed=2)
    while PAUSED not in race.status:
        race.end_round({one: scores[one, number - 1] for one, number in race.turns()})
    assert race.answer is None
    waits = race.status.index(PAUSED)
    config = OmegaConf.create({"race": OmegaConf.structured(RaceConfig)})
    runs = RaceRuns(
        cast(Any, None), cast(Any, None), config, (), [(f"module={name}",) for name in ("query", "value", "ffn")]
    )
    found = {
        (one, number): RaceRun(race.scores[one, number - 1], 0.8, 100, 1.0, 60.0, tmp_path)
        for one in range(3)
        for number in range(1, race.seeds[one] + 1)
    }
    screen = Console(file=io.StringIO(), width=200)
    show_answer(screen, runs, RaceState(RULES, race, found=found, end="runs spent"))
    lines = cast(io.StringIO, screen.file).getvalue().splitlines()
    (promised,) = [line for line in lines if line.startswith("open: ")]
    (possible,) = [line for line in lines if "Still possible: " in line]
    assert runs.name(waits) not in promised
    assert [runs.name(one) in promised for one in race.left()].count(True) == 2
    assert runs.name(waits) in possible


def test_one_seed_foretells_nothing() -> None:
    race = Race([10, 20], RaceRules(least=0.001))
    race.end_round({0: 0.80, 1: 0.83})
    assert not race.knows_scatter
    race.end_round({0: 0.802, 1: 0.828})
    assert race.knows_scatter


def test_the_best_is_told_by_the_seeds_that_candidates_share() -> None:
    race = Race([10, 20], RaceRules(margin=0.3))
    for first, second in ((0.80, 0.79), (0.78, 0.77)):
        race.end_round({0: first, 1: second})
    race.scores[0, 2] = 0.70  # a hard seed, which the other has not seen
    assert race.best([0, 1]) == 0
    assert [gap and gap.estimate > 0 for gap in race.differences(1)] == [True, None]


def test_a_difference_of_exactly_the_margin_puts_nobody_out() -> None:
    race = Race([1, 2], RaceRules())
    for _ in range(2):
        race.end_round({0: 0.80, 1: 0.81})
    assert race.status[0] != OUT


def test_a_ranking_orders_candidates_by_what_trains_and_leaves_none_out() -> None:
    def row(module: str, layers: str, weights: int, fisher: float) -> RankedModule:
        return RankedModule(
            module, layers, False, weights, {"fisher_sum": (fisher,), "fisher_mean": (fisher / weights,)}
        )

    rows = [
        row("query", "all", 4, 8.0),
        row("query", "0", 2, 6.0),
        row("query", "1", 2, 2.0),
        row("key", "all", 4, 4.0),
    ]
    assert fisher_of(rows, ("query",), "all", per_weight=True) == 2.0
    assert fisher_of(rows, ("query",), "1", per_weight=True) == 1.0
    assert fisher_of(rows, ("key", "query"), "all", per_weight=True) == 1.5
    assert fisher_of(rows, ("key", "query"), "all", per_weight=False) == 12.0
    assert fisher_of(rows, ("frozen",), "all", per_weight=True) is None


@pytest.mark.slow
def test_with_the_order_of_a_ranking_a_round_that_the_budget_cuts_begins_with_its_first(
    tmp_path: Path, type_it: TypeIt
) -> None:
    race = (*RACE[:2], "module=frozen,query,layernorm", *RACE[4:], "race.margin=90")
    out = typed(type_it, tmp_path, *race, "race.order=rank", "race.runs=5")
    order = out.split("In the order of ptuning rank: ")[1].splitlines()[0].split(", ")
    assert order[2] == "frozen"
    seeds = {record["module"]: 0 for record in records(tmp_path).values()}
    for record in records(tmp_path).values():
        seeds[record["module"]] += 1
    assert seeds == {order[0]: 2, order[1]: 2, order[2]: 1}
    ranked, given = (typed(type_it, tmp_path, *race, f"race.order={how}") for how in ("rank", "given"))
    assert "In the order of" in ranked
    assert "In the order of" not in given
    found = [json.loads(file.read_text()) for file in sorted(tmp_path.glob(".sweeps/*/race.json"))[-2:]]
    assert found[0] == found[1]
