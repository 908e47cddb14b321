"""One reader of rows: training, scoring and prediction take a file for the same rows, and a run for its own task.

Texts are made up; no score here means anything.
"""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptuning.cli import main as cli
from ptuning.config.schema import DataConfig
from ptuning.data.columns import Columns, read_columns
from ptuning.data.custom import CustomSource, custom_source
from ptuning.data.custom_options import custom_data
from ptuning.data.hub_datasets import load_splits
from ptuning.data.labels import label_names, read_labelled
from ptuning.data.sources import LocalSource
from ptuning.deltas.loading import load_run
from ptuning.deltas.predictor import Predictor
from ptuning.errors import UserError
from ptuning.inference.evaluation import evaluate
from ptuning.inference.evaluation_data import evaluation_source
from ptuning.inference.stream import read_asked
from ptuning.runs.predictions import keep_predictions, read_predictions
from ptuning.tasks.glue import TASKS, Task
from ptuning.training.run import locate
from support.commands import TypeIt
from support.running import TINY, Run, composed, run_in

MINE = Task("mine", ("one", "two"), ("a", "b"), ("accuracy",), ("accuracy",))
SINGLE = replace(MINE, text=("text",))


class Pipe(BytesIO):
    """Bytes that can be read once only."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("a pipe has no places")

    tell = seek  # type: ignore[assignment]


def predicted(content: bytes, name: str, task: Task = MINE, **options: Any) -> list[tuple[str, ...]]:
    """What prediction takes a file for, and the same content from a pipe."""
    found = list(read_asked(BufferedReader(BytesIO(content)), name, task, **options))  # type: ignore[arg-type]
    piped = BufferedReader(Pipe(content))  # type: ignore[arg-type]
    written = options.pop("written", None) or Path(name).suffix[1:] or None
    assert list(read_asked(piped, "standard input", task, written, **options)) == found
    return [texts for _, texts in found]


def trained(file: Path, content: bytes) -> list[tuple[str, ...]]:
    """What training takes a file for."""
    file.write_bytes(content)
    columns = read_columns(file).columns
    return list(zip(columns["one"], columns["two"], strict=True))


def said(make: Callable[[], Any]) -> str:
    """The one sentence that is told of a mistake."""
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Any rows that are written come back, to training and to prediction alike

CELL = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1),
    st.sampled_from(
        ['a\n"b",\tc;', '"', '""', "a;b", " padded ", "x\u2028y", "\ufeffmarked", "'", "\\", "x" * 140_000]
    ),
).filter(lambda cell: cell.strip() != "")
ROWS = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS,
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    empty=st.integers(0, 2),
    tsv=st.booleans(),
)
def test_what_csv_writes_is_read_back_by_training_and_prediction(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    delimiter: str,
    quoting: Any,
    end: str,
    empty: int,
    tsv: bool,
) -> None:
    tsv = tsv and delimiter == "\t"
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([(*row, *[""] * empty) for row in [("one", "two"), *rows]])
    # A TSV file whose every line has as many tabs may as well be one without quoting (docs/own-data.md).
    tabs = {line.count("\t") for line in written.getvalue().split("\n") if line.strip()}
    assume(not tsv or len(tabs) > 1 or not any("\n" in cell for row in rows for cell in row))
    content = written.getvalue().encode("utf-8-sig" if empty else "utf-8")
    file = tmp_path_factory.mktemp("written") / f"a.{'tsv' if tsv else 'csv'}"
    expected = [(one.strip(), two.strip()) for one, two in rows]
    assert trained(file, content + end.encode()) == expected
    assert predicted(content + end.encode(), file.name) == expected


ANY_TEXT = st.one_of(CELL, st.text(st.characters(), min_size=1).filter(lambda cell: cell.strip() != ""))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=6),
    shape=st.sampled_from(["lines", "list", "pretty"]),
    ascii_only=st.booleans(),
)
def test_what_json_writes_is_read_back_and_half_a_surrogate_pair_is_one_unknown_character(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], shape: str, ascii_only: bool
) -> None:
    objects = [{"one": one, "two": two, "more": [one, {"deep": two}]} for one, two in rows]
    has_halves = any("\ud800" <= character <= "\udfff" for row in rows for cell in row for character in cell)
    options: dict[str, Any] = {"ensure_ascii": ascii_only or has_halves}
    if shape == "lines":
        content = "\n\n".join(json.dumps(row, **options) for row in objects)
    else:
        content = json.dumps(objects, indent=1 if shape == "pretty" else None, **options)
    # Two halves that meet are one character, in JSON as in UTF-16.
    whole = [
        tuple(cell.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for cell in row) for row in rows
    ]
    file = tmp_path_factory.mktemp("written") / "a.json"
    assert trained(file, content.encode()) == whole
    assert predicted(content.encode(), file.name) == whole


def test_parquet_is_read_alike_from_a_file_and_a_pipe(tmp_path: Path) -> None:
    rows = [("a \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), " b "), ('"', "c,\n")]
    table = pa.table(
        {"id": [1, 2], "one": [one for one, _ in rows], "two": pa.array([t for _, t in rows]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    assert trained(tmp_path / "b.parquet", content) == rows
    assert predicted(content, "b.parquet") == rows
    assert predicted(content, "no ending") == rows
    (tmp_path / "c.parquet").write_bytes(content[:40])
    assert "c.parquet could not be read as Parquet" in said(lambda: read_columns(tmp_path / "c.parquet"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('[{"text": "a"},\n {"text": "b"}]', ["a", "b"]),
        ('\ufeff\n[\n {\n  "text": "a"\n }\n]', ["a"]),
        ("[]", []),
        ("", []),
        ("[Music] a\nb\n", ["[Music] a", "b"]),
        ("a\tb\r\nc, d\re", ["a\tb", "c, d", "e"]),
    ],
)
def test_what_comes_without_a_name_is_known_by_its_first_characters(content: str, expected: list[str]) -> None:
    assert [text for (text,) in predicted(content.encode(), "notes", SINGLE)] == expected


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", ",,\ntext,label,,\nx,a,,\n\n  \ny,b,,\n", ["x", "y"]),  # a spreadsheet's empty columns; blank lines
        ("a.csv", "text,label\nx,a\ny,b\n,\n , \n\n,,,\n", ["x", "y"]),  # and its empty rows at the end
        ("a.tsv", "text\tlabel\nx\ta\n\t\n", ["x"]),
        ("a.csv", "sep=;\ntext;label\nx, y;a\n", ["x, y"]),  # Excel's first line
        ("a.csv", '"sep=,"\ntext,label\nx;y,a\n', ["x;y"]),
        ("a.csv", "\ufeffSEP=\t\r\ntext\tlabel\r\nx;y,z\ta\r\n", ["x;y,z"]),
        ("a.csv", "text\nsep=;\n", ["sep=;"]),  # a text like any other
        ("a.csv", 'id, text, label\n0, "x, y", a\n1, z , b\n', ["x, y", "z"]),
        ("a.csv", "\n\ntext;label\nx, y;a\n", ["x, y"]),
        ("a.csv", '"a,b,c";text\n1;x\n', ["x"]),  # what is quoted separates nothing
        ("a.csv", f"text,label\n{'x' * 200_000},a\n", ["x" * 200_000]),
        ("a.csv", ",text\n0,x\n1,y\n", ["x", "y"]),  # the index that pandas writes
        ("a.csv", "review\nx\n\ny\n", ["x", "y"]),  # the only column needs no name
        ("a.tsv", 'text\tlabel\n"say ""x"" now"\ta\n"two\tfields"\tb\n', ['say "x" now', "two\tfields"]),
        ("a.tsv", 'text\tlabel\n"x" and\ta\n" alone\tb\n', ['"x" and', '" alone']),
        ("a.jsonl", '{"label": 1, "text": "x"}\n\n{"text": "y"}\n', ["x", "y"]),
        ("a.ndjson", '[{"text": "x"}]', ["x"]),
    ],
)
def test_files_that_training_reads_are_read_for_prediction(name: str, content: str, expected: list[str]) -> None:
    assert [text for (text,) in predicted(content.encode(), name, SINGLE)] == expected


def test_a_run_of_glue_reads_the_benchmarks_own_files(tmp_path: Path) -> None:
    """A quote is a character, white space stays, a file may begin with a row, and damaged rows have a sentence."""
    (tmp_path / "CoLA").mkdir()
    cola = 'gj04\t1\t\t"Quoted"\nks08\t0\t*\t Who said "yes? \n'
    (tmp_path / "CoLA/train.tsv").write_text(cola)
    table = LocalSource(TASKS["cola"], tmp_path).read("train")
    assert list(table.texts[0]) == ['"Quoted"', ' Who said "yes? ']
    assert predicted(cola.encode(), "dev.tsv", TASKS["cola"]) == [(text,) for text in table.texts[0]]
    assert predicted(b"index\tsentence\n0\ta \n", "test.tsv", TASKS["cola"]) == [("a ",)]
    assert predicted(b"sentence,label\n dull ,0\n", "a.csv", TASKS["sst2"]) == [("dull ",)]
    assert predicted(b"question1\tquestion2\n\tWhat?\n", "a.tsv", TASKS["qqp"]) == [("", "What?")]
    own = b"id\tdate\tauthor\treview\n7\t2020\tme\tgood film\n"  # as many columns as CoLA's files, with names
    assert predicted(own, "a.tsv", TASKS["cola"], columns=["review"]) == [("good film",)]
    assert "line 1 has no 'sentence'. It has: id, date, author, review. Name the text columns: --text date" in said(
        lambda: predicted(own, "a.tsv", TASKS["cola"])
    )


# Mistakes


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.csv",
            "review,label\nx,a\n",
            "a.csv, line 1 has no 'text'. It has: review, label. Name the text columns: --text",
        ),
        ("a.csv", "the dog runs,a\nx,b\n", "a.csv, line 1 has no 'text'. It has: the dog runs, a."),
        ("a.csv", "label\na\n", "a.csv, line 1 has no 'text'. It has: label."),
        ("a.csv", "ID\na\n", "a.csv, line 1 has no 'text'. It has: ID. Name the text columns: --text sentence."),
        ("a.jsonl", '{"id": "a"}\n{"id": "b", "text": "x"}\n', "a.jsonl, line 1 has no 'text'. It has: id."),
        ("a.csv", gzip.compress(b"text\nx\n", mtime=0), "a.csv is compressed (gzip), not text: unpack it"),
        ("a.csv", "\ntxt,id\nx,a\n", "a.csv, line 2 has no 'text'. Did you mean 'txt'?"),
        ("a.jsonl", '{"review": "x", "id": 1}\n', "a.jsonl, line 1 has no 'text'. It has: review, id."),
        ("a.jsonl", "{}\n", "a.jsonl, line 1 has no 'text'. It has: nothing."),
        ("a.jsonl", '{"text": "x"}\n{"label": "a"}\n', "a.jsonl, line 2 has no 'text'. It has: label."),
        ("a.jsonl", '{"text": ["x", "y"]}\n', "a.jsonl, line 1: 'text' is a list; one text per row."),
        ("a.json", '[{"text": {"en": "x"}}]', "a.json, row 1: 'text' is an object; one text per row."),
        (
            "a.json",
            '{\n "text": "x"\n}\n',
            "a.json, line 1 ends before its object does. A file of JSON holds one object",
        ),
        ("a.json", '{"text": "x",\n"label": "a"}', "a.json, line 1 ends before its object does."),
        ("a.jsonl", '{"text": "x\n', "a.jsonl, line 1 ends before its object does."),
        ("a.json", '"text"', "a.json, line 1 is no JSON object."),
        ("a.json", '["x", "y"]', "a.json, row 1 is no JSON object."),
        ("a.json", '["x"]\n["y"]\n', "a.json, line 1 is no JSON object."),
        ("a.json", '\n[{"text": "x"},\n{]', "a.json, line 3 is not JSON"),
        ("a.json", "{'text': 'x'}", "a.json, line 1 is not JSON: Expecting property name"),
        ("a.json", "[" * 100_000, "a.json, line 1 is JSON that cannot be read"),
        ("a.jsonl", f'{{"text": {"1" * 5000}}}', "a.jsonl, line 1 is JSON that cannot be read"),
        ("a.csv", b"text\ncaf\xe9\n", "a.csv, line 2: byte 0xe9 is not UTF-8; save the file as UTF-8."),
        ("a.csv", b"text\nx\xed\xa0\xbd\n", "a.csv, line 2: byte 0xed is not UTF-8"),  # half a pair, as bytes
        ("a.csv", "text,text\nx,y\n", "a.csv has two columns 'text'"),
        ("a.csv", 'text\nx\n""\ny\n', "a.csv, line 3: 'text' is empty."),
        ("a.csv", 'text\nx\n""\n', "a.csv, line 3: 'text' is empty."),
        ("a.csv", "text,label\nx,a\n,\ny,b\n", "a.csv, line 3: 'text' is empty."),
        ("a.csv", "text,label\nx,a\n  ,\ny,b\n", "a.csv, line 3: 'text' is empty."),
        ("a.csv", 'text,label\nx,a\n"\n",\ny,b\n', "a.csv, line 3: 'text' is empty."),
        ("a.tsv", "text\tlabel\nx\ta\n\t\ny\tb\n", "a.tsv, line 3: 'text' is empty."),
        ("a.tsv", 'text\nx\n""\ny\n', "a.tsv, line 3: 'text' is empty."),
        ("a.csv", "sep=;\ntext;label\nx;a;b\n", "a.csv, line 3 has 3 fields, but the first line names 2."),
        ("a.parquet", "PAR1 broken", "a.parquet could not be read as Parquet"),
    ],
)
def test_a_broken_file_has_one_sentence_for_training_and_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | bytes, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(raw)
    assert told in said(lambda: list(read_asked(BufferedReader(BytesIO(raw)), name, SINGLE)))  # type: ignore[arg-type]
    training = said(lambda: custom_source(custom_data(DataConfig(source="files", train=name, text="text"))))
    if not ("has no 'text'" in told or "'text' is" in told):
        assert told in training


def test_a_file_that_may_not_be_read_is_not_one_that_may_not_be_written(tmp_path: Path) -> None:
    for name in ("train.csv", "train.parquet", "dir/train.tsv", "RTE/train.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0)
    (tmp_path / "dir").chmod(0)
    script = """
