"""Cells against full fine-tuning, and the paper's claims asked of records: what is compared, and what decides."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ptuning.cli.main import main
from ptuning.results import collect, read_results, summarise, write_report
from ptuning.results.claims import Claim, check_claims, claims_markdown
from ptuning.results.comparisons import Comparer, against_full
from ptuning.results.statistics import BOOTSTRAP, T_SEEDS, holm, paired_t
from ptuning.selection.names import MODULES_OF_BLOCK
from ptuning.training.callbacks import write_predictions
from ptuning.training.module import Predictions
from support.records import NOW, record, seeds
from support.running import TINY, run_in

BLOCK = MODULES_OF_BLOCK[:-1]
FULL = (0.860, 0.858, 0.862, 0.861, 0.859)
JITTER = (0.000, 0.001, -0.001, 0.0005, -0.0005)
COUNT = (3_072, 109_483_778)


def near(points: float) -> list[float]:
    """Scores that differ from full fine-tuning's by about so many points, with certainty."""
    return [full + points / 100 + jitter for full, jitter in zip(FULL, JITTER, strict=True)]


def unsure_of(points: float) -> list[float]:
    """Scores around so many points from full fine-tuning's that decide nothing."""
    return [full + points / 100 + 20 * jitter for full, jitter in zip(FULL, JITTER, strict=True)]


def with_answers(folder: Path, right: list[bool]) -> None:
    """Keep predictions beside a record: label 0 everywhere."""
    logits = torch.tensor([[1.0, 0.0] if one else [0.0, 1.0] for one in right])
    rows = torch.arange(len(right))
    write_predictions(folder / "predictions" / "validation.parquet", Predictions(rows, logits, torch.zeros_like(rows)))


def compared(runs: Path, **wanted: str) -> pd.Series:
    table = against_full(Comparer(runs, collect(runs).runs), summarise(collect(runs).runs))
    for name, value in wanted.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def claims(runs: Path, margin: float = 0.01, count: tuple[int, int] | None = COUNT) -> list[Claim]:
    table = collect(runs).runs
    comparer, summary = Comparer(runs, table, margin), summarise(table)
    return check_claims(comparer, summary, against_full(comparer, summary), count)


def verdict(claim: Claim) -> str:
    ((_, said),) = claim.verdicts
    return said


def test_cells_are_paired_by_seed_where_two_or_more_are_common(tmp_path: Path) -> None:
    seeds(tmp_path, *FULL, module="full")
    for number, score in ((2, 0.850), (3, 0.857), (4, 0.852), (9, 0.1)):  # of which seed 9 has no counterpart
        record(tmp_path, seed=number, score=score)
    row, expected = compared(tmp_path), paired_t([0.850, 0.857, 0.852], FULL[1:4])
    assert (row["method"], row["pairs"]) == (T_SEEDS, 3)
    assert row["difference"] == pytest.approx(expected.estimate)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert row["verdict"] == expected.verdict


