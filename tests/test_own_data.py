"""A reader's own data: what it is taken for, what a run on it leaves, what is told of mistakes.

All texts are made up by the tests' own generator; no score here means anything.
"""

import csv
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

import ptuning
from ptuning.cli import main as cli
from ptuning.cli.entry import explain_errors
from ptuning.config.compose import compose
from ptuning.config.schema import DataConfig
from ptuning.data.columns import read_columns
from ptuning.data.custom import CustomSource, EvaluationSource, custom_source
from ptuning.data.custom_options import CUSTOM_KEYS, custom_data
from ptuning.data.holdout import hold_out
from ptuning.data.table import Table
from ptuning.data.tokenize import tokenize
from ptuning.errors import DataError, UserError
from ptuning.results import collect
from ptuning.runs.folder import find_run
from ptuning.tasks.glue import TASKS, Task
from ptuning.tasks.metrics import METRICS, evaluate
from ptuning.training.plan import make_plan
from ptuning.training.run import locate
from support.callbacks import ctrl_c_at, stopped
from support.commands import TypeIt
from support.running import GLUE, ROOT, Run, run_in

TINY = ("task=custom", "backbone=tiny", "logger=none", "trainer.accelerator=cpu", "task.batch_size=16")
PAIR = "data.text=[premise,hypothesis]"
WORDS = tuple("dog cat bird man woman child runs sings sleeps eats red green old young happy slowly never".split())  # noqa: SIM905
Rows = Sequence[Mapping[str, Any]]


def made_up(count: int, labels: Sequence[Any] = ("no", "yes"), seed: int = 0) -> list[dict[str, Any]]:
    """Rows of two texts that differ from each other, and a label in turn."""
    rng = random.Random(seed)
    return [
        {
            "premise": " ".join(rng.choices(WORDS, k=6)) + f" {seed} {number}",
            "hypothesis": " ".join(rng.choices(WORDS, k=4)),
            "label": labels[number % len(labels)],
        }
        for number in range(count)
    ]


def write(file: Path, rows: Rows, **options: Any) -> Path:
    """Write rows in the format of the file's ending, as pandas does."""
    table = pd.DataFrame(list(rows))
    if file.suffix in (".csv", ".tsv"):
        table.to_csv(file, index=False, **{"sep": "\t" if file.suffix == ".tsv" else ",", **options})
    elif file.suffix == ".parquet":
        table.to_parquet(file)
    elif file.suffix == ".json":
        table.to_json(file, orient="records")
    else:
        table.to_json(file, orient="records", lines=True)
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test stands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(**keys: Any) -> CustomSource:
    """The source that ``data.KEY=VALUE`` makes."""
    return custom_source(custom_data(DataConfig(**{"source": "files", "text": ["premise", "hypothesis"], **keys})))


def said(make: Callable[[], Any]) -> str:
    """The one sentence that is told of a mistake."""
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files


@pytest.mark.parametrize("kind", ["labels as names", "labels as numbers", "scores"])
def test_every_format_holds_the_same_data(here: Path, kind: str) -> None:
    labels = {"labels as names": ("no", "yes"), "labels as numbers": (10, 9, 2), "scores": (0.5, 3.25, 4.0)}[kind]
    rows = made_up(30, labels)
    rows[0]["premise"] = 'She said "no", twice; then left.'
    rows[1]["premise"] = '"Quoted" at the start'
    rows[2]["premise"] = "Ünïcödé … 日本 \u2028 and a line separator"
    endings = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet")
    made = {e: source(train=str(write(here / f"a.{e}", rows)), dev=str(write(here / f"b.{e}", rows))) for e in endings}
    write(here / "semicolons.csv", rows, sep=";")
    made["semicolons"] = source(train="semicolons.csv", dev="b.csv", name="a")
    (here / "excel.csv").write_bytes(b"\xef\xbb\xbf" + (here / "a.csv").read_bytes().replace(b"\n", b"\r\n"))
    made["excel"] = source(train="excel.csv", dev="b.csv", name="a")

    first = made["csv"]
    assert list(first.train.texts[0]) == [row["premise"] for row in rows]
    expected = [float(r["label"]) if kind == "scores" else first.task.labels.index(str(r["label"])) for r in rows]
    assert first.train.labels == expected
    for found in made.values():
        assert found.task == first.task
        assert found.train.texts == first.train.texts
        assert found.train.labels == first.train.labels
        assert found.identity() == first.identity()


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda text: text.strip())


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.one_of(texts, st.just('a\n"b",\tc;')), texts), min_size=1, max_size=8),
    ending=st.sampled_from(["csv", "tsv"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_was_quoted_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ending: str, quoting: Any
) -> None:
    file = tmp_path_factory.mktemp("quoted") / f"a.{ending}"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="," if ending == "csv" else "\t", quoting=quoting)
        writer.writerows([("one", "two"), *rows])
    found = read_columns(file)
    assert list(zip(found.columns["one"], found.columns["two"], strict=True)) == [
        (one.strip(), two.strip()) for one, two in rows
    ]