import sys; from pathlib import Path
from ptuning.data.columns import read_columns
from ptuning.data.sources import LocalSource
from ptuning.errors import DataError
from ptuning.tasks.glue import TASKS
rte = LocalSource(TASKS["rte"], Path("."))
files = [Path(name) for name in ("train.csv", "train.parquet", "dir/train.tsv")]
for read in (*(lambda file=file: read_columns(file) for file in files), rte.identity):
    try:
        read()
    except DataError as error:
        print(error)
"""
    powers = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    found = subprocess.run([*powers, sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    (tmp_path / "dir").chmod(0o755)
    names = ("train.csv", "train.parquet", "dir/train.tsv", "RTE/train.tsv")
    assert found.stdout.splitlines() == [f"{name} may not be read." for name in names], found.stderr


def test_a_second_line_of_names_is_no_row_to_anybody(tmp_path: Path) -> None:
    joined = b"one,two\na,b\none,two\nc,d\n"
    for read in (lambda: predicted(joined, "a.csv"), lambda: trained(tmp_path / "a.csv", joined)):
        assert "a.csv, line 3 names the columns again: files were joined." in said(read)
    (tmp_path / "RTE").mkdir()
    part = "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n"
    (tmp_path / "RTE" / "train.tsv").write_text(2 * part)
    assert "line 3 names the columns again" in said(lambda: LocalSource(TASKS["rte"], tmp_path).read("train"))
    assert predicted(b"one,two\none,b\na,two\n", "a.csv") == [("one", "b"), ("a", "two")]


# Labels


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        (" -2.00 ", "-2"),
        ("J45.0", "J45.0"),
        ("v2.0", "v2.0"),
        ("chapter 3.0", "chapter 3.0"),
        ("1.0.0", "1.0.0"),
        ("3-1.0", "3-1.0"),
        ("$5.0", "$5.0"),
        ("1.50", "1.50"),
        ("01", "01"),
        (True, "True"),
        (0, "0"),
        ("NA", "NA"),
        ("nul", "nul"),
        ("cafe\u0301", "café"),  # as macOS writes it
    ],
)
def test_a_label_is_what_the_file_says_and_whole_numbers_are_one_however_written(value: Any, name: str) -> None:
    assert label_names(Columns({"label": [value]}, "a.jsonl"), "label") == [name]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (["neg", "urgent"], "a.jsonl, row 1: the label is a list; one label per row"),
        ([], "the label is a list"),
        ({"name": "neg"}, "a.jsonl, row 1: the label is an object; one label per row"),
        (b"neg", "the label is bytes"),
        (None, "the label 'label' is missing"),
        (float("nan"), "the label 'label' is missing"),
        ("  ", "the label 'label' is missing"),
        (" NaN ", "the label 'label' is missing"),
        ("\u200b", "the label 'label' is missing"),
    ],
)
def test_several_labels_in_a_row_or_none_are_refused(value: Any, told: str) -> None:
    assert told in said(lambda: label_names(Columns({"label": [value]}, "a.jsonl"), "label"))


ABSENT = ("NA", "na", "N/A", "#N/A", "None", "<NA>", "NULL", "nan")


@pytest.mark.parametrize("absent", ABSENT)
def test_what_tools_write_for_no_label_is_none_among_numbers_and_a_class_among_names(absent: str) -> None:
    numbers = Columns({"label": ["0", "1.5", absent]}, "a.csv")
    assert "a.csv, row 3: the label 'label' is missing (it says" in said(lambda: label_names(numbers, "label"))
    assert label_names(numbers, "label", known=("0", "1.5", absent)) == ["0", "1.5", absent]  # an earlier run's class
    names = Columns({"label": ["none of it", absent]}, "a.csv")
    assert label_names(names, "label") == ["none of it", absent]


def described(file: Path, **keys: Any) -> CustomSource:
    return custom_source(custom_data(DataConfig(source="files", train=str(file), text="text", **keys)))


def test_a_class_that_may_be_no_label_is_said(here: Path) -> None:
    write(here / "a.csv", [(f"dog {n}", ("pos", "neg", "NA")[n % 3]) for n in range(30)])
    found = described(here / "a.csv")
    assert found.task.labels == ("NA", "neg", "pos")
    assert found.about()["note"] == "'NA' is a label here, of 10 rows: if it means that there is none, drop them"


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        (("not ok", "not\u00a0ok", "ok"), ("not ok", "ok")),
        (("pos", "pos\u200b", "neg"), ("neg", "pos")),
        (("\ufeffpos", "pos", "neg"), ("neg", "pos")),
        (("0", "-0.0", "1"), ("0", "1")),
        (("1", "+1", "-1"), ("-1", "1")),
        (("not\u00a0ok", "ok"), ("not\u00a0ok", "ok")),  # nothing looks like it: it is called what it was
        (("+1", "-1"), ("-1", "+1")),
        (("01", "1"), ("01", "1")),
    ],
)
def test_labels_that_look_alike_are_one_and_others_keep_their_names(
    here: Path, written: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    write(here / "a.csv", [(f"dog {n}", written[n % len(written)]) for n in range(30)])
    found = described(here / "a.csv")
    assert found.task.labels == labels
    write(here / "dev.csv", [("x", labels[0].replace("\u00a0", " ")), ("y", f"{labels[1]}\u200b")])
    assert described(here / "a.csv", dev="dev.csv").validation.labels == [0, 1]


def test_a_run_with_labels_that_look_alike_is_scored_with_its_own() -> None:
    task = replace(SINGLE, labels=("-0", "0", "not ok", "not\u00a0ok"), label="label")
    rows = Columns({"text": ["x"] * 4, "label": ["not\u00a0ok", "not ok", "0", "-0.0"]}, "a.csv")
    assert read_labelled(rows, label_names(rows, "label", task.labels), task, "train").labels == [3, 2, 1, 0]


# Names of class ids, as the library `datasets` notes them in a Parquet file


def noted(file: Path, ids: Sequence[int | None], names: Sequence[str]) -> Path:
    """A file of the Hub, as `datasets` writes it."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})
    texts = [f"dog {n}" for n in range(len(ids))]
    datasets.Dataset.from_dict({"text": texts, "label": list(ids)}, features=features).to_parquet(file)
    return file