def test_one_seed_is_compared_over_the_dev_examples_that_were_kept(tmp_path: Path) -> None:
    rows = np.arange(1200)
    wrong = {"full": rows < 60, "layernorm": rows < 480, "bias": rows < 60, "query": rows >= 1140}
    for module, mistakes in wrong.items():
        with_answers(record(tmp_path, module=module), list(~mistakes))
    row = compared(tmp_path, module="layernorm")
    assert (row["method"], row["pairs"], row["verdict"]) == (BOOTSTRAP, 1200, "worse")
    assert row["low"] < row["difference"] < row["high"] < -0.01
    assert compared(tmp_path, module="bias")["verdict"] == "comparable"  # the same answers
    assert compared(tmp_path, module="query")["verdict"] == "undecided"  # the same accuracy, other mistakes


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"precision": "bf16-mixed"}, "not alike: precision bf16-mixed here, 32-true there"),
        ({"trainer": {"limit_train_batches": 5}}, "part of the data trained on 5 of 115 batches here, all there"),
        ({"data": "sha256:other"}, "not alike: data other here, one there"),
        ({"select_on": "holdout"}, "not alike: best epoch on holdout here, dev there"),
        ({"score_of": ["f1"]}, "not alike: metric f1 here, accuracy there"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_alike_is_not_paired_and_it_is_said_in_what(
    tmp_path: Path, other: dict[str, Any], why: str
) -> None:
    seeds(tmp_path, *FULL, module="full")
    seeds(tmp_path, *near(0), **other)
    row = compared(tmp_path)
    assert (row["verdict"], row["pairs"]) == ("not enough runs", 0)
    assert why in row["why"]
    for number, score in enumerate(near(-3), start=1):  # of two kinds of full fine-tuning the one that is alike
        record(tmp_path, module="full", seed=number, score=score, **other)
    row = compared(tmp_path)
    assert row["difference"] == pytest.approx(0.03)


def test_subsets_of_two_precisions_are_not_compared_by_magnitude_and_a_part_of_the_data_is_no_evidence(
    tmp_path: Path,
) -> None:
    by_magnitude(tmp_path / "alike", 0, -4, -4)
    assert verdict(claims(tmp_path / "alike")[3]) == "holds"
    by_magnitude(tmp_path / "precision", 0, -4, -4, precision="bf16-mixed")
    by_magnitude(tmp_path / "part", 0, -4, -4, trainer={"limit_val_batches": 1})
    for name, why in (
        ("precision", "not alike: precision 32-true here, bf16-mixed there"),
        ("part", "nothing to comp"),
    ):
        claim = claims(tmp_path / name)[3]
        assert verdict(claim) == "not enough runs"
        assert why in "".join(row[5] for row in claim.table.rows)


def test_without_runs_to_pair_the_reason_is_told(tmp_path: Path) -> None:
    with_answers(record(tmp_path, module="full", seed=1), [True] * 20)
    record(tmp_path, module="layernorm", seed=1)
    record(tmp_path, module="bias", seed=2)
    record(tmp_path, module="query", seed=1, task="cola")
    with_answers(record(tmp_path, module="key", seed=1), [True] * 21)
    assert set(
        against_full(Comparer(tmp_path, collect(tmp_path).runs), summarise(collect(tmp_path).runs))["verdict"]
    ) == {"not enough runs"}
    assert "predictions can be read" in compared(tmp_path, module="layernorm")["why"]
    assert compared(tmp_path, module="bias")["why"] == "no seed in common"
    assert "no full fine-tuning" in compared(tmp_path, module="query")["why"]
    assert "not of the same examples" in compared(tmp_path, module="key")["why"]


def test_real_runs_of_one_seed_are_compared_by_their_own_predictions(tmp_path: Path) -> None:
    runs = {module: run_in(tmp_path, *TINY, f"module={module}", "task=stsb") for module in ("full", "frozen")}
    row = compared(tmp_path, module="frozen")
    assert row["method"] == BOOTSTRAP
    difference = runs["frozen"].record["score"] - runs["full"].record["score"]
    assert row["difference"] == pytest.approx(difference, abs=1e-6)


@pytest.mark.slow
def test_runs_of_one_seed_on_own_data_are_compared_too(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"word {n % 3} here,{n % 3 > 0}\n" for n in range(90)))
    own = [word for word in TINY if not word.startswith("data")]
    mine = (*own, "task=custom", f"data.train={tmp_path / 'mine.csv'}", "data.text=text")
    runs = {module: run_in(tmp_path / "runs", *mine, f"module={module}") for module in ("full", "frozen")}
    row = compared(tmp_path / "runs", module="frozen")
    assert row["method"] == BOOTSTRAP
    assert row["difference"] == pytest.approx(runs["frozen"].record["score"] - runs["full"].record["score"], abs=1e-6)
    for module in ("full", "layernorm"):
        run_in(tmp_path / "auroc", *mine, f"module={module}", "data.metric=auroc")
    assert "auroc cannot be scored" in compared(tmp_path / "auroc", module="layernorm")["why"]


def test_p_values_are_corrected_within_one_question(tmp_path: Path) -> None:
    seeds(tmp_path, *FULL, module="full")
    bare = {}
    for module, points in (("query", -0.2), ("bias", -0.4), ("layernorm", -0.6)):
        seeds(tmp_path, *near(points), module=module)
        bare[module] = paired_t(near(points), FULL).p_not_worse
    seeds(tmp_path, *near(-0.3), layers="0")  # a question of its own
    seeds(tmp_path, *near(-0.3), subset="top:1%")  # and another
    for module, adjusted in zip(bare, holm(list(bare.values())), strict=True):
        row = compared(tmp_path, module=module, layers="all", subset="all")
        assert row["p_not_worse"] == pytest.approx(adjusted)
    for place in ({"layers": "0"}, {"subset": "top:1%"}):
        assert compared(tmp_path, **place)["p_not_worse"] == pytest.approx(paired_t(near(-0.3), FULL).p_not_worse)


