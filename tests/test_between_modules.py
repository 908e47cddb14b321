"""Claim 3 between modules: as many random weights of each, what they reach against the modules' mean magnitude."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.config.compose import compose
from ptuning.results import collect, read_results, summarise, write_report
from ptuning.results.claims import Claim, check_claims
from ptuning.results.comparisons import Comparer, against_full
from ptuning.results.rank_correlation import rank_correlation
from ptuning.results.statistics import NOT_ENOUGH
from ptuning.selection.names import MODULES_OF_BLOCK
from ptuning.tasks.glue import get_task
from support.records import NOW, record, seeds
from support.running import TINY, run_in

BLOCK = MODULES_OF_BLOCK[:-1]
SIZES = (0.03, 0.031, 0.028, 0.029, 0.8, 0.032, 0.033, 0.75)
"""Mean |w| of the modules of a block."""
DRAWN = {"subset": "random:4608", "subset_scope": "selection", "trainable_parameters": 4608}


def grid(
    runs: Path, reached: tuple[float, ...], rates: tuple[float, ...] = (1e-3, 5e-3), count: int = 3, **given: Any
) -> None:
    """Write runs of every module; ``reached`` is the score at its best rate, which is not the same for all."""
    for place, (module, size, score) in enumerate(zip(BLOCK, SIZES, reached, strict=False)):
        known = {"trainable_magnitude": size} | given
        for rate in rates:
            less = 0.0 if rate == rates[place % len(rates)] else 0.2
            scores = [score - less + 0.001 * seed for seed in range(count)]
            seeds(runs, *scores, module=module, lr=rate, **(DRAWN | known))


def between(runs: Path) -> Claim:
    table = collect(runs).runs
    comparer, summary = Comparer(runs, table), summarise(table)
    return check_claims(comparer, summary, against_full(comparer, summary))[2]


def found(runs: Path) -> tuple[str, str, str]:
    """Return verdict, numbers and reason of the one finding."""
    claim = between(runs)
    ((_, verdict),) = claim.verdicts
    (row,) = claim.table.rows
    assert row[4] == verdict
    return verdict, row[3], row[5]


AS_SIZES = tuple(0.5 + 0.03 * rank for rank in stats.rankdata(SIZES))


@pytest.mark.parametrize(
    ("reached", "verdict", "why"),
    [
        (AS_SIZES, "holds", "larger weights go with more, over 8 modules and 3 seeds"),
        (tuple(1.3 - score for score in AS_SIZES), "does not hold", "larger weights go with less"),
        ((0.6, 0.8, 0.7, 0.65, 0.66, 0.72, 0.61, 0.74), "not enough runs", "the interval holds 0"),
        ((0.7,) * 8, "not enough runs", "all modules have one score"),
        (AS_SIZES[:3], "not enough runs", "3 modules, and a correlation takes 4"),
    ],
)
def test_the_verdict_is_that_of_the_correlation_s_interval(
    tmp_path: Path, reached: tuple[float, ...], verdict: str, why: str
) -> None:
    grid(tmp_path, reached)
    said, numbers, reason = found(tmp_path)
    assert (said, reason[: len(why)]) == (verdict, why)
    lines = numbers.splitlines()
    assert [line.split(",")[0] for line in lines[-2:]] == [BLOCK[n] for n in ((0, 2) if len(reached) == 3 else (3, 2))]
    if "correlation" in lines[0]:
        sizes = rank_correlation(SIZES, reached)
        assert sizes is not None
        assert lines[0] == f"rank correlation {sizes}"


def test_each_module_counts_at_its_best_of_the_rates_that_all_tried(tmp_path: Path) -> None:
    grid(tmp_path, AS_SIZES)
    record(tmp_path, module="query", lr=0.1, score=0.99, trainable_magnitude=0.03, **DRAWN)  # which the others did not
    verdict, numbers, _ = found(tmp_path)
    assert verdict == "holds"
    assert "query, mean |w| 0.03: 59.1 at 0.001" in numbers
    assert "key, mean |w| 0.031: 62.1 at 0.005" in numbers


def test_a_rate_that_equals_the_head_s_is_one_of_the_rates(tmp_path: Path) -> None:
    for number, head in enumerate((5e-3, 1e-2)):  # once it is one of the rates that were tried
        grid(tmp_path / str(number), AS_SIZES, head_lr=head)
        verdict, numbers, _ = found(tmp_path / str(number))
        assert verdict == "holds"
        assert "key, mean |w| 0.031: 62.1 at 0.005" in numbers


def test_one_rate_missing_magnitudes_or_seeds_decide_nothing(tmp_path: Path) -> None:
    grid(tmp_path / "rate", AS_SIZES, rates=(1e-3,))
    assert found(tmp_path / "rate")[::2] == (NOT_ENOUGH, "1 rate was tried with all modules, and 2 are needed")
    grid(tmp_path / "old", AS_SIZES, trainable_magnitude=None)
    assert found(tmp_path / "old")[2].startswith("the records do not say the mean |w| of attention_layernorm, ")
    grid(tmp_path / "seeds", AS_SIZES[:-1])
    for rate in (1e-3, 5e-3):
        record(tmp_path / "seeds", module=BLOCK[-1], seed=9, lr=rate, trainable_magnitude=0.7, **DRAWN)
    assert found(tmp_path / "seeds")[::2] == (NOT_ENOUGH, "no seed in common")


def test_other_numbers_of_weights_epochs_and_parts_of_the_data_are_asked_apart(tmp_path: Path) -> None:
    grid(tmp_path, AS_SIZES)
    grid(tmp_path, AS_SIZES, subset="random:9216")
    grid(tmp_path, AS_SIZES, epochs=4)
    grid(tmp_path, AS_SIZES, trainer={"limit_train_batches": 5})
    seeds(tmp_path, 0.5, 0.6, module="query", subset="random:100", trainable_parameters=400)  # of each tensor
    assert len(between(tmp_path).table.rows) == 3
    assert between(tmp_path).verdicts == (("minilm", "holds"),)


def test_recovery_is_told_and_what_teaches_nothing_is_not_asked(tmp_path: Path) -> None:
    grid(tmp_path / "taught", AS_SIZES)
    seeds(tmp_path / "taught", 0.40, 0.401, 0.402, module="frozen", trainable_parameters=0)
    seeds(tmp_path / "taught", 0.90, 0.901, 0.902, module="full", trainable_parameters=900_000)
    verdict, numbers, _ = found(tmp_path / "taught")
    assert verdict == "holds"
    assert "attention_layernorm, mean |w| 0.8: 74.1 at 0.001, recovery 68 %" in numbers
    grid(tmp_path / "nothing", AS_SIZES)
    seeds(tmp_path / "nothing", 0.80, 0.801, 0.802, module="frozen", trainable_parameters=0)
    assert "none of them is surely better than the head alone" in found(tmp_path / "nothing")[2]


def test_the_question_inside_modules_stands_beside_it_under_its_own_name(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    grid(runs, AS_SIZES)
    results = read_results(runs)
    assert [claim.title.split(".")[0] for claim in results.claims] == [
        "Claim 1",
        "Claim 2",
        "Claim 3",
        "Beside claim 3",
    ]
    assert not results.claims[3].table.rows  # random draws alone do not ask it
    page = write_report(results, tmp_path / "report", NOW)
    assert "Exploratory. Asked of runs in which equally many random weights" in page.read_text()
    assert "## Beside claim 3. Large against small weights inside a module" in (page.parent / "claims.md").read_text()


def test_a_run_notes_the_mean_magnitude_of_what_trains(tmp_path: Path) -> None:
    one = (*TINY, "trainer.max_epochs=1", "module=output", "trainer.limit_train_batches=1")
    tiny = compose(one).backbone
    weights = load_model(find_backbone(tiny.path, config=tiny.config), get_task("rte"), seed=0)
    names = [name for name, _ in weights.named_parameters() if ".output.dense" in name and "attention" not in name]
    own = torch.cat([weights.get_parameter(name).detach().flatten() for name in names]).abs().double().mean().item()
    noted = {
        subset: run_in(tmp_path, *one, f"subset={subset}", f"subset_scope={scope}").record["trainable_magnitude"]
        for subset, scope in (("all", "tensor"), ("random:50", "selection"), ("top:50", "selection"))
    }
    assert noted["all"] == pytest.approx(own)
    assert noted["random:50"] == noted["all"]  # what it was drawn from
    assert noted["top:50"] > 2 * own
    assert "trainable_magnitude" not in run_in(tmp_path, *TINY, "module=frozen").record
    assert set(collect(tmp_path).runs["trainable_magnitude"].dropna()) == set(noted.values())