NLI = ("entailment", "neutral", "contradiction")


def test_a_parquet_file_of_the_hub_has_its_class_names(here: Path) -> None:
    found = described(noted(here / "a.parquet", [0, 1, 2] * 10, NLI), dev=str(noted(here / "b.parquet", [2, 0], NLI)))
    assert found.task.labels == NLI
    assert found.validation.labels == [2, 0]
    other = described(here / "a.parquet", dev=str(noted(here / "c.parquet", [0, 1], ("neutral", "entailment"))))
    assert other.validation.labels == [1, 0]
    write(here / "d.csv", [("x", "contradiction")])
    assert described(here / "a.parquet", dev="d.csv").validation.labels == [2]
    for ids in ([0, 1, -1] * 10, [0, 1, None] * 10):
        assert "a.parquet, row 3: the label 'label' is missing" in said(
            lambda ids=ids: described(noted(here / "a.parquet", ids, NLI))  # type: ignore[misc]
        )


def test_a_run_that_knows_ids_alone_reads_ids_where_a_file_has_names(here: Path) -> None:
    """As those of earlier versions do, and those on a CSV file of ids."""
    write(here / "train.csv", [(f"dog {n}", n % 3) for n in range(30)])
    found = described(here / "train.csv", dev=str(noted(here / "b.parquet", [2, 0], NLI)))
    assert (found.task.labels, found.validation.labels) == (("0", "1", "2"), [2, 0])
    rows = read_columns(noted(here / "c.parquet", [0, -1], NLI))
    assert label_names(rows, "label", known=("-1", "0", "1", "2")) == ["0", "-1"]
    assert "row 2: the label 'label' is missing (it is -1)" in said(
        lambda: label_names(rows, "label", known=("0", "1"))
    )
    rows = read_columns(noted(here / "c.parquet", [1, 0], ("1", "2", "3")))
    assert label_names(rows, "label", known=("1", "2")) == ["2", "1"]
    assert label_names(rows, "label", known=("0", "1", "2")) == ["1", "0"]
    stars = noted(here / "d.parquet", [0, 1, 2, 3] * 10, ("bad", "fair", "good", "best"))
    assert set(described(stars, kind="regression").train.labels or ()) == {0.0, 1.0, 2.0, 3.0}