def test_runs_that_chose_their_epoch_on_other_data_are_never_compared(tmp_path: Path) -> None:
    seeds(tmp_path, *FULL, module="full")
    seeds(tmp_path, *near(0), select_on="holdout")
    row = compared(tmp_path)
    assert (row["select_on"], row["verdict"]) == ("holdout", "not enough runs")
    assert pd.isna(summarise(collect(tmp_path).runs).query("module == 'layernorm'")["percent_of_full"].iloc[0])
    seeds(tmp_path, *FULL, module="full", select_on="holdout", lr=2e-5)
    assert compared(tmp_path, module="layernorm")["verdict"] == "comparable"


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        (["dev"], "chosen on the dev set that is reported"),
        (["holdout"], "a tenth of train that was held out"),
        (["dev", "holdout"], "or on a held-out tenth of train"),
    ],
)
def test_the_report_says_on_what_the_best_epoch_was_chosen(tmp_path: Path, ways: list[str], said: str) -> None:
    for task, way in zip(("rte", "mrpc"), ways, strict=False):
        record(tmp_path / "runs", task=task, select_on=way)
    page = write_report(read_results(tmp_path / "runs"), tmp_path / "report")
    assert said in page.read_text()
    assert said in next((page.parent / "tables").glob("*modules.md")).read_text()
    assert ("which flatters" in page.read_text()) == ("dev" in ways)


