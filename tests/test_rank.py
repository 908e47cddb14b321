"""``ptuning rank``: modules ranked before training, stored beside the runs, and held against what runs reached."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ptuning.backbones.load import input_names
from ptuning.cli.main import main
from ptuning.config.compose import compose
from ptuning.results import collect, read_results, write_report
from ptuning.results.rank_correlation import rank_correlation
from ptuning.results.rankings import ranking_table
from ptuning.runs.ranking import CRITERIA, RankedModule, Ranking, read_ranking, write_ranking
from ptuning.selection.select import choose_parameters
from ptuning.training.build import fit_head, make_data
from ptuning.training.fisher import fisher_information, sample_rows
from ptuning.training.plan import make_plan
from ptuning.training.rank import Ranked, rank_modules
from ptuning.training.session import Session
from support.records import NOW, seeds
from support.running import GLUE, TINY, needs_minilm, run_in

SMALL = (*TINY, "trainer.enable_progress_bar=false")
ELEMENTARY = ("query", "key", "value", "attention_output", "intermediate", "output")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Ranked:
    """The tiny BERT on MRPC, with the head of seed 3."""
    runs = tmp_path_factory.mktemp("runs")
    return rank_modules(compose([*SMALL, "module=frozen", "task=mrpc", "seed=3", f"runs_dir={runs}"]), 8, seeds=1)


def test_every_module_and_group_is_ranked_in_all_layers_and_in_each(ranked: Ranked) -> None:
    ranking = ranked.ranking
    assert (ranking.head, ranking.examples, ranking.seeds, ranking.source) == ("exact", 8, (3,), "synthetic")
    assert [row.module for row in ranking.whole if row.is_group] == [
        *("layernorm", "attention", "ffn", "layernorm_gain", "layernorm_bias", "bias", "full")
    ]
    assert {row.module for row in ranking.whole} >= {*ELEMENTARY, "embeddings", "pooler"}
    layer = {row.module: row for row in ranking.rows if row.layers == "1"}
    assert "pooler" not in layer
    by_module = {row.module: row for row in ranking.whole}
    assert layer["query"].weights * 2 == by_module["query"].weights == 2112
    attention = [by_module[module].mean("fisher_sum") for module in ("query", "key", "value", "attention_output")]
    assert by_module["attention"].mean("fisher_sum") == pytest.approx(sum(attention))
    assert read_ranking(ranked.path) == ranking


def test_the_table_puts_modules_before_groups_by_summed_fisher_information(ranked: Ranked) -> None:
    by_module = {row.module: row for row in ranked.ranking.whole}
    shown = [by_module[row[0]] for row in ranking_table(ranked.ranking).rows]
    assert shown == sorted(by_module.values(), key=lambda row: (row.is_group, -row.mean("fisher_sum")))


def test_the_criteria_are_those_of_the_gradients_behind_the_exact_head(ranked: Ranked) -> None:
    plan = make_plan(compose([*SMALL, "module=frozen", "task=mrpc", "seed=3"]))
    session = Session(keeps_backbone=False)
    data, (network, _) = make_data(plan, session, 1), session.model(plan.backbone, plan.task, 3)
    fit_head(plan, network, data)
    train, rows = data.split("train"), sample_rows(96, 3, 8)
    names = choose_parameters(network, "output").names
    fisher = fisher_information(network, plan.task, (train[[row]] for row in rows), names)
    batch = train[rows]
    loss = network.eval()(**{name: batch[name] for name in input_names(network)}, labels=batch["labels"]).loss
    gradients = torch.autograd.grad(loss, [network.get_parameter(name) for name in names])
    pairs = [(g.flatten(), network.get_parameter(n).detach().flatten()) for g, n in zip(gradients, names, strict=True)]
    mine = next(row for row in ranked.ranking.whole if row.module == "output")
    assert mine.mean("fisher_sum") == pytest.approx(sum(float(value.sum()) for value in fisher.values()), rel=1e-4)
    assert mine.mean("fisher_mean") == pytest.approx(mine.mean("fisher_sum") / mine.weights)
    g, w = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert mine.mean("norm_ratio") == pytest.approx(float(g.norm() / w.norm()), rel=1e-3)
    everything = torch.cat(
        [network.get_parameter(n).detach().flatten() for n in choose_parameters(network, "full").names]
    )
    floor = 0.01 * float(everything.abs().mean())
    assert mine.mean("weight_ratio_sum") == pytest.approx(float((g.abs() / w.abs().clamp(min=floor)).sum()), rel=1e-3)


def test_the_command_prints_the_table_and_finds_it_again(
    ranked: Ranked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A module and a rate change no ranking.
    asked = ["rank", "--examples", "8", "--seeds", "1", *SMALL, "task=mrpc", "seed=3", "module=query", "optim.lr=0.1"]
    words = [*asked, f"runs_dir={ranked.path.parents[3]}"]
    main([*words, "--out", str(tmp_path / "all.csv")])
    out = capsys.readouterr().out
    assert "found; force=true ranks again" in out
    assert "behind an exact head, mean over 1 seed, of synthetic data" in out
    table = pd.read_csv(tmp_path / "all.csv")
    assert list(table.columns) == ["module", "layers", "is_group", "weights", *CRITERIA]
    assert table["module"].tolist() == [row.module for row in ranked.ranking.whole]
    main([*words, "--layers", "each", "--out", str(tmp_path / "each.json")])
    assert {row["layers"] for row in json.loads((tmp_path / "each.json").read_text())} == {"0", "1"}
    (tmp_path / "file").touch()
    for wrong, why in (
        ([*asked, f"runs_dir={tmp_path / 'file'}"], "what should be a folder above it is a file"),
        ([*words, "--examples", "0"], "--examples 0 is none"),
        ([*words, "--out", "x.txt"], "x.txt is no kind of table"),
        ([*words, "layers=0"], "layers= and subset= say nothing here: modules are ranked whole, or with --layers each"),
        ([*words, "subset=top:1%"], "layers= and subset= say nothing here"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert why in capsys.readouterr().err


def test_a_damaged_ranking_is_no_ranking(ranked: Ranked, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_ranking(path, ranked.ranking)
    path.write_bytes(path.read_bytes().replace(b'"examples": 8', b'"examples": 9'))
    assert read_ranking(path) == "its digest does not fit: edited by hand, or damaged"
    for content in ("{}", '{"format": 1, "seeds": [1], "rows": [{}]}', "[]", '{"format": 1, "seeds": 5}'):
        (tmp_path / "two.json").write_text(content)
        assert isinstance(read_ranking(tmp_path / "two.json"), str)


def test_a_head_with_a_layer_of_its_own_is_trained_briefly(tmp_path: Path) -> None:
    other = ("backbone.config.model_type=roberta", "module=frozen", f"runs_dir={tmp_path}")
    found = rank_modules(compose([*SMALL, *other]), 4, seeds=1)
    assert found.ranking.head == "trained"
    assert all(row.mean("fisher_sum") > 0 for row in found.ranking.whole)
    assert [path.name for path in tmp_path.glob("*/*/*")] == ["rank"]  # the head's run is gone


def ranking(scores: Mapping[str, float], groups: tuple[str, ...] = (), **given: str) -> Ranking:
    """Return a ranking whose criteria order modules as ``scores`` do, but for the last criterion: the other way."""
    rows = tuple(
        RankedModule(
            module, "all", module in groups, 100, dict.fromkeys(CRITERIA, (s, s)) | {"weight_ratio_sum": (-s, -s)}
        )
        for module, s in scores.items()
    )
    about = {"backbone": "minilm", "task": "rte", "source": "local"} | given
    recipe = {"data": "sha256:one", "backbone": "sha256:minilm"}
    return Ranking(
        **about, examples=256, seeds=(1, 2), head="exact", rows=rows, recipe=recipe, seconds=1.0, versions={}
    )


@pytest.mark.slow
def test_the_report_holds_rankings_against_what_runs_reached(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    scores = {module: 0.6 + 0.02 * n for n, module in enumerate(ELEMENTARY)}
    for module, score in {**scores, "layernorm": 0.7, "full": 0.8}.items():
        seeds(runs, score, score + 0.01, module=module)
    ours = ranking({**scores, "layernorm": 0.3, "full": 0.4, "ffn": 0.5}, groups=("layernorm", "full", "ffn"))
    write_ranking(runs / "minilm/rte/rank/one.json", ours)
    write_ranking(runs / "minilm/rte/rank/other.json", replace(ours, recipe={**ours.recipe, "data": "sha256:two"}))
    (runs / "minilm/rte/rank/broken.json").write_text("{")
    assert len(collect(runs).left_out) == 0  # a walk over records does not see them
    results = read_results(runs)
    ((backbone, table),) = results.rankings
    assert backbone == "minilm"
    assert [row[0] for row in table.rows] == [
        *ELEMENTARY,
        "layernorm",
        "full",
        "rank correlation, 6 elementary modules",
    ]
    assert table.rows[-2][:3] == ("full", "80.5", "0.4 (1)")  # of the groups that finished
    assert table.rows[-1][2].startswith("+1.00 [+0.63")
    assert table.rows[-1][-1].startswith("−1.00 [−1.00, −0.63")
    assert "First look: one task says nothing of others." in table.caption
    page = write_report(results, tmp_path / "report", NOW).read_text()
    assert "modules ranked before training" in page
    assert "minilm/rte/rank/broken.json" in page
    assert (tmp_path / "report/tables/rank-1-minilm-rte.md").is_file()
    for module, score in scores.items():
        seeds(runs, score, score, module=module, task="mrpc")
    write_ranking(runs / "minilm/mrpc/rank/one.json", ranking(scores, task="mrpc"))
    assert "First look" not in read_results(runs / "minilm").rankings[1][1].caption


def test_a_ranking_finds_the_runs_of_its_own_weights_and_data(ranked: Ranked) -> None:
    runs = ranked.path.parents[3]
    assert not (runs / "tiny/mrpc/query").exists()
    run_in(runs, *SMALL, "task=mrpc", "module=query", "trainer.limit_train_batches=1")
    assert read_results(runs).rankings == []  # on a part of its data
    done = run_in(runs, *SMALL, "task=mrpc", "module=query", "trainer.max_epochs=1")
    ((_, table),) = read_results(runs).rankings
    ((module, score, *_),) = table.rows
    assert (module, score) == ("query", f"{100 * done.record['score']:.1f}")


def test_rank_correlation_is_scipy_s_and_its_interval_covers() -> None:
    drawn = np.random.default_rng(1)
    x, y = drawn.standard_normal((2, 9)).round(1)
    found = rank_correlation(x, y)
    assert found is not None
    assert found.estimate == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rank_correlation(x[:3], y[:3]) is None
    assert rank_correlation(x, [1.0] * 9) is None
    perfect = rank_correlation(range(8), range(8))
    assert perfect is not None
    assert (str(perfect), perfect.low) == ("+1.00 [+0.90, +1.00]", pytest.approx(0.9, abs=0.01))
    for true in (0.0, 0.8):
        truth, covered, several = 6 / np.pi * np.arcsin(true / 2), 0, 400
        for _ in range(several):
            ours, noise = drawn.standard_normal((2, 8))
            one = rank_correlation(ours, true * ours + np.sqrt(1 - true**2) * noise)
            assert one is not None
            covered += one.low <= truth <= one.high
        assert covered / several > 0.91


@pytest.mark.slow
@needs_minilm
@pytest.mark.skipif(not GLUE.is_dir(), reason="GLUE's files are not here")
def test_minilm_is_ranked_on_real_sentences(tmp_path: Path) -> None:
    real = ("backbone=minilm", "data=local", f"data.dir={GLUE}", "task=stsb", "module=frozen", f"runs_dir={tmp_path}")
    rows = {row.module: row for row in rank_modules(compose(real), 64, seeds=1).ranking.whole}
    assert rows["output_layernorm"].mean("fisher_mean") > 10 * rows["query"].mean("fisher_mean")