def test_classes_whose_names_are_numbers_are_classes(here: Path) -> None:
    for names in (("0.5", "1.0", "1.5"), ("1,5", "2,5", "3"), ("0", "1", "NA")):
        assert described(noted(here / "a.parquet", [0, 1, 2] * 10, names)).task.labels == names
    assert described(here / "a.parquet").task.labels == ("0", "1", "NA")
    typed = described(noted(here / "a.parquet", [0, 1, 2] * 10, ("0.5", "1.0", "1.5")), kind="regression")
    assert set(typed.train.labels or ()) == {0.5, 1.0, 1.5}


def test_notes_of_datasets_that_say_nothing_of_classes_change_nothing(here: Path) -> None:
    table = pa.table({"text": [f"dog {n}" for n in range(20)], "label": [0, 1] * 10})
    for said_there in ("{}", '{"info": null}', '{"info": {"features": {"tags": [{"dtype": "string"}]}}}'):
        pq.write_table(table.replace_schema_metadata({"huggingface": said_there}), here / "a.parquet")
        assert described(here / "a.parquet").task.labels == ("0", "1")
    pq.write_table(table.replace_schema_metadata({"huggingface": '{"info": '}), here / "a.parquet")
    assert "the names of its classes, in its metadata" in said(lambda: described(here / "a.parquet"))
    short = noted(here / "b.parquet", [0, 1] * 10, ("a", "b"))
    metadata = {"huggingface": pq.read_schema(short).metadata[b"huggingface"]}
    pq.write_table(table.set_column(1, "label", [[0, 7] * 10]).replace_schema_metadata(metadata), short)
    assert "row 2: the label 7 has no name; there are 2, from 0 on." in said(lambda: described(short))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file: Path, rows: Sequence[Sequence[Any]], names: Sequence[str] = ("text", "label")) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])
    return file


