"""Answers on new text and scores on a split: every layout, one sentence per mistake, clean pipes, constant memory."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader, BytesIO
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptuning.cli import main as cli
from ptuning.data.sources import SyntheticSource
from ptuning.deltas.loading import load_run
from ptuning.deltas.predictor import Predictor
from ptuning.inference.stream import predict_rows, read_asked
from ptuning.tasks.glue import TASKS, Task
from support.running import TINY, Run, run_in

SIZES = {"train": 48, "validation": 40, "test": 24}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run for one text, for pairs, with three labels and with a number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTUNING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp("runs")
        common = (*TINY, "data.sizes.train=48", "trainer.max_epochs=1", "optim.lr=0.01")
        return {task: run_in(folder / task, *common, f"task={task}") for task in ("sst2", "rte", "mnli", "stsb")}


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def texts_of(task: str) -> list[tuple[str, ...]]:
    split = next(iter(TASKS[task].validation))
    table = SyntheticSource(TASKS[task], SIZES).read(split)
    return list(zip(*table.texts, strict=True))


def kept_logits(run: Run) -> torch.Tensor:
    split = next(iter(TASKS[run.record["task"]].validation))
    return torch.tensor(pq.read_table(run.path / "predictions" / f"{split}.parquet")["logits"].to_pylist())


def write(path: Path, task: Task, rows: list[tuple[str, ...]]) -> Path:
    """Write rows in the layout that a file's suffix says."""
    if path.suffix == ".jsonl":
        lines = [json.dumps({**dict(zip(task.text, row, strict=True)), "label": 1}) for row in rows]
    elif path.suffix == ".csv":
        quoted = [[f'"{cell.replace(chr(34), 2 * chr(34))}"' for cell in row] for row in rows]
        lines = [",".join((*task.text, "label")), *(",".join((*row, "1")) for row in quoted)]
    elif path.suffix == ".tsv":
        lines = ["\t".join(("index", *task.text)), *("\t".join(("7", *row)) for row in rows)]
    else:
        lines = ["\t".join(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "txt"])
@pytest.mark.parametrize("task", ["sst2", "rte", "mnli", "stsb"])
def test_every_layout_gets_the_answers_that_the_run_had_in_the_order_of_its_rows(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, suffix: str
) -> None:
    file = write(tmp_path / f"rows.{suffix}", TASKS[task], texts_of(task))
    code, out, err = command(capsys, "predict", runs[task].path, "--input", file, "--chunk", 16, "--batch-size", 5)
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    logits = kept_logits(runs[task])
    assert len(answers) == len(logits) == 40
    if task == "stsb":
        assert [answer["value"] for answer in answers] == pytest.approx(logits[:, 0].tolist(), abs=1e-5)
        assert set(answers[0]) == {"value"}
        return
    labels = TASKS[task].labels
    assert [answer["label"] for answer in answers] == [labels[number] for number in logits.argmax(-1)]
    for answer, row in zip(answers, logits.softmax(-1).tolist(), strict=True):
        assert answer["scores"] == pytest.approx(dict(zip(labels, row, strict=True)), abs=1e-5)