def test_the_report_holds_comparisons_then_the_claims_then_how_it_was_trained(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    seeds(runs, *FULL, module="full", task="mrpc")
    seeds(runs, *near(-0.2), task="mrpc")
    seeds(runs, *near(-8), module="a_b", task="mrpc")
    page = write_report(read_results(runs, count=COUNT), tmp_path / "report", NOW)
    text, tables = page.read_text(), page.parent / "tables"
    markdown = (tables / "1-minilm-mrpc-local-full.md").read_text()
    assert "| layernorm | all | −0.2 | [−0.3, −0.1] | 5 seeds | comparable |" in markdown
    assert "surely above −1 (non-inferiority, one-sided 5 %" in markdown
    assert "Holm" in markdown
    latex = (tables / "1-minilm-mrpc-local-full.tex").read_text()
    assert r"layernorm & all & $-$0.2 $\pm$ 0.1 & comparable \\" in latex
    assert r"a\_b & all & $-$8.0" in latex
    assert pd.read_csv(tables / "comparisons.csv")["verdict"].tolist() == ["comparable", "worse"]
    assert text.index("1-minilm-mrpc-local-full") < text.index('id="claims"') < text.index('id="claim-3"')
    assert text.index('id="claim-3"') < text.index('id="hyperparameters"')
    trained = "| mrpc | layernorm, full, a_b | 5 | 2 | 32 | 0.001 |"
    assert trained in (tables / "1-minilm-hyperparameters.md").read_text()
    assert "3,072 of 109,483,778" in text
    generated = (page.parent / "claims.md").read_text()
    assert generated.count("\n## Claim") == 3
    assert "0.00281 %, rounded 0.003 %, which agrees" in generated


def test_claim_one_holds_where_every_module_of_the_block_is_comparable_or_better(tmp_path: Path) -> None:
    seeds(tmp_path, *FULL, module="full")
    for module in BLOCK[:-1]:
        seeds(tmp_path, *near(-0.3), module=module)
    claim = claims(tmp_path)[0]
    assert verdict(claim) == "not enough runs"
    assert "no finished run: output_layernorm" in claim.table.rows[0][5]
    seeds(tmp_path, *near(+2), module=BLOCK[-1])
    assert verdict(claims(tmp_path)[0]) == "holds"


@pytest.mark.parametrize("module", ["key", "ffn"])
def test_claim_one_falls_with_one_module_that_is_surely_worse(tmp_path: Path, module: str) -> None:
    seeds(tmp_path, *FULL, module="full")
    seeds(tmp_path, *near(-5), module=module)
    claim = claims(tmp_path)[0]
    assert verdict(claim) == "does not hold"
    assert claim.table.rows[0][5] == f"surely worse: {module}"
    assert verdict(claims(tmp_path, margin=0.08)[0]) == "not enough runs"  # since the others were not run


def test_what_is_not_surely_so_is_not_enough(tmp_path: Path) -> None:
    seeds(tmp_path, *FULL, module="full")
    for module in BLOCK:
        seeds(tmp_path, *unsure_of(-0.8), module=module)
    claim = claims(tmp_path)[0]
    assert verdict(claim) == "not enough runs"
    assert claim.table.rows[0][5].startswith("undecided: query, key")


def test_the_head_alone_frozen_and_embeddings_are_no_modules_of_the_block(tmp_path: Path) -> None:
    seeds(tmp_path, *FULL, module="full")
    for module in BLOCK:
        seeds(tmp_path, *near(0), module=module)
    for module in ("frozen", "embeddings", "pooler"):
        seeds(tmp_path, *near(-20), module=module)
    assert verdict(claims(tmp_path)[0]) == "holds"


def layernorms(
    runs: Path,
    frozen: float = -15,
    norm: float = -0.2,
    bias: float = -0.2,
    bias_weights: int = 24_000,
    unsure: bool = False,
) -> None:
    seeds(runs, *FULL, module="full", trainable_parameters=900_000)
    seeds(runs, *near(frozen), module="frozen", trainable_parameters=0)
    seeds(runs, *(unsure_of(norm) if unsure else near(norm)), module="layernorm", trainable_parameters=9_216)
    seeds(runs, *near(bias), module="bias", trainable_parameters=bias_weights)


@pytest.mark.parametrize(
    ("given", "expected", "why"),
    [
        ({}, "holds", "layernorm is the smallest"),
        ({"frozen": -0.3}, "does not hold", "the head alone does as well"),
        ({"norm": -6}, "does not hold", "surely worse"),
        ({"bias_weights": 5_000}, "does not hold", "bias does it with fewer"),
        ({"bias_weights": 5_000, "bias": -6}, "holds", "layernorm is the smallest"),
        ({"unsure": True}, "not enough runs", "LayerNorms are undecided"),  # bias is good, and larger
        ({"unsure": True, "bias_weights": 5_000}, "does not hold", "bias does it with fewer"),
    ],
)
def test_claim_two_asks_who_is_comparable_with_the_fewest_weights(
    tmp_path: Path, given: dict[str, Any], expected: str, why: str
) -> None:
    layernorms(tmp_path, **given)
    claim = claims(tmp_path)[1]
    assert verdict(claim) == expected
    assert why in claim.table.rows[0][5]


def test_claim_two_needs_the_head_alone_and_another_module(tmp_path: Path) -> None:
    seeds(tmp_path, *FULL, module="full")
    seeds(tmp_path, *near(0))
    assert "the head alone (frozen): no finished run" in claims(tmp_path)[1].table.rows[0][5]
    seeds(tmp_path, *near(-9), module="frozen", trainable_parameters=0)
    assert "no other module" in claims(tmp_path)[1].table.rows[0][5]
    assert verdict(claims(tmp_path)[1]) == "not enough runs"


@pytest.mark.parametrize(
    ("points", "expected", "why"),
    [
        ((-6, -0.2, -6), "holds", "comparable or better: layer 1"),
        ((-6, -6, -6), "does not hold", "in each single layer"),
        ((-6, -6), "not enough runs", "2 of 3"),
    ],
)
def test_claim_two_asks_single_layers_too(tmp_path: Path, points: tuple[float, ...], expected: str, why: str) -> None:
    layernorms(tmp_path)
    for layer, difference in enumerate(points):
        seeds(tmp_path, *near(difference), layers=str(layer), trainable_parameters=3_072)
    (single,) = [row for row in claims(tmp_path)[1].table.rows if row[2] == "one layer"]
    assert (single[4], why in single[5]) == (expected, True)
    assert "3,072 weights (0.31 %)" in single[3]
    assert verdict(claims(tmp_path)[1]) == expected


@pytest.mark.parametrize(
    ("top", "bottom", "random", "expected"),
    [
        (-1, -5, -4, "holds"),
        (-1, -5, -1, "does not hold"),
        (-3, -1, -6, "does not hold"),
        (-1, -5, None, "not enough runs"),
    ],
)
def test_claim_three_compares_subsets_of_equal_size(
    tmp_path: Path, top: float, bottom: float, random: float | None, expected: str
) -> None:
    by_magnitude(tmp_path, top, bottom, random)
    seeds(tmp_path, *near(-15), module="frozen", trainable_parameters=0)
    seeds(tmp_path, *near(0), subset="outlier:3", trainable_parameters=70)
    claim = claims(tmp_path)[3]
    assert verdict(claim) == expected
    (row,) = claim.table.rows
    assert row[2] == "layernorm, all, 1% (92 weights)"
    assert "bottom less top" in row[3]


def by_magnitude(runs: Path, top: float, bottom: float, random: float | None, **of_top: Any) -> None:
    for kind, points in (("top", top), ("bottom", bottom), ("random", random)):
        if points is not None:
            given = of_top if kind == "top" else {}
            seeds(runs, *near(points), subset=f"{kind}:1%", trainable_parameters=92, **given)


@pytest.mark.parametrize(
    ("head", "expected", "why"),
    [
        (-1.2, "does not hold", "bottom and random do as well as top"),
        (-1, "not enough runs", "none of them is surely better than the head alone"),
        (0, "not enough runs", "none of them is surely better than the head alone"),
        (None, "not enough runs", "the head alone (frozen): no finished run"),
    ],
)
def test_subsets_that_teach_the_model_nothing_say_nothing(
    tmp_path: Path, head: float | None, expected: str, why: str
) -> None:
    by_magnitude(tmp_path, -1, -1, -1)
    if head is not None:
        seeds(tmp_path, *near(head), module="frozen", trainable_parameters=0)
    claim = claims(tmp_path)[3]
    (row,) = claim.table.rows
    assert (row[4], row[5].split(",")[0]) == (expected, why)
    assert verdict(claim) == expected


def test_subsets_of_other_sizes_or_modules_are_not_compared(tmp_path: Path) -> None:
    seeds(tmp_path, *near(-1), subset="top:1%", trainable_parameters=92)
    seeds(tmp_path, *near(-5), subset="bottom:2%", trainable_parameters=184)
    seeds(tmp_path, *near(-5), subset="bottom:1%", module="query", trainable_parameters=92)
    claim = claims(tmp_path)[3]
    assert verdict(claim) == "not enough runs"
    assert len(claim.table.rows) == 3
    assert not any("less top" in row[3] for row in claim.table.rows)


@pytest.mark.parametrize("given", [{"source": "synthetic"}, {"backbone": "random tiny"}])
def test_synthetic_data_and_random_weights_are_no_evidence(
    tmp_path: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds(tmp_path, *FULL, module="full", **given)
    seeds(tmp_path, *near(-5), module="key", **given)
    if "backbone" in given:  # as plan.py names it: no digest, but the word
        for file in tmp_path.rglob("record.json"):
            file.write_text(file.read_text().replace("sha256:random tiny", "random tiny"))
    claim = claims(tmp_path)[0]
    assert claim.table.rows[0][4] == "does not hold †"
    assert verdict(claim) == "not enough runs"


def test_each_backbone_has_its_own_verdict_and_names_are_data(tmp_path: Path) -> None:
    for backbone, points in (("a|b", -5), ("minilm", 0)):
        seeds(tmp_path, *FULL, module="full", backbone=backbone)
        for module in BLOCK:
            seeds(tmp_path, *near(points), module=module, backbone=backbone)
    found = claims(tmp_path)
    assert dict(found[0].verdicts) == {"a|b": "does not hold", "minilm": "holds"}
    assert r"| a\|b | rte (local) |" in claims_markdown(found)


def test_a_count_that_was_not_made_or_does_not_fit_is_said(tmp_path: Path) -> None:
    record(tmp_path)
    assert "not counted" in claims(tmp_path, count=None)[1].number
    assert "does not agree" in claims(tmp_path, count=(9_999, 109_483_778))[1].number


def test_the_command_takes_a_margin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "report"
    seeds(runs, *FULL, module="full")
    seeds(runs, *near(-3))
    main(["report", str(runs), "--out", str(out), "--margin", "5"])
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    assert pd.read_csv(out / "tables" / "comparisons.csv")[["margin", "verdict"]].values.tolist() == [
        [0.05, "comparable"]
    ]
    assert "within 5 points of full fine-tuning" in (out / "claims.md").read_text()
    assert "3,072 of 109,483,778 weights" in (out / "claims.md").read_text()
    with pytest.raises(SystemExit) as left:
        main(["report", str(runs), "--margin", "0"])
    assert left.value.code == 2
    assert "--margin 0 is no margin" in capsys.readouterr().err