def test_a_dataset_saved_alone_is_the_training_set(here: Path) -> None:
    made = datasets.Dataset.from_dict(
        {"text": [f"dog {n}" for n in range(24)], "label": ["ab"[n % 2] for n in range(24)], "tags": [["x"]] * 24}
    )
    made.save_to_disk("alone")
    found = custom_source(custom_data(DataConfig(source="files", path="alone", text="text")))
    assert (found.task.labels, len(found.train) + len(found.validation)) == (("a", "b"), 24)
    told = said(lambda: custom_source(custom_data(DataConfig(source="files", path="alone", text="text", dev="dev"))))
    assert told == "alone has no split 'dev' (data.dev). It has: train."
    told = said(lambda: custom_source(custom_data(DataConfig(source="files", path="alone", text="text", label="tags"))))
    assert told.startswith("alone train: column 'tags' (data.label) holds List(")
    write(here / "a.csv", [("x", "a")])
    told = said(lambda: custom_source(custom_data(DataConfig(source="files", path="a.csv", text="text"))))
    assert told.startswith("data.path=a.csv is a file: data.train=a.csv.")


@pytest.mark.parametrize(
    ("rows", "keys", "note"),
    [
        (
            [("x", "a"), ("y", "a")],
            {"metric": ["matthews", "auroc"]},
            "every label of dev.csv is 'a', so matthews and auroc say",
        ),
        ([("x", "a")], {"metric": "kappa"}, "every label of dev.csv is 'a', so kappa says nothing"),
        ([("x", "b")], {}, "every label of dev.csv is 'b': a score of it only says how often that is the answer"),
        ([("x", "a"), ("y", "b")], {}, ""),
    ],
)
def test_a_dev_set_with_one_label_is_said(
    here: Path, rows: list[tuple[str, str]], keys: dict[str, Any], note: str
) -> None:
    write(here / "train.csv", [(f"dog {n}", "ab"[n % 2]) for n in range(24)])
    write(here / "dev.csv", rows)
    data = DataConfig(source="files", train="train.csv", dev="dev.csv", text="text", **keys)
    assert custom_source(custom_data(data)).about().get("note", "").startswith(note)


def test_a_dev_set_with_one_score_is_said(here: Path) -> None:
    write(here / "train.csv", [(f"dog {n}", n / 4) for n in range(24)])
    write(here / "dev.csv", [("x", 2.5), ("y", "2.50")])
    found = custom_source(custom_data(DataConfig(source="files", train="train.csv", dev="dev.csv", text="text")))
    assert found.about()["note"].startswith("every score of dev.csv is 2.5, so pearson and spearman say nothing")