def test_output_goes_into_a_file_that_appears_when_all_is_written(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path / "rows.txt", TASKS["rte"], texts_of("rte")), tmp_path / "new" / "answers.jsonl"
    assert command(capsys, "predict", runs["rte"].path, "--input", file, "--output", out)[:2] == (0, "")
    assert len(out.read_text().splitlines()) == 40
    file.write_text("a\tb\nbroken\n")
    assert command(capsys, "predict", runs["rte"].path, "--input", file, "--output", out)[0] == 2
    assert len(out.read_text().splitlines()) == 40  # the finished one is still there
    assert [path.name for path in out.parent.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("task", ["mnli", "stsb"])
def test_a_csv_of_answers_has_the_ids_of_the_input_the_prediction_and_a_probability_per_label(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    ids = ["7", "a, b", 'say "x"', "two\nlines", "", "=1+1"] + [f"é{number}" for number in range(34)]
    table = pd.DataFrame(dict(zip(TASKS[task].text, zip(*texts_of(task), strict=True), strict=True)))
    table.assign(ID=ids).to_csv(tmp_path / "rows.csv", index=False)
    arguments = ("predict", runs[task].path, "--input", tmp_path / "rows.csv", "--chunk", 16, "--output")
    assert command(capsys, *arguments, tmp_path / "answers.CSV") == (0, "", "")
    assert command(capsys, *arguments, tmp_path / "answers.jsonl") == (0, "", "")
    found = pd.read_csv(tmp_path / "answers.CSV", keep_default_na=False)
    assert found["id"].tolist() == ids
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    if task == "stsb":
        assert found.columns.tolist() == ["id", "prediction"]
        assert found["prediction"].tolist() == [answer["value"] for answer in answers]
        return
    assert found.columns.tolist() == ["id", "prediction", *(f"probability_{label}" for label in TASKS[task].labels)]
    assert found["prediction"].tolist() == [answer["label"] for answer in answers]
    probabilities = found.filter(like="probability_").to_numpy().tolist()
    assert probabilities == [list(answer["scores"].values()) for answer in answers]


def test_rows_without_ids_are_numbered_and_ids_of_json_may_be_of_any_type(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"sentence": "a text", "id": value} for value in (3, "x", None, [1, 2], 0.5, {"a": "é"})]
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, {"sentence": "none"}]))
    (tmp_path / "x.txt").write_text("one\ntwo\n")
    out = tmp_path / "answers.csv"
    for name, ids in {"x.jsonl": ["3", "x", "", "[1, 2]", "0.5", '{"a": "é"}', ""], "x.txt": ["0", "1"]}.items():
        assert command(capsys, "predict", runs["sst2"].path, "--input", tmp_path / name, "--output", out)[0] == 0
        assert pd.read_csv(out, dtype=str, keep_default_na=False)["id"].tolist() == ids
    (tmp_path / "x.txt").write_text("")
    assert command(capsys, "predict", runs["sst2"].path, "--input", tmp_path / "x.txt", "--output", out)[0] == 0
    assert out.read_text() == "id,prediction,probability_negative,probability_positive\n"


