"""What becomes of a folder of runs: the table, the means over seeds, the report and its files."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ptuning import UserError
from ptuning.cli.main import main
from ptuning.results import collect, mark_shown, read_results, summarise, write_report, write_table
from ptuning.results.labels import spread
from ptuning.results.report import one_line
from ptuning.results.text_table import Cell, hide_folders
from support.records import NOW, record, seeds
from support.running import TINY, Train, run_in


def only(summary: pd.DataFrame, **wanted: str) -> pd.Series:
    """Return the one row that has these values."""
    for name, value in wanted.items():
        summary = summary[summary[name] == value]
    assert len(summary) == 1
    return summary.iloc[0]


def test_the_room_reads_and_reports_without_torch(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", 0.6, 0.7)
    code = (
        "import sys; from pathlib import Path; from ptuning.results import read_results, write_report;"
        f"write_report(read_results({str(tmp_path / 'runs')!r}), Path({str(tmp_path / 'report')!r}));"
        "print(sorted({'torch', 'transformers', 'lightning', 'datasets', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "report" / "index.html").exists()


def test_a_row_holds_what_a_real_run_recorded(tmp_path: Path) -> None:
    run = run_in(tmp_path, *TINY, "module=layernorm", "task=mrpc", "seed=3")
    collected = collect(tmp_path, history=True)
    row = collected.runs.iloc[0]
    assert row["folder"] == run.path.relative_to(tmp_path).as_posix()
    for column in ("backbone", "task", "source", "module", "layers", "subset", "seed", "status", "score", "key"):
        assert row[column] == run.record[column]
    assert row["best/f1"] == run.record["best"]["f1"]
    assert row["last_score"] == run.record["last"]["score"]
    assert row["lr"] == run.record["optimisation"]["lr"]
    assert row["seconds/train"] == run.record["seconds"]["train"]
    assert row["data_id"] == run.record["recipe"]["data"]
    assert row["max_length"] == run.record["recipe"]["max_length"]
    numbers = ["trainable_parameters", "head_parameters", "total_parameters", "trainable_percent", "max_epochs"]
    numbers += ["batch_size", "train_examples_per_second", "peak_memory_mb"]
    assert [row[name] for name in numbers] == [run.record[name] for name in numbers]
    assert list(collected.history["score"]) == [entry["score"] for entry in run.record["history"]]
    assert summarise(collected.runs)["seeds"].tolist() == [1]


def test_files_that_are_no_records_are_left_out_with_a_reason(tmp_path: Path) -> None:
    record(tmp_path)
    bad = {
        "half": '{"task": "rte", "sco',
        "empty": "",
        "list": "[1, 2]",
        "other": '{"name": "x", "seed": 1}',
        "bytes": b"\xff\xfe{",
        "scoreless": json.dumps(
            dict.fromkeys(("backbone", "task", "source", "module", "layers"), "x") | {"seed": 1, "status": "finished"}
        ),
    }
    for name, content in bad.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / ".sweeps" / "record.json").write_text("never looked at")
    collected = collect(tmp_path)
    assert len(collected.runs) == 1
    reasons = {left.file: left.reason for left in collected.left_out}
    assert set(reasons) == {f"{name}/record.json" for name in bad}
    assert "half-written" in reasons["half/record.json"]
    assert reasons["empty/record.json"].startswith("empty")
    assert reasons["list/record.json"] == "no JSON object"
    assert "no backbone, task" in reasons["other/record.json"]
    assert "without a score" in reasons["scoreless/record.json"]


def test_learning_curves_are_read_when_asked_for(tmp_path: Path) -> None:
    record(tmp_path, score=0.8, epochs=4)
    assert collect(tmp_path).history is None
    history = collect(tmp_path, history=True).history
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["score"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert set(history["folder"]) == set(collect(tmp_path).runs["folder"])


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_runs_is_one_sentence(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "nothing"
    if made:
        folder.mkdir()
    with pytest.raises(UserError, match="nothing") as caught:
        write_report(read_results(folder), tmp_path / "report")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_means_deviations_and_percent_of_full_are_over_seeds(tmp_path: Path) -> None:
    seeds(tmp_path, 0.6, 0.7, 0.8)
    seeds(tmp_path, 0.8, 0.9, module="full")
    seeds(tmp_path, 0.5, module="bias")
    record(tmp_path, seed=9, score=0.0, status="failed")
    summary = summarise(collect(tmp_path).runs)
    layernorm = only(summary, module="layernorm")
    assert layernorm["seeds"] == 3
    assert layernorm["mean"] == pytest.approx(0.7)
    assert layernorm["std"] == pytest.approx(0.1)  # one degree of freedom taken off
    assert layernorm["percent_of_full"] == pytest.approx(100 * 0.7 / 0.85)
    assert layernorm["trainable_percent"] == pytest.approx(0.9216)
    assert pd.isna(only(summary, module="bias")["std"])
    assert only(summary, module="full")["percent_of_full"] == pytest.approx(100)
    assert (summary["note"] == "").all()


@pytest.mark.parametrize(
    "full",
    [
        {"task": "mrpc"},
        {"backbone": "bert-base"},
        {"source": "synthetic"},
        {"data": "sha256:other"},
        {"layers": "0"},
        {"score": 0.0},
    ],
    ids=lambda full: next(iter(full)),
)
def test_percent_of_full_is_missing_without_full_tuning_of_the_same_data(tmp_path: Path, full: dict[str, Any]) -> None:
    record(tmp_path)
    record(tmp_path, module="full", **full)
    assert pd.isna(only(summarise(collect(tmp_path).runs), module="layernorm")["percent_of_full"])


def test_recipes_are_never_averaged_and_the_choice_is_told(tmp_path: Path) -> None:
    seeds(tmp_path, 0.6, 0.7, lr=1e-3)
    seeds(tmp_path, 0.99, lr=3e-3)
    cell = only(summarise(collect(tmp_path).runs), module="layernorm")
    assert (cell["seeds"], cell["lr"]) == (2, 1e-3)
    assert cell["mean"] == pytest.approx(0.65)
    assert "2 recipes" in cell["note"]
    assert "Shown: lr 0.001 (2 seeds, mean 65.0)" in cell["note"]
    assert "Left out: lr 0.003 (1 seed, mean 99.0)" in cell["note"]


A_PART = {
    "batches of train": ({"limit_train_batches": 5}, {}, "trained on 5 of 115 batches"),
    "a share of train": ({"limit_train_batches": 0.1}, {}, "trained on 11 of 115 batches"),
    "batches of dev": ({"limit_val_batches": 1}, {}, "scored on a part of dev: limit_val_batches=1"),
    "a share of dev": ({"limit_val_batches": 0.5}, {}, "scored on a part of dev: limit_val_batches=0.5"),
    "one batch of both": ({"overfit_batches": 1}, {}, "trained on 1 of 115 batches, scored on a part of dev"),
    "counted batches": ({"limit_train_batches": 7}, {"partial_training": [7, 115]}, "trained on 7 of 115 batches"),
    "counted rows": (
        {"limit_val_batches": 2},
        {"partial_evaluation": {"validation": [128, 408]}, "partial_training": []},
        "scored on 128 of 408 rows",
    ),
    "one dev set of two": (
        {"limit_val_batches": 2},
        {"partial_evaluation": {"validation_matched": [128, 9815]}},
        "scored on 128 of 9,815 rows of matched",
    ),
}


@pytest.mark.parametrize(("trainer", "counted", "said"), A_PART.values(), ids=A_PART)
def test_runs_on_a_part_of_the_data_never_take_the_place_of_runs_on_all_of_it(
    tmp_path: Path, trainer: dict[str, Any], counted: dict[str, Any], said: str
) -> None:
    seeds(tmp_path, 0.5)
    seeds(tmp_path, 0.9, 0.91, 0.92, trainer=trainer, **counted)
    seeds(tmp_path, 0.8, module="bias", trainer=trainer, **counted)
    seeds(tmp_path, 0.6, module="full")
    runs = collect(tmp_path).runs
    summary = summarise(runs)
    cell, alone = only(summary, module="layernorm"), only(summary, module="bias")
    assert (cell["seeds"], cell["mean"], cell["part"], cell["recipes"]) == (1, 0.5, "", 2)
    name, value = next(iter(trainer.items()))
    assert f"Shown: {name} not set (1 seed, mean 50.0)" in cell["note"]
    assert f"Left out: {name} {value} (3 seeds, mean 91.0; {said}" in cell["note"]
    assert said in alone["note"]
    assert said in alone["part"]
    assert pd.isna(alone["percent_of_full"])
    assert mark_shown(runs, summary).groupby("module")["shown"].sum().to_dict() == {
        "bias": 1,
        "full": 1,
        "layernorm": 1,
    }


@pytest.mark.parametrize(
    ("trainer", "counted"),
    [
        ({"limit_train_batches": 1.0, "limit_val_batches": 1.0}, {}),
        ({"limit_train_batches": 115}, {}),
        ({"limit_val_batches": 100}, {"partial_evaluation": {}}),
        ({"overfit_batches": 0.0}, {}),
        ({"max_steps": 5}, {}),
        ({"max_time": "00:00:05:00"}, {}),
        ({"limit_predict_batches": 1}, {}),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else value,
)
def test_a_limit_that_leaves_nothing_out_and_an_early_end_are_runs_on_all_of_the_data(
    tmp_path: Path, trainer: dict[str, Any], counted: dict[str, Any]
) -> None:
    seeds(tmp_path, 0.5)
    for seed in (2, 3):
        record(tmp_path, seed=seed, score=0.9, trainer=trainer, **counted)
    cell = only(summarise(collect(tmp_path).runs), module="layernorm")
    changes_nothing = "limit_predict_batches" in trainer
    assert (cell["seeds"], cell["part"]) == (3 if changes_nothing else 2, "")
    assert ("not set (1 seed, mean 50.0)" in cell["note"]) != changes_nothing


def test_what_is_said_of_several_cells_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for module in ("layernorm", "query", "key"):
        seeds(runs, 0.6, module=module, trainer={"limit_val_batches": 1})
    seeds(runs, 0.7, module="value", trainer={"limit_train_batches": 5})
    main(["results", str(runs)])
    shown = capsys.readouterr().out
    assert len(re.findall(r"60\.0‡1\b", shown)) == 3
    assert shown.count("limit_val_batches=1") == 1
    assert "‡1 On a part of the data, scored on a part of dev: limit_val_batches=1." in shown
    assert "value, all layers: on a part of the data, trained on 5 of 115 batches." in shown


def test_what_differs_is_said_at_the_number_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, place = tmp_path / "runs", tmp_path / "report"
    seeds(runs, 0.6, 0.7)
    seeds(runs, 0.99, 0.98, 0.97, lr=3e-3, trainer={"limit_train_batches": 5})
    seeds(runs, 0.6, 0.8, layers="0", epochs=2)
    seeds(runs, 0.5, layers="0", epochs=4)
    seeds(runs, 0.55, module="query", trainer={"limit_val_batches": 1})
    seeds(runs, 0.8, 0.9, module="full")
    seeds(runs, 0.7, module="full", precision="bf16-mixed")
    left_out = "Left out: lr 0.003, limit_train_batches 5 (3 seeds, mean 98.0; trained on 5 of 115 batches)"
    other_full = "Shown: precision 32-true (2 seeds, mean 85.0). Left out: precision bf16-mixed (1 seed, mean 70.0)."
    a_part = "query, all layers: on a part of the data, scored on a part of dev: limit_val_batches=1."
    epochs = (
        "layernorm, layers 0: 2 recipes. Shown: epochs 2 (2 seeds, mean 70.0). Left out: epochs 4 (1 seed, mean 50.0)"
    )

    page = write_report(read_results(runs), place).read_text()
    assert "<td>65.0<sup>‡2</sup> ± 7.1" in page
    assert "<td>55.0<sup>‡1</sup></td>" in page
    markdown = (place / "tables" / "1-minilm-modules.md").read_text()
    assert "| layernorm | 0.92 | 65.0‡2 ± 7.1 [1.5, 128.5] |" in markdown
    assert "| query | 0.92 | 55.0‡1 |" in markdown
    latex = (place / "tables" / "1-minilm-modules.tex").read_text()
    assert r"layernorm & 0.92 & 65.0$^{\ddagger 2}$ $\pm$ 63.5 \\" in latex
    main(["results", str(runs)])
    shown = capsys.readouterr().out
    assert re.search(r"layernorm +0\.92 +65\.0‡2 ± 7\.1 ", shown)
    main(["results", str(runs), "--out", str(tmp_path / "runs.csv")])
    told = capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "runs.csv")
    ours = rows[(rows["module"] == "layernorm") & (rows["layers"] == "all")]
    assert ours.loc[ours["shown"], "score"].tolist() == [0.6, 0.7]
    assert set(ours.loc[~ours["shown"], "part"]) == {"trained on 5 of 115 batches"}
    summary = (place / "tables" / "summary.csv").read_text()
    for text in (page, markdown, latex.replace(r"\_", "_"), shown, told, summary, "".join(rows["note"].fillna(""))):
        for note in (left_out, other_full, a_part):
            assert note in text
    compared = (place / "tables" / "1-minilm-rte-local-full.md").read_text()
    assert "| layernorm | all | −20.0‡2 |" in compared
    assert "| query | all | –‡1 |" in compared
    assert "not alike: part of the data scored on a part of dev: limit_val_batches=1 here, all there" in compared
    assert f"Full fine-tuning itself: minilm, rte (local), full, all layers: 2 recipes. {other_full}" in compared
    for text in (page, compared, (place / "tables" / "1-minilm-layers.md").read_text()):
        assert epochs in text
    assert "70.0‡" in (place / "figures" / "1-minilm-rte-local-layers.svg").read_text()
    assert "layernorm‡" in (place / "figures" / "1-minilm-rte-local-parameters.svg").read_text()


def test_a_table_without_competing_recipes_has_no_marks(report: Path) -> None:
    assert "‡" not in (report / "index.html").read_text()
    assert "<dt>precision</dt><dd>32-true</dd>" in (report / "index.html").read_text()


def test_the_precision_that_was_recorded_is_part_of_the_recipe_and_the_one_that_was_typed_is_not(
    tmp_path: Path,
) -> None:
    typed = ("32-true", "auto", "32")  # an old record's recipe has what it became, a new one's what was typed
    for seed, precision in enumerate(typed, start=1):
        record(tmp_path, seed=seed, score=0.6, trainer={"precision": precision, "accelerator": "cpu"})
    for seed in (4, 5):
        record(tmp_path, seed=seed, score=0.9, precision="bf16-mixed", trainer={"precision": "auto", "devices": 1})
    cell = only(summarise(collect(tmp_path).runs), module="layernorm")
    assert (cell["seeds"], cell["mean"], cell["precision"]) == (3, pytest.approx(0.6), "32-true")
    assert "Shown: precision 32-true (3 seeds, mean 60.0). Left out: precision bf16-mixed (2 seeds" in cell["note"]


def test_a_run_says_before_and_after_which_part_of_the_data_it_takes(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=0.5", "data.eval_batch_size=8")
    run = train("task=rte", "trainer.max_epochs=1", *limits)
    said = " ".join(capsys.readouterr().out.split())
    assert "(96 train: 2 of 6 batches, 40 validation: 2 of 5 batches)" in said
    (score,) = re.findall(r"score [\d.]+ \(synthetic data\) \((.*?)\) at epoch", said)
    assert score.startswith("trained on 2 of 6 batches, scored on ")
    assert collect(run.path.parents[4]).runs["part"].tolist() == [score]
    train("task=rte", "trainer.max_epochs=1", *limits)
    assert "finished earlier in 32-true on cpu" in " ".join(capsys.readouterr().out.split())


def test_equally_many_seeds_leave_the_choice_to_the_mean(tmp_path: Path) -> None:
    seeds(tmp_path, 0.6, 0.7, lr=1e-3)
    seeds(tmp_path, 0.7, 0.8, lr=3e-3)
    assert only(summarise(collect(tmp_path).runs), module="layernorm")["lr"] == 3e-3


def test_a_seed_that_was_run_twice_counts_once_by_its_later_end(tmp_path: Path) -> None:
    record(tmp_path, score=0.8, ended="2026-02-01T10:00:00+00:00")
    record(tmp_path, score=0.6, ended="2026-01-01T10:00:00+00:00")
    cell = only(summarise(collect(tmp_path).runs), module="layernorm")
    assert (cell["seeds"], cell["mean"]) == (1, 0.8)


def test_rows_stand_in_the_order_of_the_block(tmp_path: Path) -> None:
    expected = ["query", "output_layernorm", "embeddings", "layernorm", "bias", "full", "frozen", "key+query", "zebra"]
    for module in reversed(expected):
        record(tmp_path, module=module)
    for layers in ("10", "2", "0-5"):
        record(tmp_path, module="query", layers=layers)
    record(tmp_path, task="cola")
    record(tmp_path, task="mine")
    summary = summarise(collect(tmp_path).runs)
    rte = summary[summary["task"] == "rte"]
    assert list(dict.fromkeys(rte["module"])) == expected
    assert rte.loc[rte["module"] == "query", "layers"].tolist() == ["all", "0-5", "2", "10"]
    assert list(dict.fromkeys(summary["task"])) == ["cola", "rte", "mine"]


def test_tables_are_written_as_the_suffix_says(tmp_path: Path) -> None:
    seeds(tmp_path / "runs", 0.6, 0.7)
    table = collect(tmp_path / "runs").runs
    write_table(table, tmp_path / "t.csv")
    write_table(table, tmp_path / "t.parquet")
    assert pd.read_csv(tmp_path / "t.csv")["score"].tolist() == [0.6, 0.7]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)
    with pytest.raises(UserError, match=r"\.csv or \.parquet"):
        write_table(table, tmp_path / "t.xlsx")
    with pytest.raises(UserError, match="no folder"):
        write_table(table, tmp_path / "none" / "t.csv")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a folder that holds something of everything."""
    runs = tmp_path_factory.mktemp("place") / "my_runs"
    seeds(runs, 0.6, 0.7)
    seeds(runs, 0.8, 0.9, module="full", trainable_parameters=999_000)
    seeds(runs, 0.55, module="attention_layernorm", task="my_task")
    record(runs, source="synthetic", score=0.99, task="cola")
    for layer in (0, 2):
        record(runs, layers=str(layer), score=0.5 + layer / 100)
    record(runs, task="mrpc", layers="0-1", source="synthetic", score=0.51)
    trace = '  File "/home/someone/a.py", line 3\nRuntimeError: <no> space on /home/someone/runs/x\n'
    record(runs, seed=7, status="failed", reason=trace)
    record(runs, seed=8, status="interrupted")
    record(runs, seed=9, status="running")
    (runs / "torn").mkdir()
    (runs / "torn" / "record.json").write_text("{")
    return write_report(read_results(runs), runs.parent / "report", NOW).parent