# One task's folder is not another's


def test_a_folder_of_another_task_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    rows = "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n"
    for name in ("WNLI", "RTE", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.tsv").write_text(rows)
    for typed in ("WNLI", "RTE/../WNLI"):
        told = said(lambda typed=typed: LocalSource(TASKS["rte"], tmp_path / typed).read("train"))  # type: ignore[misc]
        assert "is wnli's folder by its name, and has none of rte in it: task=wnli" in told
    (tmp_path / "linked").symlink_to(tmp_path / "WNLI")
    assert "is wnli's folder" in said(lambda: LocalSource(TASKS["rte"], tmp_path / "linked").identity())
    assert LocalSource(TASKS["wnli"], tmp_path / "WNLI").read("train").labels == [1]
    assert LocalSource(TASKS["rte"], tmp_path / "mine").read("train").labels == [1]
    assert len(LocalSource(TASKS["rte"], tmp_path).read("train")) == 1
    (tmp_path / "mine/train.tsv").write_text("index\tquestion\tsentence\tlabel\n0\tA\tB\tentailment\n")
    told = said(lambda: LocalSource(TASKS["rte"], tmp_path / "mine").read("train"))
    assert told.endswith("sst2, qnli has such columns: task=sst2.") or "qnli" in told


def test_label_names_of_another_task_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    def saved(names: list[str]) -> LocalSource:
        features = datasets.Features(
            {
                "sentence1": datasets.Value("string"),
                "sentence2": datasets.Value("string"),
                "label": datasets.ClassLabel(names=names),
            }
        )
        folder = tmp_path / "-".join(names)
        made = datasets.Dataset.from_dict({"sentence1": ["A"], "sentence2": ["B"], "label": [1]}, features=features)
        made.save_to_disk(str(folder / "train"))
        return LocalSource(TASKS["rte"], folder)

    told = said(lambda: saved(["not_entailment", "entailment"]).read("train"))
    assert told.endswith("rte has entailment, not_entailment. These are labels of wnli: task=wnli.")
    assert "These are labels of mrpc" in said(lambda: saved(["not_equivalent", "equivalent"]).read("train"))
    assert saved(["entailment", "not_entailment"]).read("train").labels == [1]
    assert saved(["no", "yes"]).read("train").labels == [1]  # nobody's in GLUE


# A run is scored with the task that it has stored


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Path]]:
    """A run with three labels, and the folder that it was trained in."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("own")
        patch.setenv("PTUNING_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        rows = [(f"dog {n}", ("no", "perhaps", "yes")[n % 3]) for n in range(30)]
        write(folder / "train.csv", rows)
        write(folder / "test.csv", rows[:6])
        own = ("task=custom", "data.text=text", "data.train=train.csv", "data.dev_share=0.5", "data.test=test.csv")
        common = [word for word in TINY if not word.startswith("data")]
        yield run_in(folder / "runs", *common, *own, "module=bias", "optim.lr=0.02", "trainer.max_epochs=4"), folder


@pytest.fixture
def scored(trained_run: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Score the run as typed, from the folder that it was trained in."""
    run, folder = trained_run
    monkeypatch.chdir(folder)
    predictor = Predictor(load_run(run.path))
    return lambda *overrides, **options: evaluate(predictor, overrides=overrides, **options)