@pytest.mark.parametrize("name", ["answers.parquet", "answers.tsv", "answers.csv.gz", "answers.XLSX"])
def test_a_table_that_is_not_written_is_a_sentence_before_anything_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    code, _, err = command(capsys, "predict", "no_run", "--output", name)
    assert (code, err.count("\n")) == (2, 1)
    assert f"not written as {Path(name).suffix.lower()}: end --output in .csv, or in .jsonl" in err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.txt", "a\tb\n\nc\td\n", "line 2 is empty."),
        ("x.txt", "a\tb\nonly one\n", "line 2 has 0 tabs: a line holds 2 texts"),
        ("x.txt", "a\tb\na\t \n", "line 2: 'sentence2' is empty."),
        ("x.jsonl", '{"sentence1": "a", "sentence2": "b"}\n{"sentence1": \n', "line 2 ends before its object does"),
        ("x.jsonl", '{"sentence1": "a", "sentence2": "b"}\n{sentence1: "a"}\n', "line 2 is not JSON: Expecting"),
        ("x.jsonl", '{"sentence1": "a", "sentence2": "b"}\n["a", "b"]\n', "line 2 is no JSON object"),
        ("x.jsonl", '{"sentence1": "a", "sentence2": "b"}\n{"sentence1": "a"}\n', "line 2 has no 'sentence2'."),
        ("x.jsonl", '{"sentence1": "a", "sentence2": "b"}\n{"sentence1": 3, "sentence2": "b"}\n', "is 3, not text"),
        ("x.csv", "sentence1,sentence2\na,b\nHello, you,b\n", "line 3 has 3 fields, but the first line names 2."),
        ("x.csv", 'sentence1,sentence2\na,b\n"a,b\n', "the row that begins on line 3 is not quoted rightly"),
        ("x.csv", "sentence1,sentence2\na,b\n,\nc,d\n", "line 3: 'sentence1' is empty."),
        ("x.csv", "sentence1,sentense2\na,b\n", "Did you mean 'sentense2'?"),
        ("x.tsv", "sentence1\tsentence2\na\tb\nc\n", "line 3 has only 1 of 2 fields."),
        ("x.txt", b"a\tb\n\xff\tb\n", "line 2: byte 0xff is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_after_the_answers_before_it(
    runs: dict[str, Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes,
    told: str,
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = command(capsys, "predict", runs["rte"].path, "--input", file)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert len(out.splitlines()) == (0 if "sentense" in str(content) else 1)


def test_columns_can_be_named_and_the_only_one_needs_no_name(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.csv"
    file.write_text('﻿id,premise,hypothesis\n1,"a, b",c\n')
    code, out, _ = command(capsys, "predict", runs["rte"].path, "--input", file, "--text", "premise, hypothesis")
    assert (code, out.count("\n")) == (0, 1)
    file.write_text("review\ngood\nbad\n")
    code, out, err = command(capsys, "predict", runs["sst2"].path, "--input", file, "--output", "-")
    assert (code, out.count("\n")) == (0, 2)
    assert "x.csv: read as the text is the one column, 'review', named by the first line" in err
    assert not Path("-").exists()
    code, _, err = command(capsys, "predict", runs["rte"].path, "--input", file, "--text", "review")
    assert code == 2
    assert "rte takes two text columns" in err
    assert "3 fields" not in err
    pairs = file.with_suffix(".jsonl")
    pairs.write_text('{"sentence1": "a", "sentence2": "b"}\n')
    for arguments, told in (
        (("--batch-size", 0), "at least 1"),
        (("--input", tmp_path / "none"), "There is no file"),
        (("--input", tmp_path), "is a folder: name a file."),
        (("--input", file, "--format", "lines", "--text", "a,b"), "plain lines have none"),
        (("--input", file, "--text", "review,review"), "names the column 'review' twice"),
        (("--input", pairs, "--output", pairs), "is the file of texts itself"),
    ):
        code, _, err = command(capsys, "predict", runs["rte"].path, *arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert told in err


# No line separators inside: every layout ends its rows with them.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), min_size=1).filter(
    lambda text: text.strip() != ""
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=20))
def test_every_text_comes_through_every_layout_as_it_is(rows: list[tuple[str, str]]) -> None:
    task = TASKS["rte"]
    layouts = {
        "jsonl": "".join(json.dumps(dict(zip(task.text, row, strict=True))) + "\n" for row in rows),
        "csv": "sentence1,sentence2\n"
        + "".join(",".join(f'"{cell.replace(chr(34), 2 * chr(34))}"' for cell in row) + "\n" for row in rows),
        "tsv": "sentence1\tsentence2\n" + "".join("\t".join(row) + "\n" for row in rows),
        "lines": "".join("\t".join(row) + "\n" for row in rows),
    }
    for layout, content in layouts.items():
        if layout in ("tsv", "lines") and any(not "\t".join(row).strip() for row in rows):
            continue
        found = read_asked(BufferedReader(BytesIO(content.encode())), "x", task, layout)
        assert list(found) == list(enumerate(rows)), layout


def test_rows_are_read_as_answers_are_taken(runs: dict[str, Run]) -> None:
    taken = 0

    def endless() -> Iterator[tuple[int, tuple[str, ...]]]:
        nonlocal taken
        while True:
            taken += 1
            yield taken, ("a text", "another")

    answers = predict_rows(Predictor(load_run(runs["rte"].path)), endless(), chunk=32)
    for number in range(1, 4):
        assert len(next(answers)) == 32
        assert taken == 32 * number


def start(run: Run, **options: object) -> subprocess.Popen[bytes]:
    """Start a prediction that answers each line at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "ptuning.cli.main", "predict", str(run.path), "--chunk", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HYDRA_FULL_ERROR": "0", "OMP_NUM_THREADS": "1", "TERM": "xterm"},  # no bar on a dumb one
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.slow
def ask(process: subprocess.Popen[bytes]) -> None:
    """Send a row, JSONL by its brace, and get its answer while the pipe stays open."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(b'{"sentence1": "a", "sentence2": "b"}\n')
    process.stdin.flush()
    assert set(json.loads(process.stdout.readline())) == {"label", "scores"}


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(runs: dict[str, Run]) -> None:
    process = start(runs["rte"], stderr=subprocess.PIPE)
    ask(process)
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    _, complaints = process.communicate(b'{"sentence1": "a", "sentence2": "b"}\n' * 3, timeout=60)
    assert (process.returncode, complaints) == (0, b"")


@pytest.mark.slow
def test_progress_is_on_the_terminal_alone_and_ctrl_c_ends_it_quietly(runs: dict[str, Run]) -> None:
    terminal, end = pty.openpty()
    process = start(runs["rte"], stderr=end)
    os.close(end)
    ask(process)
    ask(process)
    shown = b""
    while b"2 rows" not in shown:  # the bar is drawn a few times a second
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 10_000)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    with suppress(OSError):  # how Linux says that the other end of a terminal is closed
        while part := os.read(terminal, 10_000):
            shown += part
    os.close(terminal)
    assert (process.returncode, rest) == (130, b"")
    assert shown.decode().rstrip().endswith("Stopped.")
    assert "Traceback" not in shown.decode()


# Evaluate


def test_evaluate_gives_the_runs_own_score_on_its_own_data(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    for task, run in runs.items():
        code, out, err = command(capsys, "evaluate", run.path, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert found["score"] == pytest.approx(run.record["score"], abs=1e-6)
        assert set(found["metrics"]) == set(TASKS[task].validation)
        assert set(found["rows"].values()) == {40}
        assert found["data"] == "synthetic"
    code, out, _ = command(capsys, "evaluate", runs["mnli"].path, "--split", "validation_mismatched")
    assert out.startswith("mnli validation_mismatched (synthetic data), 40 rows: accuracy")
    code, out, _ = command(capsys, "evaluate", "--split", "train", "--json", runs["rte"].path, "data.sizes.train=31")
    assert json.loads(out)["rows"] == {"train": 31}
    for typed, rows in ((["data.eval_batch_size=32"], 40), (["data.sizes.train=31"], 40), (["data=synthetic"], 500)):
        code, out, _ = command(capsys, "evaluate", "--json", runs["rte"].path, *typed)
        assert (code, json.loads(out)["rows"]) == (0, {"validation": rows})  # data=NAME begins anew
    code, out, _ = command(capsys, "evaluate", "--json", runs["rte"].path, "--task", "wnli", "data.eval_batch_size=32")
    assert json.loads(out)["rows"] == {"validation": 40}


def test_labels_of_another_task_are_matched_by_name(runs: dict[str, Run], tmp_path: Path) -> None:
    """RTE's and WNLI's labels are the same two in opposite order."""
    rows = [f"{i}\t{a}\t{b}" for i, (a, b) in enumerate(texts_of("rte"))]
    predicted = kept_logits(runs["rte"]).argmax(-1).tolist()
    for task, number_of in (("RTE", {0: "entailment", 1: "not_entailment"}), ("WNLI", {0: "1", 1: "0"})):
        (tmp_path / task).mkdir()
        lines = [f"{row}\t{number_of[label]}" for row, label in zip(rows, predicted, strict=True)]
        text = "index\tsentence1\tsentence2\tlabel\n" + "".join(f"{line}\n" for line in lines)
        (tmp_path / task / "dev.tsv").write_text(text)
    from ptuning.inference.evaluation import evaluate

    predictor = Predictor(load_run(runs["rte"].path))
    for task in ("rte", "wnli"):
        found = evaluate(predictor, task, None, ["data=local", f"data.dir={tmp_path}"])
        assert found.score == 1.0


def test_a_file_without_its_option_gets_the_usage_of_predict(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, "predict", runs["rte"].path, "texts.csv")
    assert (code, out) == (2, "")
    assert "[--input FILE]" in err
    assert "'texts.csv' is one word too many" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "mrpc"), "answers rte with entailment, not_entailment; mrpc wants not_equivalent"),
        (("--task", "stsb"), "stsb wants a number"),
        (("--task", "rtee"), "Did you mean 'rte'"),
        (("--split", "test"), "the benchmark keeps them"),
        (("--split", "dev"), "rte has no split 'dev'"),
        (("seed=3",), "says nothing about the data"),
        (("data=local",), "data.dir=FOLDER"),
        (("--batch-size", "0"), "at least 1"),
        (("--spilt", "test"), "there is no option --spilt. Did you mean '--split'?"),
    ],
)
def test_evaluate_says_what_cannot_be_scored(
    runs: dict[str, Run],
    arguments: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    code, out, err = command(capsys, "evaluate", runs["rte"].path, *arguments)
    assert (code, out) == (2, "")
    assert told in err
