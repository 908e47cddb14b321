"""Rows that no reader expects: the answer is the right rows, or one sentence with the file and the line."""

import csv
import json
import shutil
from collections.abc import Callable
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptuning.config.schema import DataConfig
from ptuning.data.columns import read_columns
from ptuning.data.custom import CustomSource, custom_source
from ptuning.data.custom_options import custom_data
from ptuning.data.hub_datasets import load_splits
from ptuning.inference.stream import read_asked
from ptuning.tasks.glue import Task
from support.damage import DAMAGES, damage, told

SHORT = settings(deadline=None, max_examples=100, derandomize=True)
TASK = Task("mine", ("text",), ("a", "b"), ("accuracy",), ("accuracy",))
LONG_SENTENCE = 600
DEEP = 900


def said(do: Callable[[], Any]) -> str:
    sentence = told(do)
    assert sentence is not None
    assert len(sentence) < LONG_SENTENCE
    return sentence


def trained(file: Path, **keys: Any) -> CustomSource:
    return custom_source(custom_data(DataConfig(source="files", train=str(file), text="text", **keys)))


def predicted(content: bytes, name: str) -> list[tuple[str, ...]]:
    return [texts for _, texts in read_asked(BufferedReader(BytesIO(content)), name, TASK)]  # type: ignore[arg-type]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


GOOD = [f'{{"text": "row {number}", "label": "{"ab"[number % 2]}"}}' for number in range(20)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "x", "label": %s}' % ("1" * 5000), "line 3 is JSON that cannot be read: Exceeds the limit"),
        ('{"text": %s, "label": "a"}' % ("1" * 5000), "line 3 is JSON that cannot be read: Exceeds the limit"),
        ('{"text": %s, "label": "a"}' % ("1" * 4000), "'text' is 1111"),
        (f'{{"text": "x", "label": "a", "more": {nested(100_000)}}}', "line 3 is JSON that cannot be read: it is nest"),
        (f'{{"text": {nested(DEEP)}, "label": "a"}}', "'text' is a list"),
        ('{"text": {"a": 1}, "label": "a"}', "'text' is an object"),
        (f'{{"text": "x", "label": {nested(DEEP)}}}', "the label is a list"),
        ('{"text": "x", "label": "a"', "line 3 ends before its object does"),
        ('{"text": NaN, "label": "a"}', "'text' is nan"),
        ('{"label": "a"}', "'text' is None"),
    ],
)
@pytest.mark.parametrize("shape", ["lines", "list"])
def test_json_that_no_row_can_be(tmp_path: Path, line: str, words: str, shape: str) -> None:
    file = tmp_path / "a.json"
    lines = [*GOOD[:2], line, *GOOD]
    file.write_text("\n".join(lines) if shape == "lines" else "[" + ",\n".join(lines) + "]")
    sentence = said(lambda: trained(file))
    assert str(file) in sentence
    if shape == "lines":
        assert words in sentence
    if "label" not in words:
        assert str(file) in said(lambda: predicted(file.read_bytes(), str(file)))


@pytest.mark.parametrize("inside", [nested(DEEP), '{"a": ' * DEEP + "1" + "}" * DEEP])
def test_half_a_character_beside_what_is_nested_deep(tmp_path: Path, inside: str) -> None:
    file = tmp_path / "a.jsonl"
    rows = [
        f'{{"text": "half \\ud83d {number}", "label": "{"ab"[number % 2]}", "more": {inside}}}' for number in range(20)
    ]
    file.write_text("\n".join(rows))
    assert trained(file).train.texts[0][0].startswith("half \ufffd ")
    assert predicted(file.read_bytes(), file.name)[3] == ("half \ufffd 3",)


def test_a_score_beyond_every_float_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for giant in ("1" * 400, "1e999", "-Infinity", '"1e999"', "true"):
        rows = (f'{{"text": "x", "label": {score}}}' for score in (*range(20), giant))
        file.write_text("\n".join(rows))
        assert "line 21" in said(lambda: trained(file, kind="regression"))


def test_a_giant_cell_is_read_whole_and_never_repeated_whole(tmp_path: Path) -> None:
    giant = "word " * 400_000
    file = tmp_path / "a.csv"
    rows = [("text", "label"), *((f"row {number}", "ab"[number % 2]) for number in range(20))]

    def write(*more: tuple[str, str]) -> None:
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([*rows, *more])

    write((giant, "a"))
    source = trained(file)
    assert giant.strip() in (*source.train.texts[0], *source.validation.texts[0])
    assert predicted(file.read_bytes(), file.name)[-1] == (giant.strip(),)
    dev = tmp_path / "dev.csv"
    write(("x", giant))
    file.rename(dev)
    write()
    assert f"{dev}, line 22: the label 'word word" in said(lambda: trained(file, dev=str(dev)))


def test_objects_with_keys_of_their_own_are_no_table(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("\n".join(f'{{"{number}": 1}}' for number in range(6_000)))
    assert "over 5,000 columns" in said(lambda: trained(file))
    file = file.with_suffix(".csv")
    file.write_text(",".join(f"column {number}" for number in range(4_000)) + "\nx" + "," * 3_999 + "\n")
    assert "and 3980 more" in said(lambda: trained(file))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@SHORT
@given(st.lists(TEXT.filter(lambda text: text.strip() != ""), min_size=1, max_size=8), st.booleans())
def test_any_text_in_parquet_and_json_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ascii_only: bool
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet")
    (folder / "a.json").write_text(json.dumps([{"text": text} for text in texts], ensure_ascii=ascii_only), "utf-8")
    for file in folder.iterdir():
        assert read_columns(file).columns["text"] == texts
        assert predicted(file.read_bytes(), file.name) == [(text,) for text in texts]


def written(folder: Path) -> dict[str, Path]:
    """A file of every format with the same rows."""
    rows = [json.loads(line) for line in GOOD]
    with (folder / "a.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "a.tsv").write_text((folder / "a.csv").read_text().replace(",", "\t"))
    (folder / "a.jsonl").write_text("\n".join(GOOD))
    (folder / "a.json").write_text(json.dumps(rows, indent=1))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", write_page_checksum=True)
    return {file.suffix: file for file in folder.iterdir()}


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory.mktemp("formats"))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@settings(deadline=None, max_examples=60, derandomize=True)
@given(done=DAMAGES)
def test_a_damaged_file_is_rows_or_a_sentence(
    formats: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, ending: str, done: tuple[str, float, int]
) -> None:
    file = tmp_path_factory.mktemp("damaged") / f"a{ending}"
    whole = formats[ending].read_bytes()
    file.write_bytes(whole)
    damage(file, *done, b"another's")
    found: dict[str, list[Any]] = {}
    sentence = told(lambda: found.update(read_columns(file).columns))
    assert sentence is None or str(file) in sentence
    if ending == ".parquet" and "text" in found:  # its pages have checksums, its footer has none
        assert found["text"] == [json.loads(line)["text"] for line in GOOD]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "data"
    datasets.Dataset.from_list([json.loads(line) for line in GOOD]).save_to_disk(str(folder))
    return folder


@settings(deadline=None, max_examples=40, derandomize=True)
@given(name=st.sampled_from(["dataset_info.json", "state.json", "data-00000-of-00001.arrow"]), done=DAMAGES)
def test_a_damaged_folder_of_datasets_is_rows_or_a_sentence(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, name: str, done: tuple[str, float, int]
) -> None:
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("damaged") / "data")
    damage(folder / name, *done, b"{}")
    told(lambda: load_splits(str(folder), None, None))