def answers_of(run: Run, file: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    cli.main(["predict", str(run.path), "--input", str(file)])
    return [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]


def test_a_file_is_scored_by_label_names_with_the_runs_ids(
    trained_run: tuple[Run, Path], scored: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of the three labels, or one, in any format: the score is what `ptuning predict` says beside them."""
    run, folder = trained_run
    rows = [(f"dog {n}", ("yes", "perhaps")[n % 2]) for n in range(12)]
    answers = answers_of(run, write(folder / "two.csv", rows), capsys)
    right = sum(answer == label for answer, (_, label) in zip(answers, rows, strict=True)) / 12
    assert scored("data.dev=two.csv").score == pytest.approx(right)
    assert scored("data.train=two.csv", "data.dev=two.csv").score == pytest.approx(right)
    assert scored("data.dev=two.csv", "data.seed=5").score == pytest.approx(right)  # nothing is held out there
    (folder / "two.json").write_text(json.dumps([{"review": text, "stars": label} for text, label in rows]))
    found = scored("data.dev=two.json", "data.text=review", "data.label=stars")
    assert (found.score, found.rows, found.data) == (pytest.approx(right), {"validation": 12}, "files")
    datasets.Dataset.from_dict({"text": [t for t, _ in rows], "label": [n % 2 for n in range(12)]}).cast_column(
        "label", datasets.ClassLabel(names=["yes", "perhaps"])
    ).save_to_disk("saved")
    assert scored("data.path=saved", "data.dev=train").score == pytest.approx(right)
    write(folder / "answers.csv", [(text, answer) for (text, _), answer in zip(rows, answers, strict=True)])
    assert scored("data.dev=answers.csv").score == 1.0
    assert set(scored("data.dev=two.csv", "data.metric=kappa").metrics["validation"]) == {
        "kappa",
        "accuracy",
        "f1_macro",
    }


def test_the_runs_own_data_are_scored_without_a_word_and_only_if_they_are_the_same(
    trained_run: tuple[Run, Path], scored: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, _ = trained_run
    assert scored().score == pytest.approx(run.record["score"])
    assert scored(split="train").rows == {"train": 15}
    others = {
        "other labels": [("x", "fear"), ("y", "joy")] * 10,
        "fewer rows": [(f"dog {n}", ("no", "perhaps", "yes")[n % 3]) for n in range(24)],
        "another text": [(f"cat {n}", ("no", "perhaps", "yes")[n % 3]) for n in range(30)],
        "one label": [("x", "no")] * 30,
    }
    monkeypatch.chdir(tmp_path)
    told = said(scored)
    assert told.startswith("The data that the run was trained on are not here: there is no train.csv.")
    for rows in others.values():
        write(tmp_path / "train.csv", rows)
        told = said(scored)
        assert told.startswith("train.csv is not what the run was trained on")
        assert told.endswith("data.dev=FILE.")
        assert said(lambda: scored(split="train")) == told
    write(tmp_path / "train.csv", others["another text"])
    assert scored("data.dev=train.csv").rows == {"validation": 30}
    write(
        tmp_path / "train.csv",
        [(t, label, 1) for t, label in [(f"dog {n}", ("no", "perhaps", "yes")[n % 3]) for n in range(30)]],
        ("text", "label", "id"),
    )
    assert scored().score == pytest.approx(run.record["score"])  # the rows count, not the file
    (tmp_path / "train.csv").rename("moved.csv")
    assert scored("data.train=moved.csv").score == pytest.approx(run.record["score"])


@pytest.mark.parametrize(
    ("overrides", "split", "told"),
    [
        (
            ("data.dev=more.csv",),
            None,
            "more.csv, line 3: the label 'maybe' does not occur in the data that the run was",
        ),
        (("data.dev=more.csv", "data.text=words"), None, "more.csv has no column 'words'; data.text names another."),
        (("data.dev=more.csv", "data.text=[text,label2]"), None, "data.text names 2 columns, but the run reads 1."),
        (("data.dev=none.csv",), None, "There is no file none.csv."),
        (
            ("data.dev=more.csv", "data.kind=regression"),
            None,
            "data.kind=regression does not fit: the run answers with no,",
        ),
        (("data.dev=more.csv", "data.metric=f1"), None, "data.metric=f1 does not fit classification with 3 labels."),
        (("data=local", "data.dir=."), None, "data=local holds GLUE's tasks"),
        (("seed=3",), None, "'seed=3' says nothing about the data"),
        ((), "test", "To score a labelled file, name it as the dev set: data.dev=FILE."),
        ((), "tset", "There is no split 'tset'."),
        (("data.test=more.csv",), None, "data.test=more.csv names no rows to score."),
        (("data.dev=more.csv", "data.train=more.csv"), "test", "name it as the dev set"),
        (("data.seed=5",), None, "data.seed= would hold out rows that the run was trained on."),
        (("data.train=test.csv",), None, "data.dev=test.csv scores all its rows."),
        (("data.train=test.csv",), "train", "data.dev=test.csv scores all its rows."),
        (("data.train=train.csv", "data.seed=5"), None, "data.train=train.csv is not what the run was trained on, and"),
        (("data.dev_share=0.2",), "train", "data.dev_share= would hold out rows that the run was trained on."),
    ],
)
def test_what_cannot_be_scored_has_a_sentence(
    trained_run: tuple[Run, Path], scored: Callable[..., Any], overrides: tuple[str, ...], split: str | None, told: str
) -> None:
    write(trained_run[1] / "more.csv", [("x", "no"), ("y", "maybe")])
    assert told in said(lambda: scored(*overrides, split=split))


def test_a_delta_alone_is_scored_on_what_is_typed_and_one_label_is_said(
    trained_run: tuple[Run, Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["export", str(trained_run[0].path), "--to", "delta", "--out", "delta"])
    write(here / "a.csv", [("x", "no"), ("y", "no")])
    capsys.readouterr()
    cli.main(["evaluate", "delta", "--json", "data.dev=a.csv", "data.metric=matthews"])
    shown = capsys.readouterr()
    assert json.loads(shown.out)["rows"] == {"validation": 2}
    assert "every label of validation is 'no', so matthews says nothing (taken as 0)" in shown.err
    alone = Predictor(load_run("delta"))
    assert "says which rows to score" in said(lambda: evaluate(alone))
    assert "data.dev=a.csv scores all its rows" in said(lambda: evaluate(alone, overrides=["data.train=a.csv"]))


def test_a_run_of_glue_is_scored_on_a_file_by_label_names(train: Callable[..., Run], here: Path) -> None:
    run = train("task=rte", "trainer.max_steps=1")
    predictor = Predictor(load_run(run.path))
    write(
        here / "pairs.csv",
        [("a", "b", "not_entailment"), ("c", "d", "entailment")],
        ("sentence1", "sentence2", "label"),
    )
    found = evaluate(predictor, overrides=["data.dev=pairs.csv"])
    assert (found.task, found.data, found.rows) == ("rte", "files", {"validation": 2})
    write(here / "pairs.csv", [("a", "b", "0")], ("sentence1", "sentence2", "label"))
    told = said(lambda: evaluate(predictor, overrides=["data.dev=pairs.csv"]))
    assert "the label '0' does not occur" in told
    assert "Labels there: entailment, not_entailment." in told
    quoted = 'sentence1\tsentence2\tlabel\n"he said ""no"""\tb \tentailment\n'  # GLUE's TSV has no quoting
    (here / "pairs.tsv").write_text(quoted)
    source = evaluation_source(predictor.loaded, predictor.task, True, ["data.dev=pairs.tsv"], None)
    texts = tuple(zip(*source.read("validation").texts, strict=True))
    assert list(texts) == predicted(quoted.encode(), "pairs.tsv", TASKS["rte"]) == [('"he said ""no"""', "b ")]
    cli.main(["export", str(run.path), "--to", "delta", "--out", "delta"])
    assert "does not say which synthetic rows are its dev set" in said(lambda: evaluate(Predictor(load_run("delta"))))
    alone = Predictor(load_run("delta"))
    for typed in ("data.eval_batch_size=8", "data.train_rows=8"):
        assert "does not say which synthetic rows" in said(lambda typed=typed: evaluate(alone, overrides=[typed]))
    assert "data.dev=pairs.csv scores all" in said(lambda: evaluate(predictor, overrides=["data.train=pairs.csv"]))
    assert "data.dev_share is for custom data" in said(lambda: evaluate(predictor, overrides=["data.dev_share=0.1"]))


def test_glue_from_a_folder_is_scored_only_if_it_is_what_the_run_was_trained_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(folder: Path, text: str) -> None:
        (folder / "RTE").mkdir(parents=True)
        for name in ("train", "dev"):
            rows = "".join(f"{n}\t{text} {n}\tB\t{('entailment', 'not_entailment')[n % 2]}\n" for n in range(20))
            (folder / "RTE" / f"{name}.tsv").write_text(f"index\tsentence1\tsentence2\tlabel\n{rows}")

    files(here / "glue", "A")
    common = [word for word in TINY if not word.startswith("data")]
    run = run_in(here / "runs", *common, "data=local", "data.dir=glue", "task=rte", "trainer.max_steps=1")
    predictor = Predictor(load_run(run.path))
    assert evaluate(predictor).score == pytest.approx(run.record["score"])
    files(here / "elsewhere/glue", "C")
    monkeypatch.chdir(here / "elsewhere")
    assert said(lambda: evaluate(predictor)).startswith("glue is not what the run was trained on: its texts or labels")
    assert said(lambda: evaluate(predictor, overrides=["data.eval_batch_size=8"])).startswith(
        "glue is not what the run"
    )
    assert evaluate(predictor, overrides=["data=local", "data.dir=glue"]).rows == {"validation": 20}
    assert evaluate(predictor, overrides=[f"data.dir={here / 'elsewhere/glue'}"]).rows == {"validation": 20}
    monkeypatch.chdir(here)
    again = evaluate(predictor, overrides=["data.eval_batch_size=8", "data.group_by_length=true"])
    assert again.score == pytest.approx(run.record["score"])


def test_glues_test_set_is_predicted_again_if_its_texts_have_changed_and_read_before_training(here: Path) -> None:
    def rows(name: str, texts: Sequence[str]) -> None:
        lines = [f"{n}\t{text}\tB\t{('entailment', 'not_entailment')[n % 2]}\n" for n, text in enumerate(texts)]
        (here / f"{name}.tsv").write_text("".join(["index\tsentence1\tsentence2\tlabel\n", *lines]))

    for name in ("train", "dev"):
        rows(name, [f"A {n}" for n in range(20)])
    words = [word for word in TINY if not word.startswith("data")]
    words += ["data=local", "data.dir=.", "task=rte", "module=frozen", "predict=[test]"]
    assert "has no test split of rte" in said(lambda: locate(composed(here / "runs", *words)))
    assert "has no test split of rte" in said(lambda: run_in(here / "runs", *words))
    assert not list(here.rglob("record.json"))
    rows("test", ["one", "two"])
    run = run_in(here / "runs", *words)
    file = run.path / "predictions" / "test.parquet"

    def is_done() -> bool:
        return locate(composed(here / "runs", *words)).finished is not None

    first = file.stat().st_mtime_ns
    assert is_done()
    rows("test", ["one", "three", "four"])
    assert not is_done()  # in a grid there is something to do
    run_in(here / "runs", *words)
    assert is_done()
    assert file.stat().st_mtime_ns > first
    assert len(read_predictions(file).index) == 3
    kept = read_predictions(file)
    keep_predictions(file, kept.index, None, kept.logits)  # as earlier versions wrote it
    rows("test", ["five"])
    assert is_done()
    file.write_bytes(b"damaged")
    assert not is_done()
    run_in(here / "runs", *words)
    assert len(read_predictions(file).index) == 1
    (here / "test.tsv").unlink()
    assert is_done()  # what is not here has not changed


def test_undefined_metrics_are_said_once_while_training(here: Path, type_it: TypeIt) -> None:
    write(here / "train.csv", [(f"dog {n}", "ab"[n % 2]) for n in range(24)])
    write(here / "dev.csv", [("x", "a"), ("y", "a")])
    common = [word for word in TINY if not word.startswith("data")]
    own = ("task=custom", "data.text=text", "data.train=train.csv", "data.dev=dev.csv", "data.metric=matthews")
    told = type_it(*common, *own, "module=frozen")
    assert told.code == 0, told
    assert "every label of dev.csv is 'a', so matthews says nothing" in " ".join(told.out.split())
    assert [line for line in told.err.splitlines() if "matthews" in line] == [
        "matthews is undefined: all labels are equal; taken as 0"
    ] or told.err.count("matthews is undefined") == 1


def test_a_folder_that_is_saved_anew_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, texts in (("one", ["a", "b"]), ("two", ["c", "d"]), ("two", ["e", "f", "g"])):
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        datasets.Dataset.from_dict({"text": texts}).save_to_disk("saved")
        assert load_splits("saved", None, None)["train"]["text"][:] == texts