def test_in_an_unquoted_tsv_a_quote_is_a_character(here: Path) -> None:
    lines = ['"Hello," he said\tyes', 'He said "hello"\tno', '"\tyes', 'and "so\tno']
    (here / "a.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    assert read_columns(here / "a.tsv").columns["text"] == [line.split("\t")[0] for line in lines]


@pytest.mark.skipif(not GLUE.is_dir(), reason="GLUE's own files are not here")
def test_the_files_of_glue_read_as_own_data() -> None:
    for folder, text, label, rows in (("MRPC", ["#1 String", "#2 String"], "Quality", 408), ("RTE", None, None, 277)):
        keys = {"text": text or ["sentence1", "sentence2"], "label": label}
        found = source(train=f"{GLUE}/{folder}/train.tsv", dev=f"{GLUE}/{folder}/dev.tsv", **keys)
        lines = (GLUE / folder / "dev.tsv").read_text(encoding="utf-8-sig").splitlines()
        assert len(found.validation) == rows == len(lines) - 1
        place = lines[0].split("\t").index(keys["text"][0])
        assert list(found.validation.texts[0]) == [line.split("\t")[place].strip() for line in lines[1:]]


# What the data is taken for


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["b", "a"], ("a", "b")),
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        ([1.0, 0.0], ("0", "1")),
        ([True, False], ("False", "True")),
        (["10", "9", "many"], ("10", "9", "many")),
        (["01", "1"], ("01", "1")),
        (["1_0", "1_1"], ("1_0", "1_1")),
        (["nan", "inf"], ("inf", "nan")),
        ([0.5, 1.0], ()),
        (["3.5", "4"], ()),
        (["1e-3", "4"], ()),
    ],
)
def test_whole_numbers_and_names_are_classes_in_order_and_numbers_with_a_fraction_are_scores(
    here: Path, values: list[Any], labels: tuple[str, ...]
) -> None:
    rows = made_up(24, values)
    (here / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = source(train="a.jsonl", dev="a.jsonl")
    assert found.task.labels == labels
    assert found.task.is_regression == (not labels)
    assert len(set(found.train.labels)) == len(set(values))
    assert source(train="a.jsonl", dev="a.jsonl", seed=5).identity() == found.identity()


def test_kind_is_typed_where_it_cannot_be_seen(here: Path) -> None:
    write(here / "a.csv", made_up(20, [1, 2, 5]))
    scores = source(train="a.csv", dev="a.csv", kind="regression")
    assert scores.train.labels[:3] == [1.0, 2.0, 5.0]
    assert scores.about()["labels"] == "regression: scores from 1 to 5, mean 2.55"
    write(here / "b.csv", made_up(20, [0.5, 1.5]))
    assert source(train="b.csv", dev="b.csv", kind="classification").task.labels == ("0.5", "1.5")


def test_counts_imbalance_and_overlap_are_told_and_decide_the_score(here: Path) -> None:
    write(here / "even.csv", made_up(30, ["ham", "ham", "spam"]))
    write(here / "odd.csv", made_up(30, ["ham"] * 9 + ["spam"]))
    write(here / "dev.csv", made_up(10, ["ham", "spam"], seed=1))
    even, odd = (source(train=f"{name}.csv", dev="dev.csv", text="premise") for name in ("even", "odd"))
    assert (even.task.score_of, odd.task.score_of) == (("accuracy",), ("f1_macro",))
    assert even.about() == {
        "text": "premise",
        "labels": "classification, ham: 20 (67 %), spam: 10 (33 %)".replace(" ", "\u00a0")
        .replace("n,\u00a0h", "n, h")
        .replace("),\u00a0s", "), s"),
        "score": "accuracy",
    }
    assert "9 times" in odd.about()["note"]
    assert "30 of 30 dev rows" in source(train="even.csv", dev="even.csv", text="premise").about()["note"]
    write(here / "many.csv", made_up(60, [f"topic {number}" for number in range(12)]))
    assert source(train="many.csv", dev="many.csv").about()["labels"].startswith("classification, 12 labels, from")
    assert source(train="odd.csv", dev="dev.csv", text="premise", metric="f1").about()["score"] == "f1 of 'spam'"


# Held-out rows


@settings(deadline=None)
@given(
    labels=st.one_of(
        st.lists(st.integers(0, 4), min_size=10, max_size=150), st.lists(st.floats(0, 5), min_size=10, max_size=150)
    ),
    share=st.sampled_from([0.1, 0.2, 0.5]),
    seed=st.integers(0, 3),
)
def test_held_out_rows_are_a_seeded_even_part(labels: list[Any], share: float, seed: int) -> None:
    rows = [f"text {number}" for number in range(len(labels))]
    table = Table((rows,), labels, "made up")
    try:
        train, dev = hold_out(table, share, seed)
    except DataError:
        alone = sum(count == 1 for count in Counter(labels).values()) if isinstance(labels[0], int) else 0
        assert share * (len(labels) - alone) < 0.5  # a class's only row stays
        return
    known = dict(zip(rows, labels, strict=True))
    for part in (train, dev):
        order = [rows.index(text) for text in part.texts[0]]
        assert order == sorted(order)
        assert [known[text] for text in part.texts[0]] == list(part.labels)
    assert {*train.texts[0]} | {*dev.texts[0]} == {*rows}
    assert not {*train.texts[0]} & {*dev.texts[0]}
    assert hold_out(table, share, seed) == (train, dev)
    if isinstance(labels[0], int):
        assert set(train.labels) == set(labels)
        for label, count in Counter(labels).items():
            assert abs(list(dev.labels).count(label) - share * count) <= 1
    else:
        assert abs(len(dev) - share * len(labels)) <= 1


def test_the_share_and_its_seed_are_typed_and_told(here: Path) -> None:
    write(here / "a.csv", made_up(100))
    found = source(train="a.csv", text="premise")
    assert (len(found.train), len(found.validation)) == (90, 10)
    assert found.about()["dev"] == "10 % of a.csv, held out (data.dev_share)"
    assert len(source(train="a.csv", dev_share=0.25).validation) == 25
    assert source(train="a.csv", text="premise", seed=1).validation != found.validation


# Metrics


@pytest.mark.parametrize("classes", [2, 3])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_metrics_equal_scikit_learn(classes: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 40))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    chosen, shares = logits.argmax(-1).tolist(), logits.double().softmax(-1).numpy()
    names = tuple(n for n, m in METRICS.items() if m.takes != "scores" and (classes == 2 or not m.two_classes))
    got = evaluate(Task("own", ("a",), ("x", "y", "z")[:classes], names, ("accuracy",)), logits, torch.tensor(labels))

    hits = [np.array(labels) == c for c in ([1] if classes == 2 else sorted(set(labels)))]
    sides = [shares[:, c] for c in ([1] if classes == 2 else sorted(set(labels)))]
    zero = {"zero_division": 0.0}
    expected = {
        "accuracy": sk.accuracy_score(labels, chosen),
        "accuracy_macro": sk.recall_score(labels, chosen, labels=sorted(set(labels)), average="macro", **zero),
        "f1_macro": sk.f1_score(labels, chosen, average="macro", **zero),
        "f1_weighted": sk.f1_score(labels, chosen, average="weighted", **zero),
        "precision_macro": sk.precision_score(labels, chosen, average="macro", **zero),
        "recall_macro": sk.recall_score(labels, chosen, average="macro", **zero),
        "matthews": sk.matthews_corrcoef(labels, chosen),
    }
    if classes == 2:
        for name, function in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
            expected[name] = function(labels, chosen, **zero)
    if len(set(labels)) > 1:
        pairs = list(zip(hits, sides, strict=True))
        expected["auroc"] = np.mean([sk.roc_auc_score(hit, side) for hit, side in pairs])
        expected["average_precision"] = np.mean([sk.average_precision_score(hit, side) for hit, side in pairs])
    else:
        expected |= {"auroc": 0.0, "average_precision": 0.0}
    several = len(set(labels)) > 1 and len(set(chosen)) > 1
    expected["kappa"] = sk.cohen_kappa_score(labels, chosen) if several else 0.0
    assert got == pytest.approx(expected, abs=1e-6)