class _Page(HTMLParser):
    """Links and elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def test_the_page_needs_no_network_and_its_links_lead_somewhere(report: Path) -> None:
    text = re.sub(r"<script>.*?</script>", "", (report / "index.html").read_text(), flags=re.DOTALL)
    page = _Page(text)
    assert not {"img", "iframe", "object", "embed"} & set(page.tags)
    assert page.tags.count("svg") == len(list((report / "figures").glob("*.svg"))) > 0
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert (report / link).is_file()


def test_the_header_says_what_when_and_from_where_without_machine_paths(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "12 runs in the folder <strong>my_runs</strong>" in " ".join(text.split())
    assert "2026-01-02 03:04 UTC" in text
    assert "torch 2.13.0" in text
    for file in (file for file in report.rglob("*") if file.suffix in (".html", ".md", ".tex", ".svg")):
        assert str(report.parent) not in file.read_text()
        assert "/home/" not in file.read_text()


def test_runs_without_a_result_are_listed_with_a_line(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "RuntimeError: &lt;no&gt; space on …/x" in text
    assert "stopped from outside" in text
    assert "still running, or killed" in text
    assert "torn/record.json" in text


def test_markdown_and_latex_hold_the_module_table(report: Path) -> None:
    markdown = (report / "tables" / "1-minilm-modules.md").read_text()
    assert "| module | trainable % | cola † | rte | my_task |" in markdown
    assert "| attention_layernorm | 0.92 | – | – | 55.0 |" in markdown
    assert "| layernorm | 0.92 | 99.0† | 65.0 ± 7.1 [1.5, 128.5] | – |" in markdown
    assert "| full | 99.9 | – | 85.0 ± 7.1 [21.5, 148.5] | – |" in markdown
    assert "95 % t interval" in markdown
    assert "†: synthetic data" in markdown
    latex = (report / "tables" / "1-minilm-modules.tex").read_text()
    assert r"layernorm & 0.92 & 99.0$^\dagger$ & 65.0 $\pm$ 63.5 & -- \\" in latex
    assert r"full & 99.9 & -- & \textbf{85.0} $\pm$ 63.5 & -- \\" in latex
    (caption,) = (line for line in latex.splitlines() if line.startswith(r"\caption"))
    assert len(caption) < 200
    assert r"my\_task" in latex
    assert r"attention\_layernorm & 0.92 & -- & -- & 55.0 \\" in latex
    body = [line for line in latex.splitlines() if not line.startswith(("% ", r"\label"))]
    assert not re.search(r"(?<!\\)[_%]", "".join(body))
    assert r"\toprule" in latex


def test_what_is_synthetic_says_so_wherever_it_is_shown(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "<td>99.0†</td>" in text
    assert "51.0†" in (report / "tables" / "1-minilm-layers.md").read_text()
    synthetic = list((report / "figures").glob("*-synthetic-*.svg"))
    real = [file for file in (report / "figures").glob("*.svg") if file not in synthetic]
    assert synthetic
    assert real
    assert all("synthetic" in file.read_text() for file in synthetic)
    assert not any("synthetic" in file.read_text() for file in real)


def test_the_heat_map_shows_layers_that_nobody_trained_as_missing(report: Path) -> None:
    drawn = (report / "figures" / "1-minilm-rte-local-layers.svg").read_text()
    texts = re.findall(r">([^<>\s][^<>]*)</text>", drawn)
    assert [text for text in texts if text in ("50.0", "52.0", "–")] == ["50.0", "–", "52.0"]


def test_the_same_runs_give_the_same_bytes(report: Path) -> None:
    again = report.parent / "again"
    write_report(read_results(report.parent / "my_runs"), again, NOW)
    files = sorted(file.relative_to(report) for file in report.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert {file.suffix for file in files} == {"", ".html", ".md", ".tex", ".csv", ".png", ".svg", ".pdf"}
    assert all((report / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_a_sweep_in_which_nothing_finished_has_a_report_too(tmp_path: Path) -> None:
    record(tmp_path, status="failed", reason="ValueError: no")
    text = write_report(read_results(tmp_path), tmp_path / "report").read_text()
    assert "No run has finished yet" in text
    assert "ValueError: no" in text


def test_a_new_report_in_an_old_ones_place_leaves_nothing_stale_and_nobody_elses_files(tmp_path: Path) -> None:
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "report"
    record(first, task="rte", layers="0")
    record(first, task="cola")
    record(second, task="rte")
    write_report(read_results(first), out)
    (out / "figures" / "mine.png").write_bytes(b"mine")
    before = {path.name for path in (out / "figures").iterdir()}
    write_report(read_results(second), out)
    after = {path.name for path in (out / "figures").iterdir()}
    assert "mine.png" in after
    assert not [name for name in after if "cola" in name]
    assert after < before


def test_a_report_may_be_of_some_runs_alone(tmp_path: Path) -> None:
    chosen = record(tmp_path / "runs", task="rte")
    record(tmp_path / "runs", task="cola")
    collected = collect(tmp_path / "runs", only=[chosen])
    assert list(collected.runs["task"]) == ["rte"]
    assert (tmp_path / "runs" / collected.runs["folder"][0]).resolve() == chosen.resolve()


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    record(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(read_results(tmp_path / "runs"), tmp_path / "file")


def test_names_are_data_and_not_markup(tmp_path: Path) -> None:
    seeds(tmp_path, 0.5, 0.6, module="<b>a&b", backbone="a_b$c")
    seeds(tmp_path, 0.5, 0.6, module="x|y", backbone="a_b$c")
    page = write_report(read_results(tmp_path), tmp_path / "report")
    assert "<b>a" not in page.read_text()
    assert "&lt;b&gt;a&amp;b" in page.read_text()
    assert r"x\|y" in next((page.parent / "tables").glob("*.md")).read_text()
    assert r"a\_b\$c" in next((page.parent / "tables").glob("*.tex")).read_text()


def test_two_real_sources_of_a_task_stand_in_two_columns(tmp_path: Path) -> None:
    record(tmp_path, source="hub", score=0.6)
    record(tmp_path, source="local", score=0.7)
    write_report(read_results(tmp_path), tmp_path / "report")
    markdown = (tmp_path / "report" / "tables" / "1-minilm-modules.md").read_text()
    assert "| rte (hub) | rte (local) |" in markdown
    assert "| 60.0 | 70.0 |" in markdown


def test_data_of_one_name_that_differ_are_not_held_against_each_other(tmp_path: Path) -> None:
    record(tmp_path, module="layernorm", score=0.6, data="sha256:a")
    record(tmp_path, module="bias", score=0.7, data="sha256:b")
    write_report(read_results(tmp_path), tmp_path / "report")
    markdown = (tmp_path / "report" / "tables" / "1-minilm-modules.md").read_text()
    assert "In rte stand several data under one name, none held against another" in markdown
    assert "**" not in markdown


def test_the_best_of_a_column_is_none_that_saw_a_part_or_another_metric(tmp_path: Path) -> None:
    record(tmp_path / "part", module="layernorm", score=0.9, trainer={"limit_val_batches": 1})
    record(tmp_path / "part", module="bias", score=0.7)
    record(tmp_path / "part", module="ffn", score=0.6)
    record(tmp_path / "metric", module="layernorm", score=0.9)
    record(tmp_path / "metric", module="bias", score=0.7, score_of=["f1"])
    record(tmp_path / "epochs", module="layernorm", score=0.9)
    record(tmp_path / "epochs", module="bias", score=0.7, select_on="holdout")
    marked = {}
    for case in ("part", "metric", "epochs"):
        (table,) = read_results(tmp_path / case).tables
        marked[case] = [row[0] for row in table.rows if any(isinstance(cell, Cell) and cell.is_best for cell in row)]
        assert ("several metrics under one name" in table.caption) == (case == "metric")
    assert marked == {"part": ["bias"], "metric": [], "epochs": []}


def test_a_traceback_becomes_one_line_without_folders() -> None:
    assert one_line("Traceback:\n  File \"/a/b.py\"\nOSError: [Errno 28] full: '/data/x/last.ckpt'\n") == (
        "OSError: [Errno 28] full: '…/last.ckpt'"
    )
    assert one_line("torch.OutOfMemoryError: CUDA out of memory.\nTried 2 GiB") == (
        "torch.OutOfMemoryError: CUDA out of memory."
    )
    assert hide_folders("see https://example.org/a/b and 3/4 of it") == "see https://example.org/a/b and 3/4 of it"


def test_labels_are_moved_apart_and_stay_inside() -> None:
    places = spread([0.5, 0.5, 0.5, 0.98, 0.99], 0.1)
    assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in pairwise(places))
    assert places[-1] <= 1
    assert places[0] >= 0
