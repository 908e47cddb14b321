"""What weights look like and what moved, against direct computations on the tiny BERT and on real small runs."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import ptuning
from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.cli.main import main
from ptuning.selection.architectures import ARCHITECTURES
from ptuning.selection.parameters import count_modules
from ptuning.tasks.glue import TASKS
from ptuning.weights import describe_moves, describe_weights
from ptuning.weights.groups import far_out
from ptuning.weights.reference import count_layernorms_of_one_block
from support.running import TINY, Run, run_in

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def model_of(**config: object) -> torch.nn.Module:
    return load_model(find_backbone("random:tiny", config={**SIZES, **config}), TASKS["rte"], seed=0)


def row(table: pd.DataFrame, module: str, layer: str, kind: str) -> pd.Series:
    found = table[(table["module"] == module) & (table["layer"] == layer) & (table["kind"] == kind)]
    assert len(found) == 1
    return found.iloc[0]


def test_a_row_is_what_numpy_and_scipy_compute() -> None:
    model = model_of()
    heavy = torch.distributions.StudentT(3.0).sample((32, 32))
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.query.weight.copy_(heavy)
    values = heavy.numpy().astype(np.float64).ravel()
    found = row(describe_weights(model), "query", "1", "weight")
    assert found["count"] == 1024
    assert found["mean_magnitude"] == pytest.approx(np.abs(values).mean())
    assert found["std"] == pytest.approx(values.std())
    assert found["p99_9"] == pytest.approx(np.quantile(np.abs(values), 0.999), rel=1e-5)
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(values))
    assert found["outlier_share"] == pytest.approx((np.abs(stats.zscore(values)) > 3).mean())
    assert found["outlier_share"] > 0


def test_all_layers_together_pool_their_weights_and_outliers_stay_those_of_their_tensor() -> None:
    model = model_of()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight.mul_(10)
    table = describe_weights(model)
    pooled = np.concatenate([model.bert.encoder.layer[n].output.dense.weight.detach().numpy().ravel() for n in (0, 1)])
    found = row(table, "output", "all", "weight")
    layers = [row(table, "output", layer, "weight") for layer in ("0", "1")]
    assert found["std"] == pytest.approx(pooled.astype(np.float64).std())
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(pooled.astype(np.float64)))
    assert found["outlier_share"] == pytest.approx(np.mean([one["outlier_share"] for one in layers]))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_weight_of_every_family_is_in_one_group_and_layernorms_stand_apart(family: str) -> None:
    model = model_of(model_type=family)
    table = describe_weights(model)
    whole = table[table["layer"].isin(["all", ""])]
    counts = {module: sum(per_layer.values()) for module, per_layer in count_modules(model).items()}
    assert whole.groupby("module")["count"].sum().to_dict() == counts
    drawn = 0 if family == "gemma3_text" else 1  # whose norms multiply by one more
    norms = table[table["kind"].str.startswith("LayerNorm")]
    assert (norms.loc[norms["kind"] == "LayerNorm weight", "mean_magnitude"] == drawn).all()
    assert not table.loc[table["module"].isin(["query", "output"]), "kind"].str.startswith("LayerNorm").any()
    assert len(norms[norms["module"].isin(["attention_layernorm", "output_layernorm"])])


def test_equal_weights_have_no_kurtosis_and_no_outliers() -> None:
    found = row(describe_weights(model_of()), "attention_layernorm", "0", "LayerNorm weight")
    assert (found["std"], found["outlier_share"]) == (0, 0)
    assert math.isnan(found["kurtosis"])
    assert not far_out(np.full(100, 0.1, dtype=np.float32)).any()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A LayerNorm run in one layer, and full fine-tuning."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "layernorm": run_in(folder, *TINY, "module=layernorm", "layers=1", "optim.lr=0.01"),
        "full": run_in(folder, *TINY, "module=full", "optim.lr=0.01"),
    }


def test_what_moved_is_the_difference_of_the_loaded_and_the_pretrained_model(runs: dict[str, Run]) -> None:
    run = runs["full"]
    after, _ = ptuning.load(run.path)
    backbone = run.record["config"]["backbone"]
    before = load_model(find_backbone(backbone["path"], config=backbone["config"]), TASKS["rte"], seed=0)
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    old, new = (dict(m.named_parameters())[name].detach().double().flatten() for m in (before, after))
    change = (new - old).abs()
    far = (old - old.mean()).abs() > 3 * old.std(correction=0)
    found = row(describe_moves(run.path), "intermediate", "1", "weight")
    assert found["relative_change"] == pytest.approx(float(change.norm() / old.norm()))
    assert found["mean_change"] == pytest.approx(float(change.mean()))
    assert found["moved_share"] == pytest.approx(float((change > 0).double().mean()))
    assert found["outlier_share"] == pytest.approx(float(far.double().mean()))
    assert found["outliers_moved"] == pytest.approx(float((change[far] > 0).double().mean()))
    assert found["moved_outliers"] == pytest.approx(float(far[change > 0].double().mean()))
    assert found["outliers_mean_change"] == pytest.approx(float(change[far].mean()))


def test_outside_the_selection_nothing_moved(runs: dict[str, Run]) -> None:
    table = describe_moves(runs["layernorm"].path)
    moved = table[table["moved_share"] > 0]
    assert set(zip(moved["module"], moved["layer"], strict=True)) == {
        (module, layer) for module in ("attention_layernorm", "output_layernorm") for layer in ("1", "all")
    }
    assert (row(table, "query", "all", "weight")[["relative_change", "mean_change"]] == 0).all()
    # A bias that was zero has no relative change.
    assert math.isnan(row(table, "attention_layernorm", "1", "LayerNorm bias")["relative_change"])
    assert row(table, "attention_layernorm", "1", "LayerNorm bias")["mean_change"] > 0
    assert math.isnan(row(table, "query", "0", "weight")["moved_outliers"])


def test_rounding_to_the_precision_of_training_is_no_movement(tmp_path: Path) -> None:
    run = run_in(tmp_path, *TINY, "module=layernorm", "trainer.precision=bf16-true", "trainer.max_steps=1")
    table = describe_moves(run.path)
    assert set(table[table["moved_share"] > 0]["module"]) == {"attention_layernorm", "output_layernorm"}


def test_the_commands_print_and_write(tmp_path: Path, runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    main(["weights", "backbone=tiny", "--csv", str(tmp_path / "w.csv"), "--figure", str(tmp_path / "w.svg")])
    shown = capsys.readouterr().out
    assert "attention_layernorm" in shown
    assert "LayerNorm bias" in shown
    table = pd.read_csv(tmp_path / "w.csv", keep_default_na=False)
    assert set(table["layer"]) == {"", "0", "1", "all"}
    drawing = (tmp_path / "w.svg").read_text()
    assert "attention_layernorm, LayerNorm weight" in drawing
    assert "all zero" in drawing  # biases of a model with random weights

    main(["moved", str(runs["layernorm"].path), "--csv", str(tmp_path / "m.csv")])
    shown = capsys.readouterr().out
    assert "128 weights moved" in shown
    assert "query" not in shown
    assert len(pd.read_csv(tmp_path / "m.csv")) == len(describe_moves(runs["layernorm"].path))


def test_weights_that_the_checkpoint_lacks_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = find_backbone("random:tiny", config=SIZES)
    whole = load_model(source, TASKS["rte"], seed=0).base_model
    whole.pooler = None  # as checkpoints of masked language models are
    whole.save_pretrained(tmp_path / "bert")
    load_tokenizer(source).save_pretrained(tmp_path / "bert")
    files = ["--csv", str(tmp_path / "w.csv"), "--figure", str(tmp_path / "w.svg")]
    main(["weights", f"backbone={tmp_path / 'bert'}", *files])
    shown = capsys.readouterr().out
    assert "The checkpoint lacks bert.pooler.dense.bias, bert.pooler.dense.weight: drawn at random" in shown
    assert shown.count("pooler") == 2
    assert "query" in shown
    assert "pooler" not in (tmp_path / "w.csv").read_text() + (tmp_path / "w.svg").read_text()


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_the_same_backbone_gives_the_same_figure(tmp_path: Path, suffix: str) -> None:
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        main(["weights", "backbone=tiny", "--figure", str(file)])
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["weights", "backbone=tiny", "--figure", "w.gif"], "end it in .png or .svg or .pdf"),
        (["weights", "backbone=tiny", "--csv", "nowhere/w.csv"], "no folder nowhere"),
        (["weights", "backbone=bert-bse-random"], "bert-base-random"),
        (["moved", "nowhere"], "no folder nowhere"),
        (["moved", "."], "holds no finished run"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_run_that_goes_on_is_not_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_in(tmp_path, *TINY, "trainer.max_epochs=1")
    (run.path / "record.json").write_text(json.dumps({**run.record, "status": "interrupted"}))
    with pytest.raises(SystemExit):
        main(["moved", str(run.path)])
    assert "has not finished" in capsys.readouterr().err


def test_the_papers_percentage_is_the_selections_own_count() -> None:
    assert count_layernorms_of_one_block() == (3_072, 109_483_778)