def test_a_class_that_dev_lacks_is_no_part_of_the_macro_accuracy() -> None:
    task = Task("own", ("a",), ("x", "y", "z"), ("accuracy_macro", "recall_macro"), ("accuracy_macro",))
    labels, answers = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2])
    got = evaluate(task, torch.nn.functional.one_hot(answers, 3).float(), labels)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sk.balanced_accuracy_score(labels, answers)
    assert got["accuracy_macro"] == expected == 0.75
    assert got["recall_macro"] == sk.recall_score(labels, answers, average="macro", zero_division=0) == 0.5


def test_r2_equals_scikit_learn_and_is_defined_everywhere() -> None:
    task = Task("own", ("a",), (), ("r2",), ("r2",))
    labels, answers = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[1.5], [2.0], [2.0]])
    expected = sk.r2_score(labels.tolist(), answers[:, 0].tolist())
    assert evaluate(task, answers, labels)["r2"] == pytest.approx(expected)
    assert evaluate(task, answers, torch.ones(3))["r2"] == 0.0


# Runs


def own_run(folder: Path, *overrides: str) -> Run:
    return run_in(folder / "runs", *TINY, "trainer.max_epochs=2", *overrides)


def logits_of(run: Run, found: CustomSource, split: str) -> torch.Tensor:
    """Logits of the loaded model, one padded batch per row, in the data's own order."""
    model, tokenizer = ptuning.load(run.path)
    table = tokenize(found.read(split), tokenizer, 128, None)
    logits = []
    with torch.no_grad():
        for batch in (table[[row]] for row in range(len(table))):
            logits.append(
                model(**{name: value for name, value in batch.items() if name not in ("index", "labels")}).logits
            )
    return torch.cat(logits)


