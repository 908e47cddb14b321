"""The figures of a report: what they show, and their size."""

import io
import re
import warnings
from pathlib import Path

import pytest
from matplotlib import image

from ptuning.cli.main import main
from ptuning.results import Results, collect, read_results, summarise, write_report
from ptuning.results.picture import FigureSize, Picture
from ptuning.results.points import Points, curve_points, describe_cells, look_names, styles
from support.records import NOW, record, seeds


def yardstick(runs: Path, name: str, score: float, task: str = "rte", **given: str) -> None:
    """Write the record of a yardstick."""
    record(runs, module=name, kind="yardstick", score=score, task=task, trainable_parameters=0, **given)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks with yardsticks, one of which lies far below, and one task without full fine-tuning."""
    runs = tmp_path_factory.mktemp("place") / "runs"
    for task in ("rte", "stsb"):
        seeds(runs, 0.80, 0.82, 0.81, module="full", task=task, trainable_parameters=1_000_000)
        seeds(runs, 0.81, 0.84, 0.82, task=task)
        seeds(runs, 0.79, 0.80, 0.81, module="frozen", task=task, trainable_parameters=0)
    record(runs, module="bias", score=0.80, task="stsb")
    seeds(runs, 0.7, 0.8, task="cola", epochs=1)
    yardstick(runs, "constant", 0.75)
    yardstick(runs, "constant", 0.0, "stsb")
    yardstick(runs, "cosine", 0.83, "stsb")
    yardstick(runs, "probe_cls", 0.83, "stsb", data="sha256:other")
    return runs


@pytest.fixture(scope="module")
def results(runs: Path) -> Results:
    return read_results(runs)


def picture(results: Results, kind: str) -> Picture:
    """The one figure whose name ends so."""
    (found,) = (shown for _, shown in results.pictures if shown.slug.endswith(kind))
    return found


def test_the_forest_plot_opens_a_backbone_and_shows_the_differences_of_the_table(results: Results) -> None:
    drawn = picture(results, "forest")
    assert results.pictures[0][1] is drawn
    values = {(row["panel"], row["place"]): row for row in drawn.spec["data"]["values"]}
    ours = values["rte", "layernorm"]
    (row,) = results.comparisons.query("task == 'rte' and module == 'layernorm'").to_dict("records")
    for name in ("difference", "low", "high"):
        assert ours[name] == pytest.approx(100 * row[name], abs=1e-4)
    assert ours["low_task"] is None  # no predictions were kept
    assert values["rte", "head alone"]["difference"] == pytest.approx(-1)
    assert values["rte", "constant answer"]["difference"] == pytest.approx(-6)
    assert values["stsb", "untrained cosine"]["difference"] == pytest.approx(2)
    assert {panel for panel, _ in values} == {"rte", "stsb"}
    assert drawn.spec["facet"]["sort"] == ["stsb", "rte"]


def test_what_lies_far_away_is_an_arrow_with_its_number(results: Results) -> None:
    drawn = picture(results, "forest")
    texts = {row["text"] for row in drawn.spec["data"]["values"]}
    assert texts == {"", "◀ −81.0"}
    assert ">◀ −81.0</text>" in drawn.svg.decode()
    assert "An arrow: beyond the axis." in drawn.caption
    (left, right) = drawn.spec["spec"]["layer"][2]["encoding"]["x"]["scale"]["domain"]
    assert -10 < left < -6
    assert right < 10


def test_a_yardstick_of_other_data_and_a_task_without_full_fine_tuning_are_not_in_the_forest_plot(
    results: Results,
) -> None:
    drawn = picture(results, "forest").svg.decode()
    assert "linear probe" not in drawn
    assert "cola" not in drawn


def test_the_page_shows_the_forest_plot_before_its_tables(results: Results, tmp_path: Path) -> None:
    page = write_report(results, tmp_path, NOW).read_text()
    places = [page.index(text) for text in ("1-minilm-forest.pdf", "1-minilm-modules.md", "<h3>Figures", "curves.pdf")]
    assert places == sorted(places)
    assert page.count("1-minilm-forest.pdf") == 1


@pytest.mark.slow
def test_synthetic_data_has_a_forest_plot_of_its_own(tmp_path: Path) -> None:
    for source in ("local", "synthetic"):
        for module in ("full", "query"):
            seeds(tmp_path, 0.7, 0.8, module=module, source=source, epochs=1)
    slugs = [shown.slug for _, shown in read_results(tmp_path).pictures if shown.leads]
    assert slugs == ["1-minilm-forest", "1-minilm-synthetic-forest"]


def test_the_axis_names_the_score_and_every_seed_is_a_dot(results: Results) -> None:
    drawn = picture(results, "stsb-local-parameters")
    assert ">STS-B: mean of Pearson and Spearman × 100</text>" in drawn.svg.decode()
    assert drawn.spec["layer"][0]["encoding"]["y"]["title"] == "STS-B: mean of Pearson and Spearman × 100"
    each = {row["module"]: row["each"] for row in drawn.spec["data"]["values"]}
    assert each == {"layernorm": [81, 84, 82], "bias": [], "full": [80, 82, 81], "frozen": [79, 80, 81]}
    assert ">RTE: accuracy × 100</text>" in picture(results, "rte-local-curves").svg.decode()


def test_full_fine_tuning_and_the_constant_answer_are_lines_where_there_is_room(results: Results) -> None:
    near, far = picture(results, "rte-local-parameters"), picture(results, "stsb-local-parameters")
    lines = {
        row["line"]: row.get("y")
        for drawn in (near, far)
        for layer in drawn.spec["layer"]
        for row in layer.get("data", {}).get("values", ())
    }
    assert lines == {"full fine-tuning": 81, "constant answer": 75, "▼ constant answer 0.0": None}
    assert ">constant answer</text>" in near.svg.decode()
    assert ">▼ constant answer 0.0</text>" in far.svg.decode()


def test_a_score_of_custom_data_is_named_by_its_own_metrics(tmp_path: Path) -> None:
    for module in ("query", "full"):
        seeds(tmp_path, 0.7, 0.8, task="my_task", module=module, score_of=["f1_macro"], epochs=1)
    assert ">my_task: macro F1 × 100</text>" in picture(read_results(tmp_path), "parameters").svg.decode()


def curves(runs: Path) -> Points:
    collected = collect(runs, history=True)
    assert collected.history is not None
    points = curve_points(describe_cells(summarise(collected.runs), collected.runs), collected.history, collected.runs)
    assert points is not None
    return points


def test_a_curve_below_minus_one_is_drawn_where_a_score_has_no_floor(tmp_path: Path) -> None:
    record(tmp_path, module="full", score=0.5, scores=[-2.4, 0.5], task="price", score_of=["r2"])
    assert curves(tmp_path).rows["mean"].tolist() == [[-240, 50]]
    record(tmp_path, module="query", score=0.5, scores=[-2.4, -0.2, 0.5])
    (drawn,) = curves(tmp_path).rows.query("module == 'query'").to_dict("records")
    assert drawn["mean"] == [-20, 50]  # no correlation


def test_a_seed_that_ended_early_keeps_its_last_score_in_the_curve(tmp_path: Path) -> None:
    for seed, scores in enumerate(([0.2, 0.4], [0.4]), start=1):
        record(tmp_path, module="full", seed=seed, score=0.4, scores=scores)
    drawn = curves(tmp_path)
    (row,) = drawn.rows.to_dict("records")
    assert {name: row[name] for name in ("mean", "least", "most")} == {
        "mean": pytest.approx([30, 40]),
        "least": [20, 40],
        "most": [40, 40],
    }
    assert drawn.remark == " A seed that ended before others keeps its last score."


def test_a_seed_that_was_run_twice_is_once_in_the_curve(tmp_path: Path) -> None:
    for score, ended in ((0.9, "2026-01-01"), (0.5, "2026-02-01")):
        record(tmp_path, module="full", score=score, ended=f"{ended}T10:00:00+00:00")
    assert curves(tmp_path).rows["mean"].tolist() == [[25, 50]]


def test_no_two_curves_of_a_figure_look_alike(tmp_path: Path) -> None:
    names = ["query", "layernorm", "key+value", "query+value", *(f"m{number}" for number in range(30))]
    looks = styles(names)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(names)
    assert looks["query"] == styles(["query"])["query"]
    assert look_names(["query", "query", "key"], ["query 0", "query 1", "key 0"]) == ["query 0", "query 1", "key"]
    for layers in ("0", "1"):
        record(tmp_path, module="query", layers=layers)
    drawn = picture(read_results(tmp_path), "curves")
    dots = re.findall(r"<use [^>]*style=\"fill: (#\w+)", drawn.svg.decode())
    assert len(set(dots) - {"#1b1b1f"}) == 2
    assert len(set(drawn.spec["layer"][0]["encoding"]["color"]["scale"]["range"])) == 2


def test_names_that_have_no_room_and_letters_without_a_glyph_are_told(tmp_path: Path) -> None:
    for number in range(26):
        record(tmp_path, module=f"m{number:02}{'x' * 60}", task="评论", epochs=1, score_of=["accuracy"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("always", "Glyph")
        with warnings.catch_warnings(record=True) as told:
            drawn = picture(read_results(tmp_path), "parameters")
    assert not told
    assert " 24 of 26 modules are named; the table has all." in drawn.caption
    assert drawn.caption.endswith(" Boxes in PNG and PDF: letters that their font lacks; the SVG has them.")
    assert f">m00{'x' * 17}…{'x' * 20}</text>" in drawn.svg.decode()


@pytest.mark.slow
def test_every_file_of_every_figure_has_the_width_and_the_letters_that_were_asked_for(
    runs: Path,
) -> None:
    width, font_size = 2.5, 8.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a figure without room for its axes
        results = read_results(runs, size=FigureSize(width, font_size))
    for _, drawn in results.pictures:
        assert image.imread(io.BytesIO(drawn.png)).shape[1] == round(160 * width)
        assert float(re.findall(r'<svg[^>]* width="([\d.]+)pt"', drawn.svg.decode())[0]) == pytest.approx(72 * width)
        assert float(re.findall(rb"/MediaBox \[ 0 0 ([\d.]+)", drawn.pdf)[0]) == pytest.approx(72 * width)
        sizes = {float(size) for size in re.findall(r"font: ([\d.]+)px", drawn.svg.decode())}
        assert sizes <= {font_size - 1, font_size, font_size + 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--figure-width", "0"], "width is 1.5 to 20 inches, not 0"),
        (["--figure-width", "nan"], "not nan"),
        (["--font-size", "80"], "font size is 4 to 24 points, not 80"),
        (["--figure-width", "3", "--font-size", "12"], "take a font size of at most 10.8, or a width of at least 3.3"),
    ],
)
def test_a_size_that_cannot_be_drawn_is_one_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(runs), "--out", str(tmp_path), *given])
    answer = capsys.readouterr().err
    assert said in answer
    assert answer.count("\n") == 1
