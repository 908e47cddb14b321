"""What a number is held against, and which runs stand behind it: the same in tables, captions and the forest plot."""

import json
from pathlib import Path

import pandas as pd
import pytest

from ptuning.cli.main import main
from ptuning.results import collect, mark_shown, summarise
from ptuning.results.appendix import hyperparameter_tables
from ptuning.results.comparison_tables import comparison_tables
from ptuning.results.comparisons import Comparer, against_full
from ptuning.results.examples import Examples
from ptuning.results.forest import forest_points
from ptuning.results.points import Points, describe_cells
from ptuning.results.tables import module_tables
from ptuning.results.text_table import TextTable, to_latex, to_markdown
from support.records import record, seeds


def compared(runs: Path) -> tuple[TextTable, pd.DataFrame]:
    """The one table against full fine-tuning, and what it is made of."""
    collected = collect(runs).runs
    found = against_full(Comparer(runs, collected, examples=Examples(None)), summarise(collected))
    ((_, table),) = comparison_tables(found)
    return table, found


def forest(runs: Path) -> Points:
    collected = collect(runs).runs
    points = forest_points(describe_cells(summarise(collected), collected), compared(runs)[1])
    assert points is not None
    return points


def yardstick(runs: Path, module: str, score: float, **given: object) -> None:
    record(runs, kind="yardstick", module=module, score=score, trainable_parameters=0, epochs=1, **given)


@pytest.fixture
def two_full(tmp_path: Path) -> Path:
    """Full fine-tuning in two precisions: the one with more seeds is shown, the modules are alike with the other."""
    seeds(tmp_path, 0.88, 0.88, 0.88, module="full", precision="bf16-mixed")
    seeds(tmp_path, 0.80, 0.80, module="full")
    seeds(tmp_path, 0.70, 0.70, module="frozen", trainable_parameters=0)
    seeds(tmp_path, 0.81, 0.81)
    yardstick(tmp_path, "cosine", 0.81)
    return tmp_path


def test_a_panel_has_one_zero_the_full_fine_tuning_that_its_modules_are_compared_with(two_full: Path) -> None:
    points = forest(two_full)
    assert dict(zip(points.rows["place"], points.rows["difference"].round(6), strict=True)) == {
        "layernorm": 1,
        "head alone": -10,
        "untrained cosine": 1,
    }
    assert "left out" not in points.remark


def test_yardsticks_stay_out_where_modules_are_held_against_several_full_fine_tunings(two_full: Path) -> None:
    seeds(two_full, 0.87, 0.87, module="query", precision="bf16-mixed")
    points = forest(two_full)
    assert dict(zip(points.rows["place"], points.rows["difference"].round(6), strict=True)) == {
        "query": -1,
        "layernorm": 1,
    }
    assert points.remark.startswith(" In rte not all is held against one full fine-tuning: yardsticks are left out.")


def test_captions_name_the_full_fine_tuning_that_differences_are_from(two_full: Path) -> None:
    table, found = compared(two_full)
    said = "held against full fine-tuning of precision 32-true (2 seeds, mean 80.0), not the one shown."
    assert f" All: {said}" in to_markdown(table)
    assert "Full fine-tuning itself" not in to_markdown(table)
    latex = to_latex(table)
    assert said in latex[latex.index("caption{") :]
    assert set(found["full_mean"].round(6)) == {0.8}
    seeds(two_full, 0.87, 0.87, module="query", precision="bf16-mixed")
    text = to_markdown(compared(two_full)[0])
    assert f" layernorm, frozen: {said}" in text
    assert "Full fine-tuning itself: minilm, rte (local), full, all layers: 2 recipes. Shown: precision bf16" in text


def test_the_caption_says_that_recovery_is_between_scores_that_are_not_shown(two_full: Path) -> None:
    said = "; both are those trained and scored as the cell was, which for some cells are not the ones shown"
    seeds(two_full, 0.71, 0.69, module="value")
    (table,) = module_tables(summarise(collect(two_full).runs))
    assert said in table.caption
    for folder in two_full.glob("minilm/rte/full/all/*bf16-mixed"):
        (folder / "record.json").unlink()
    (table,) = module_tables(summarise(collect(two_full).runs))
    assert "percent of the way" in table.caption
    assert said not in table.caption