def test_a_run_on_own_pairs_keeps_the_labels_and_gives_the_same_logits_when_loaded(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "reviews.csv", made_up(64, ["neutral", "bad", "[good]"]))
    write(here / "dev.tsv", made_up(30, ["[good]", "bad", "neutral"], seed=1))
    write(here / "test.jsonl", [{k: row[k] for k in ("premise", "hypothesis")} for row in made_up(12, seed=2)])
    keys = (PAIR, "data.train=reviews.csv", "data.dev=dev.tsv", "data.test=test.jsonl", "module=bias")
    run = own_run(here, *keys, "data.metric=[f1_macro,auroc]", "predict=[test]")
    shown = " ".join(capsys.readouterr().out.split())

    assert "reviews (64 train, 30 validation)" in shown
    assert "premise + hypothesis" in shown
    assert "classification, [good]: 21 (33 %), bad: 21 (33 %), neutral: 22 (34 %)" in shown
    assert "mean of f1_macro and auroc" in shown
    assert run.path.relative_to(here / "runs").parts[:3] == ("tiny", "reviews", "bias")
    assert (run.record["task"], run.record["source"]) == ("reviews", "files")
    assert run.record["labels"] == ["[good]", "bad", "neutral"]
    best = run.record["best"]
    assert set(best) >= {"accuracy", "f1_macro", "auroc"}
    assert best["score"] == pytest.approx((best["f1_macro"] + best["auroc"]) / 2)

    model, _ = ptuning.load(run.path)
    assert model.config.id2label == {0: "[good]", 1: "bad", 2: "neutral"}
    assert model.config.label2id == {"[good]": 0, "bad": 1, "neutral": 2}
    found = source(train="reviews.csv", dev="dev.tsv", test="test.jsonl")
    dev = pq.read_table(run.path / "predictions/validation.parquet")
    assert dev["label"].to_pylist() == found.validation.labels
    assert torch.allclose(torch.tensor(dev["logits"].to_pylist()), logits_of(run, found, "validation"), atol=1e-5)
    (predicted,) = (run.path / "predictions").glob("test-*.parquet")
    test = pq.read_table(predicted, partitioning=None)  # seed=1-… above it is none
    assert test.column_names == ["index", "logits"]
    assert torch.allclose(torch.tensor(test["logits"].to_pylist()), logits_of(run, found, "test"), atol=1e-5)

    write(here / "other.jsonl", made_up(5, seed=3))
    again = own_run(here, *keys, "data.metric=[f1_macro,auroc]", "predict=[test]", "data.test=other.jsonl")
    assert again.path == run.path
    assert len(list((run.path / "predictions").glob("test-*.parquet"))) == 2
    assert pq.read_table(predicted, partitioning=None) == test

    row = collect(here / "runs").runs.iloc[0]
    assert (row.task, row.source) == ("reviews", "files")


def test_a_run_on_one_column_of_scores_correlates(here: Path) -> None:
    write(here / "essays.parquet", made_up(80, [0.5, 1.25, 4.0]))
    run = own_run(here, "data.text=premise", "data.train=essays.parquet", "module=layernorm", "data.metric=r2")
    assert run.record["labels"] == []
    assert {"r2", "pearson", "spearman"} <= set(run.record["best"])
    assert run.record["score"] == run.record["best"]["r2"]
    assert run.record["train_examples"] == 72
    model, _ = ptuning.load(run.path)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    found = source(train="essays.parquet", text="premise")
    dev = pq.read_table(run.path / "predictions/validation.parquet")
    assert torch.allclose(torch.tensor(dev["logits"].to_pylist()), logits_of(run, found, "validation"), atol=1e-5)


def test_rows_that_are_cut_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "a.csv", [{**row, "premise": f"{row['premise']} " * 8} for row in made_up(20)])
    own_run(here, "data.text=premise", "data.train=a.csv", "trainer.max_steps=1", "task.max_length=32")
    assert "100.0 % of the training rows, at 32 tokens" in " ".join(capsys.readouterr().out.split())