def test_a_yardstick_takes_no_mark_away_and_wins_none(tmp_path: Path) -> None:
    for module, score in (("full", 0.8), ("layernorm", 0.7)):
        seeds(tmp_path, score, score, module=module, precision="bf16-mixed", select_on="holdout")
    yardstick(tmp_path, "cosine", 0.9, data="sha256:other")
    (table,) = module_tables(summarise(collect(tmp_path).runs))
    assert {row[0]: row[2].is_best for row in table.rows} == {"layernorm": False, "full": True, "cosine": False}
    assert "Computed in" not in table.caption
    assert "Best epoch chosen on a tenth of train" in table.caption


def test_limits_of_training_say_nothing_of_a_yardstick(tmp_path: Path) -> None:
    yardstick(tmp_path, "cosine", 0.6, config={"trainer": {"limit_train_batches": 1, "limit_val_batches": 1.0}})
    assert collect(tmp_path).runs["part"].tolist() == [""]


def test_the_appendix_counts_the_seeds_of_each_number(tmp_path: Path) -> None:
    for module, scores in (("full", (0.8, 0.8, 0.8)), ("attention", (0.8, 0.8, 0.8)), ("ffn", (0.9,))):
        seeds(tmp_path, *scores, module=module)
    seeds(tmp_path, 0.7, 0.7, module="query")
    record(tmp_path, module="query", layers="0", seed=5)
    runs = collect(tmp_path).runs
    (table,) = hyperparameter_tables(mark_shown(runs, summarise(runs)))
    assert {row[1]: row[2] for row in table.rows} == {"attention, full": "3", "ffn": "1", "query": "1 to 2"}


def test_custom_selections_are_rows_and_not_recipes_of_one(tmp_path: Path) -> None:
    for patterns, score in ((["LayerNorm.weight"], 0.7), (["query", r"key\.bias", "a\n"], 0.5)):
        seeds(tmp_path, score, score, module="custom", patterns=patterns)
    seeds(tmp_path, 0.6, 0.6, patterns=[])
    (table,) = module_tables(summarise(collect(tmp_path).runs))
    assert [row[0] for row in table.rows] == [
        "layernorm",
        "custom: LayerNorm.weight",
        r"custom: query, key\.bias, a\n",
    ]
    assert not table.notes


def test_selections_by_a_class_of_ones_own_are_told_apart_by_its_arguments(tmp_path: Path) -> None:
    for count in (5, 9):
        file = record(tmp_path, module="Largest", seed=count) / "record.json"
        values = json.loads(file.read_text())
        values["recipe"]["callbacks"] = {"selection": {"_target_": "mine.Largest", "count": count}}
        file.write_text(json.dumps(values))
    assert set(collect(tmp_path).runs["module"]) == {"Largest: count 5", "Largest: count 9"}


def test_one_custom_selection_keeps_its_name(tmp_path: Path) -> None:
    seeds(tmp_path, 0.7, 0.7, module="custom", patterns=["LayerNorm.weight"])
    assert set(collect(tmp_path).runs["module"]) == {"custom"}


def test_runs_behind_links_to_folders_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, disk = tmp_path / "runs", tmp_path / "disk"
    seeds(runs, 0.8, 0.8, module="full")
    seeds(disk, 0.7, 0.7)
    (runs / "big").symlink_to(disk / "minilm" / "rte")
    (runs / "again").symlink_to(disk)
    (runs / "own").symlink_to(runs / "minilm")
    (runs / "above").symlink_to(tmp_path)
    (disk / "back").symlink_to(runs)
    (disk / "loop").symlink_to(disk / "loop")
    found = collect(runs)
    assert not found.left_out
    assert sorted(Path(folder).parts[:3] for folder in found.runs["folder"]) == [
        *[("again", "minilm", "rte")] * 2,
        *[("minilm", "rte", "full")] * 2,
    ]
    assert all((runs / folder / "record.json").is_file() for folder in found.runs["folder"])
    main(["results", str(runs)])
    assert "4 runs, 4 finished" in capsys.readouterr().out