def test_a_stopped_run_on_own_data_goes_on_to_the_same_end(here: Path) -> None:
    write(here / "a.csv", made_up(90))
    keys = ("data.train=a.csv", PAIR, "module=bias", "checkpoint_seconds=0", "keep_checkpoint=true")
    whole = own_run(here / "whole", *keys)
    steps = whole.record["history"][0]["step"]
    with stopped():
        own_run(here / "stopped", *keys, ctrl_c_at(steps))
    resumed = own_run(here / "stopped", *keys, ctrl_c_at(steps))
    for entry, expected in zip(resumed.record["history"], whole.record["history"], strict=True):
        assert entry == pytest.approx(expected)
    weights = [torch.load(run.path / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def folder_of(*overrides: str) -> Path:
    config = compose([*TINY, PAIR, *overrides])
    plan = make_plan(config)
    return find_run(Path("runs"), plan.backbone.label, plan.recipe())[0].path


def test_the_run_belongs_to_the_data_and_not_to_the_file(here: Path) -> None:
    rows, dev = made_up(40), "data.dev=dev.csv"
    write(here / "a.csv", rows)
    write(here / "dev.csv", made_up(10, seed=1))
    (here / "elsewhere").mkdir()
    write(here / "elsewhere/a.parquet", [{**row, "more": 1} for row in rows])
    write(here / "b.csv", rows)
    write(here / "elsewhere/a.csv", [{**row, "label": "yes"} if n == 0 else row for n, row in enumerate(rows)])
    first = folder_of("data.train=a.csv", dev)
    assert folder_of("data.train=elsewhere/a.parquet", dev) == first
    assert folder_of("data.train=b.csv", dev, "data.name=a") == first
    assert folder_of("data.train=a.csv", dev, "data.metric=accuracy") == first
    assert first.parts[2] == "a"
    others = [
        folder_of("data.train=elsewhere/a.csv", dev),
        folder_of("data.train=b.csv", dev),
        folder_of("data.train=a.csv"),
        folder_of("data.train=a.csv", "data.seed=1"),
        folder_of("data.train=a.csv", dev, "data.metric=matthews"),
        folder_of("data.train=a.csv", dev, "data.text=premise"),
        folder_of("data.train=a.csv", dev, "data.text=[hypothesis,premise]"),
    ]
    assert len({first, *others}) == 1 + len(others)
    write(here / "my reviews (1).csv", rows)
    assert folder_of("data.train='my reviews (1).csv'", dev).parts[2] == "my-reviews-1"
    write(here / "a.csv", [*rows, {**rows[0], "premise": "one more"}])
    assert folder_of("data.train=a.csv", dev) != first


@pytest.mark.slow
def test_one_command_trains_several_modules(here: Path, type_it: TypeIt) -> None:
    write(here / "a.csv", made_up(40))
    told = type_it("-m", *TINY, "data.train=a.csv", PAIR, "module=bias,layernorm", "trainer.max_steps=2")
    assert told.code == 0, told
    assert "2 done" in told.out
    found = [json.loads(path.read_text()) for path in here.rglob("record.json")]
    assert {(record["task"], record["module"]) for record in found} == {("a", "bias"), ("a", "layernorm")}


def test_a_run_is_evaluated_on_other_files_and_its_own_labels_keep_their_order(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "a.csv", made_up(40))
    run = run_in(here / "runs", *TINY, "data.train=a.csv", PAIR, "trainer.max_steps=2")
    others = made_up(40)[:30]
    model, tokenizer = ptuning.load(run.path)
    batch = tokenizer(
        [row["premise"] for row in others], [row["hypothesis"] for row in others], padding=True, return_tensors="pt"
    )
    answers = model(**batch).logits.argmax(-1).tolist()
    told = [{**row, "label": model.config.id2label[answer]} for row, answer in zip(others, answers, strict=True)]
    told[0]["label"] = model.config.id2label[1 - answers[0]]
    write(here / "b.csv", told)
    capsys.readouterr()
    cli.main(["evaluate", str(run.path), "--json", f"data.dev={here / 'b.csv'}"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == {"validation": 30}
    assert found["metrics"]["validation"]["accuracy"] == pytest.approx(29 / 30)


# Datasets


def dataset(rows: Rows, names: Sequence[str] = ()) -> datasets.Dataset:
    made = datasets.Dataset.from_list(list(rows))
    return made.cast_column("label", datasets.ClassLabel(names=list(names))) if names else made


def saved(rows: Rows, names: Sequence[str], folder: str, splits: Iterable[str]) -> None:
    datasets.DatasetDict({split: dataset(rows, names) for split in splits}).save_to_disk(folder)


def test_a_dataset_keeps_its_classes_and_offers_its_splits(here: Path) -> None:
    saved(made_up(24, [0, 1, 2]), ("yes", "no", "perhaps"), "saved", ("train", "validation", "test", "extra"))
    found = source(path="saved")
    assert found.task.labels == ("yes", "no", "perhaps")
    assert found.train.labels[:3] == [0, 1, 2]
    assert (found.place, len(found.validation), len(found.read("test"))) == ("hub", 24, 24)
    assert len(source(path="saved", dev="extra").validation) == 24
    told = said(lambda: source(path="saved", dev="extar"))
    assert told == (
        "saved has no split 'extar' (data.dev). Did you mean 'extra'? It has: train, validation, test, extra."
    )
    saved(made_up(24), (), "two", ("train", "tests"))
    assert source(path="two").task.labels == ("no", "yes")
    assert len(source(path="two").train) < 24  # no dev split: rows are held out
    missing = made_up(6, [0, -1])
    saved(missing, ("yes", "no"), "unlabelled", ("train", "validation"))
    assert "unlabelled train, row 2: the label 'label' is missing" in said(lambda: source(path="unlabelled"))


def test_a_datasets_own_class_names_are_the_labels_of_a_file_however_each_writes_them(here: Path) -> None:
    decomposed, composed = "ne\u0301gatif", "n\u00e9gatif"
    for names, written in (((decomposed, "positif"), (composed, "positif")), (("1.0", "2.0"), ("1", "2"))):
        saved(made_up(24, [0, 1]), names, f"saved as {names[1]}", ("train", "validation"))
        found = source(path=f"saved as {names[1]}")
        assert found.task.labels == names
        assert found.train.labels[:2] == found.validation.labels[:2] == [0, 1]
        write(here / "dev.csv", made_up(4, written))
        scored = EvaluationSource(found.task, custom_data(DataConfig(source="files", dev="dev.csv"), trains=False))
        assert scored.read("validation").labels == [0, 1, 0, 1]
        assert scored.task.labels == names
        write(here / "train.csv", made_up(24, written))  # and the other way round
        typed = source(train="train.csv").task
        again = EvaluationSource(
            typed, custom_data(DataConfig(source="hub", path=f"saved as {names[1]}"), trains=False)
        )
        assert again.read("validation").labels[:2] == [0, 1]
    saved(made_up(24, [0, 1]), ("1", "1.0"), "twins", ("train", "validation"))
    assert source(path="twins").train.labels[:2] == [0, 1]


def test_a_folder_laid_out_as_on_the_hub_trains(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", here / "cache")
    (here / "laid_out/en").mkdir(parents=True)
    for split, count in (("train", 48), ("validation", 16)):
        dataset(made_up(count, [0, 1]), ("bad", "good")).to_parquet(str(here / f"laid_out/en/{split}.parquet"))
    card = "---\nconfigs:\n- config_name: en\n  data_files:\n"
    card += "".join(f"  - split: {split}\n    path: en/{split}.parquet\n" for split in ("train", "validation"))
    (here / "laid_out/README.md").write_text(f"{card}---\n")
    run = own_run(here, "data.path=laid_out", "data.config=en", PAIR, "module=bias", "trainer.max_steps=2")
    assert run.path.parts[-4:-1] == ("laid_out-en", "bias", "all")
    assert (run.record["source"], run.record["labels"]) == ("hub", ["bad", "good"])
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "could not be had" in said(lambda: source(path="laid_out", config="fr"))
    assert "files need no network" in said(lambda: source(path="nowhere/at-all"))


# Mistakes


def sentence(here: Path, *overrides: str) -> str:
    return said(lambda: locate_in(here, *overrides))


def locate_in(here: Path, *overrides: str) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from ptuning.config.compose import config_folder

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = hydra_compose("config", ["backbone=tiny", *overrides])
    locate(cfg)


def test_what_is_trained_anew_keeps_no_answers_of_the_model_before(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "a.csv", made_up(64, ["neutral", "bad", "good"]))
    write(here / "test.csv", made_up(12, ["neutral"], seed=2))
    keys = (PAIR, "data.train=a.csv", "data.test=test.csv", "module=bias", "predict=[test]", "trainer.precision=auto")
    for precision in ("32", "bf16-mixed"):
        monkeypatch.setenv("PTUNING_PRECISION", precision)
        run = own_run(here, *keys, "force=true")
        (predicted,) = (run.path / "predictions").glob("test-*.parquet")
        kept = torch.tensor(pq.read_table(predicted)["logits"].to_pylist())
        assert torch.allclose(kept, logits_of(run, source(train="a.csv", test="test.csv"), "test"), atol=1e-5)


def test_a_score_without_a_lower_bound_is_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.csv").write_text("text,label\n" + "".join(f"text {n},{500 + n / 8}\n" for n in range(40)))
    keys = ("data.text=text", "data.train=a.csv", "data.metric=r2", "module=bias", "trainer.max_epochs=1")
    run = own_run(here, *keys)
    assert run.record["score"] < -100
    assert own_run(here, *keys).record["ended"] == run.record["ended"]
    assert "finished earlier" in capsys.readouterr().out
    assert len(collect(here / "runs").runs) == 1


FILES = {
    "good.csv": "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(20)),
    "three.csv": "text,label\n" + "".join(f"text {n},{'abc'[n % 3]}\n" for n in range(20)),
    "other.csv": "words,label\nx,a\n",
    "commata.csv": "text;label\n" + "".join(f"text {n};{n % 7 + 3},5\n" for n in range(20)),
    "slip.csv": "text,label\n" + "".join(f"text {n},{'n.a.' if n == 4 else n / 8}\n" for n in range(20)),
    "absent.csv": "text,label\n" + "".join(f"text {n},{'nan' if n == 4 else n / 8}\n" for n in range(20)),
    "unseen.csv": "text,label\nx,a\ny,B\n",
    "no_text.csv": 'text,label\n"two\nlines",a\n,b\n',
    "no_label.csv": "text,label\nx,a\ny,\n",
    "one.csv": "text,label\nx,a\ny,a\n",
    "short.csv": "text,label\nx,a\ny\n",
    "commas.csv": "text,label\nx,a\ny, and z,b\n",
    "blank_row.csv": "text,label\nx,a\n\n,\ny,b\n",
    "quote.csv": 'text,label\nx,a\n"y" z,b\nw,b\n',
    "open.csv": 'text,label\nx,a\n"y,b\nw,b\n',
    "twice.csv": "text,text,label\nx,y,a\n",
    "short.tsv": "text\tlabel\nx\ta\ny\n",
    "broken.jsonl": '{"text": "x", "label": "a"}\n\n{"text": "y", "label": \n',
    "list.jsonl": '{"text": "x", "label": "a"}\n["y", "b"]\n',
    "number.jsonl": '{"text": "x", "label": "a"}\n{"text": 3, "label": "b"}\n',
    "lacking.jsonl": '{"text": "x", "label": "a"}\n{"text": "y"}\n',
    "broken.json": '[{"text": "x", "label": "a"},\n{]',
    "broken.parquet": "not parquet",
    "header.csv": "text,label\n",
    "empty.csv": "",
    "data.xlsx": "x",
    "rte.csv": "text,label\nx,a\ny,b\n",
    "joined.csv": 2 * ("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(9))),
    "bom.csv": "text;label\nx;a\ny;b\n" + "\ufefftext;label \nx;a\n",
    "turned.tsv": "text\tlabel\nx\ta\ny\tb\nlabel\ttext\na\tx\n",
    "na.csv": "text,label\n" + "".join(f"text {n},{(0, 1, 'NA')[n % 3]}\n" for n in range(30)),
    "scores.csv": "text,label\n" + "".join(f"text {n},{(0.5, 1, 2.5, '<NA>')[n % 4]}\n" for n in range(40)),
    "comma_na.csv": "text;label\n" + "".join(f"text {n};{('n/a', '3,5', '4')[n % 3]}\n" for n in range(30)),
    "slip_na.csv": "text,label\n" + "".join(f"text {n},{(0.5, 'None', 2)[n % 3]}\n" for n in range(30)) + "z,many\n",
    "ids.csv": "text,label\n" + "".join(f"text {n},{n}\n" for n in range(60)),
    "words.csv": "text,label\n" + "".join(f"text {n},{n % 3}\n" for n in range(9)) + "z,many\n",
}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ("", "task=custom needs a file to train on, data.train=train.csv"),
        ("data.train=god.csv", "There is no file god.csv. Did you mean 'good.csv'?"),
        ("data.train=nowhere/good.csv", "There is no file nowhere/good.csv."),
        ("data.train=data.xlsx", "data.xlsx has an ending that is not known. Known: .csv, .tsv"),
        ("data.train=empty.csv", "empty.csv is empty."),
        ("data.train=header.csv", "header.csv has no rows."),
        ("data.train=good.csv data.text=null", "data.text says which column holds the text"),
        (
            "data.train=good.csv data.text=txt",
            "good.csv has no column 'txt'; data.text names another. Did you mean 'text'?",
        ),
        ("data.train=good.csv data.label=lable", "Did you mean 'label'? Its first line names: text, label."),
        ("data.train=good.csv data.dev=other.csv", "other.csv has no column 'text'; data.text names another."),
        ("data.train=good.csv data.dev=unseen.csv", "unseen.csv, line 3: the label 'B' does not occur in good.csv."),
        ("data.train=no_text.csv", "no_text.csv, line 4: 'text' is empty."),
        ("data.train=blank_row.csv", "blank_row.csv, line 4: the label 'label' is missing"),
        ("data.train=no_label.csv", "no_label.csv, line 3: the label 'label' is missing"),
        ("data.train=one.csv", "Every label of one.csv is 'a'"),
        ("data.train=short.csv", "short.csv, line 3 has 1 fields, but the first line names 2."),
        ("data.train=commas.csv", "commas.csv, line 3 has 3 fields, but the first line names 2."),
        ("data.train=quote.csv", "the row that begins on line 3 is not quoted rightly"),
        ("data.train=open.csv", "the row that begins on line 3 is not quoted rightly"),
        ("data.train=twice.csv", "twice.csv has two columns 'text'"),
        ("data.train=short.tsv", "short.tsv, line 3 has 1 fields, but the first line names 2."),
        ("data.train=broken.jsonl", "broken.jsonl, line 3 ends before its object does."),
        ("data.train=list.jsonl", "list.jsonl, line 2 is no JSON object"),
        ("data.train=number.jsonl", "number.jsonl, line 2: 'text' is 3, not text."),
        ("data.train=lacking.jsonl", "lacking.jsonl, line 2: the label 'label' is missing"),
        ("data.train=broken.json", "broken.json, line 2 is not JSON"),
        ("data.train=broken.parquet", "broken.parquet could not be read as Parquet"),
        ("data.train=rte.csv", "'rte' would be taken for GLUE's task in tables: give yours another name"),
        ("data.train=ids.csv", "ids.csv has 60 different labels in 60 rows: is data.label=label the right column?"),
        ("data.train=words.csv data.kind=regression", "words.csv, line 11: the score 'many' is not a number"),
        ("data.train=good.csv data.kind=regresion", "Did you mean 'regression'?"),
        (
            "data.train=good.csv data.metric=f1macro",
            "There is no metric 'f1macro' (data.metric). Did you mean 'f1_macro'?",
        ),
        ("data.train=good.csv data.metric=spearman", "data.metric=spearman does not fit classification with 2 labels."),
        ("data.train=commata.csv", "commata.csv, line 2: the label '3,5' (label) is a number with a comma."),
        ("data.train=slip.csv", "slip.csv, line 6: the label 'n.a.' (label) is no number, and 19 of 20 are scores."),
        ("data.train=absent.csv", "absent.csv, line 6: the label 'label' is missing"),
        ("data.train=good.csv data.dev=0.2", "data.dev=0.2 is a number, and data.dev takes a file or a split. To hold"),
        ("data.train=good.csv data.dev=25%", "To hold a share of the training rows out: data.dev_share=0.25."),
        ("data.train=good.csv data.dev=80", "To hold a share of the training rows out: data.dev_share=0.1."),
        ("data.path=split data.dev=.2", "To hold a share of the training rows out: data.dev_share=0.2."),
        ("data.train=https://x.org/a.csv", "https://x.org/a.csv is an address and no file here: download it"),
        ("data.train=good.csv data.dev=s3://b/a.csv", "s3://b/a.csv is an address and no file here: download it"),
        (
            "data.path=https://x.org/a/b",
            "data.path=https://x.org/a/b is an address; it takes a dataset's name",
        ),
        ("data.train=joined.csv", "joined.csv, line 11 names the columns again: files were joined. Take the line out."),
        ("data.train=bom.csv", "bom.csv, line 4 names the columns again: files were joined."),
        ("data.train=turned.tsv", "turned.tsv, line 4 names the columns again, in another order"),
        (
            "data.train=na.csv",
            "na.csv, line 4: the label 'label' is missing (it says 'NA'); fill it in or drop the row.",
        ),
        ("data.train=scores.csv", "scores.csv, line 5: the label 'label' is missing (it says '<NA>')"),
        ("data.train=comma_na.csv", "comma_na.csv, line 3: the label '3,5' (label) is a number with a comma."),
        ("data.train=slip_na.csv", "slip_na.csv, line 32: the label 'many' (label) is no number, and 20 of 31 are"),
        ("data.path=split data.dev_share=0.2", "with split validation there is no need: drop one."),
        ("data.train=three.csv data.metric=f1", "data.metric=f1 does not fit classification with 3 labels."),
        ("data.train=ids.csv data.kind=regression data.metric=mse", "greater must be better, which leaves errors out"),
        ("data.train=good.csv data.text=[text,label]", "'label' is named both as text and as label"),
        ("data.train=good.csv data.text=[a,b,c]", "data.text=[a,b,c] must name one column or two different ones."),
        ("data.train=good.csv data.text={a:1}", "must be a name or a list of names"),
        ("data.train=good.csv data.dev=good.csv data.dev_share=0.1", "with data.dev there is no need"),
        ("data.train=good.csv data.dev_share=0.9", "data.dev_share=0.9 must lie above 0"),
        ("data.train=other.csv data.text=words", "Every label of other.csv is 'a'"),
        ("data.train=rte.csv data.name=mine", "has too few rows (2) to hold 10 % out for scoring"),
        ("data.train=good.csv data.name=a/b", "data.name=a/b is not a name"),
        ("data.train=good.csv predict=[test]", "predict=[test] needs a file to predict: data.test=FILE."),
        ("data.train=good.csv data.test=god.csv predict=[test]", "There is no file god.csv. Did you mean 'good.csv'?"),
        ("data.train=good.csv data.test=other.csv predict=[test]", "other.csv has no column 'text'; data.text names"),
        ("data.train=good.csv data.test=no_text.csv predict=[test]", "no_text.csv, line 4: 'text' is empty."),
        ("data.path=split predict=[test]", "predict=[test] needs a file to predict: data.test=FILE."),
        ("data.train=good.csv predict=[train]", "predict=[train] is not a split of good. Allowed: test."),
        ("data.train=good.csv data.dir=x", "data.dir is for GLUE's tasks"),
        ("data.train=good.csv data.revision=main", "data.revision is for a dataset of the Hub"),
        ("data.train=good.csv data=synthetic", "data=synthetic holds GLUE's tasks"),
        ("data=hub", "task=custom with data=hub needs the dataset's name: data.path=owner/name."),
        ("task=rte data=synthetic", "data.text is for custom data, not for task=rte: type task=custom."),
        ("task=rte data=synthetic data.text=null data.train=good.csv", "data.train is for custom data"),
        ("task=rte data=files data.text=null", "data=files is for task=custom; files of task=rte are data=local"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_mend(here: Path, overrides: str, told: str) -> None:
    for name, content in FILES.items():
        (here / name).write_text(content)
    rows = datasets.Dataset.from_dict({"text": ["x", "y"] * 20, "label": ["a", "b"] * 20})
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk("split")
    typed = {item.split("=", 1)[0]: item for item in ("task=custom", "data.text=text", *overrides.split())}
    assert told in sentence(here, *typed.values())


def test_text_that_is_no_utf_8_is_told_with_its_line(here: Path) -> None:
    (here / "a.csv").write_bytes("text,label\nx,a\ncafé,b\n".encode("latin-1"))
    assert said(lambda: read_columns(Path("a.csv"))) == "a.csv, line 3: byte 0xe9 is not UTF-8; save the file as UTF-8."


def test_a_mistake_ends_with_code_2(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, explain_errors():
        run_in(here, *TINY, "data.train=missing.csv")
    assert (caught.value.code, capsys.readouterr().err) == (2, "There is no file missing.csv.\n")


# The page about it


def examples() -> list[str]:
    return re.findall(r"^    python train\.py (?!-m)(.*)$", (ROOT / "docs/own-data.md").read_text(), flags=re.M)


@pytest.mark.parametrize("example", examples())
def test_examples_of_the_page_run(here: Path, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", here / "cache")
    pairs = made_up(40, ["entailment", "contradiction"])
    for name in ("train.csv", "dev.csv", "test.csv"):
        write(here / name, pairs)
    write(here / "reviews.jsonl", [{"review": row["premise"], "stars": n % 5} for n, row in enumerate(pairs)])
    stand_in = [{"text": row["premise"], "label": n % 2} for n, row in enumerate(pairs)]
    (here / "owner/name/en").mkdir(parents=True)
    for split in ("train", "validation"):
        dataset(stand_in).to_parquet(str(here / f"owner/name/en/{split}.parquet"))
    (here / "owner/name/README.md").write_text("---\nconfigs:\n- config_name: en\n  data_dir: en\n---\n")
    overrides = [item for item in example.split() if not item.startswith("backbone=")]
    run = run_in(here / "runs", *TINY, *overrides, "trainer.max_steps=1", "trainer.max_epochs=1")
    assert run.record["status"] == "finished"
    assert set(map(type, run.record["best"].values())) <= {int, float}


def test_the_page_knows_every_key_and_metric() -> None:
    page = (ROOT / "docs/own-data.md").read_text()
    for name in METRICS:
        assert f"`{name}`" in page
    for key in (*CUSTOM_KEYS, "seed", "path", "revision"):
        assert f"data.{key}" in page
    assert not set(METRICS) & set(TASKS)
