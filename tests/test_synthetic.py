"""The synthetic GLUE: rows of the right kind, the same everywhere, labels that only reading gives away."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ptuning.data.synthetic import SIZES, generate, vocabulary
from ptuning.data.table import Table
from ptuning.errors import DataError
from ptuning.tasks.glue import TASKS, Task

ALL = sorted(TASKS)
CLASSIFIED = [name for name, task in TASKS.items() if task.trains and not task.is_regression]
PAIRED = [name for name in CLASSIFIED if len(TASKS[name].text) == 2]


def splits(task: Task) -> list[str]:
    return [*(["train"] if task.trains else []), *task.validation, *task.test]


def rows(table: Table) -> set[tuple[str, ...]]:
    return set(zip(*table.texts, strict=True))


def trained_and_held_out(name: str) -> tuple[Table, Table]:
    """A train split of the default size, a validation split large enough to measure a point of accuracy."""
    task = TASKS[name]
    return generate(task, "train", SIZES["train"], 0), generate(task, next(iter(task.validation)), 3000, 0)


def lengths(table: Table) -> np.ndarray:
    """Everything about a row that can be seen without reading: ``[rows, features]``."""
    words = [[text.split() for text in column] for column in table.texts]
    row = np.arange(len(table))
    features = [row / len(table), row % 2, row % 3]
    for column, split in zip(table.texts, words, strict=True):
        features += [np.array([len(text) for text in column]), np.array([len(text) for text in split])]
        features += [np.array([max(map(len, text)) for text in split])]
    for (one, two), (said, told) in zip(combinations(table.texts, 2), combinations(words, 2), strict=True):
        features.append(np.array([len(a) - len(b) for a, b in zip(one, two, strict=True)]))
        features.append(np.array([len(a) - len(b) for a, b in zip(said, told, strict=True)]))
    return np.stack(features, axis=1)


@pytest.mark.parametrize("name", ALL)
def test_a_split_has_the_columns_and_labels_of_its_task(name: str) -> None:
    task = TASKS[name]
    for split in splits(task):
        table = generate(task, split, 60, 3)
        assert [len(column) for column in table.texts] == [60] * len(task.text)
        assert all(isinstance(text, str) and text for column in table.texts for text in column)
        assert table.origin == f"synthetic {name}, {split}, seed 3"
        if split in task.test:
            assert table.labels is None
        elif task.is_regression:
            assert all(isinstance(label, float) and 0 <= label <= 5 for label in table.labels)
        else:
            assert all(type(label) is int for label in table.labels)
            assert Counter(table.labels) == dict.fromkeys(range(len(task.labels)), 60 // len(task.labels))


def test_stsb_scores_use_the_whole_scale_in_many_steps() -> None:
    scores = generate(TASKS["stsb"], "train", 1000, 0).labels
    assert len(set(scores)) >= 20
    assert (min(scores), max(scores)) == (0.0, 5.0)
    assert 1.5 < np.mean(scores) < 3.5


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1, 2, 7, 500])
def test_a_split_has_the_size_asked_for_and_even_classes(name: str, size: int) -> None:
    task = TASKS[name]
    table = generate(task, splits(task)[0], size, 0)
    assert len(table) == size
    if table.labels is not None and not task.is_regression:
        counts = [list(table.labels).count(label) for label in range(len(task.labels))]
        assert max(counts) - min(counts) <= 1


def test_default_sizes_name_the_three_kinds_of_split() -> None:
    assert set(SIZES) == {"train", "validation", "test"}
    assert all(size >= 1 for size in SIZES.values())


def test_rows_are_the_same_in_every_process() -> None:
    program = (
        "import hashlib; from ptuning.tasks.glue import TASKS; from ptuning.data.synthetic import generate\n"
        "tables = [generate(t, s, 50, 7) for t in TASKS.values() for s in (*t.validation, *t.test)]\n"
        "print(hashlib.sha256(repr(tables).encode()).hexdigest())"
    )
    tables = [generate(t, s, 50, 7) for t in TASKS.values() for s in (*t.validation, *t.test)]
    here = hashlib.sha256(repr(tables).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        elsewhere = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert elsewhere.stdout.strip() == here


@pytest.mark.parametrize("name", ALL)
def test_splits_and_seeds_have_rows_of_their_own(name: str) -> None:
    task = TASKS[name]
    tables = [generate(task, split, 500, seed) for split in splits(task) for seed in (0, 1)]
    for one, other in combinations(tables, 2):
        assert len(rows(one) & rows(other)) < 0.05 * 500, (one.origin, other.origin)


@pytest.mark.parametrize("name", ALL)
def test_vocabulary_holds_every_word_and_mark(name: str) -> None:
    task = TASKS[name]
    known = set(vocabulary())
    for split in splits(task):
        for column in generate(task, split, 1000, 0).texts:
            assert set(re.findall(r"\w+|[^\w\s]", " ".join(column).lower())) <= known


def test_vocabulary_is_sorted_lower_case_and_wholly_used() -> None:
    words = vocabulary()
    assert words == sorted({word.lower() for word in words})
    said = " ".join(
        text for task in TASKS.values() for column in generate(task, splits(task)[0], 2000, 0).texts for text in column
    )
    assert set(words) == set(re.findall(r"\w+|[^\w\s]", said.lower()))


@pytest.mark.parametrize("name", CLASSIFIED)
def test_lengths_give_no_class_away(name: str) -> None:
    train, held_out = trained_and_held_out(name)
    chance = 1 / len(TASKS[name].labels)
    for classifier in (
        make_pipeline(StandardScaler(), LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=20, random_state=0),
        RandomForestClassifier(30, min_samples_leaf=5, random_state=0),
    ):
        classifier.fit(lengths(train), train.labels)
        assert classifier.score(lengths(held_out), held_out.labels) < chance + 0.05, classifier


def test_lengths_give_no_score_away() -> None:
    train, held_out = trained_and_held_out("stsb")
    model = HistGradientBoostingRegressor(max_iter=30, random_state=0).fit(lengths(train), train.labels)
    assert abs(spearmanr(model.predict(lengths(held_out)), held_out.labels).statistic) < 0.1


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("name", PAIRED)
def test_one_text_of_a_pair_gives_no_class_away(name: str, column: int) -> None:
    train, held_out = trained_and_held_out(name)
    model = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=200))
    model.fit(train.texts[column], train.labels)
    assert model.score(held_out.texts[column], held_out.labels) < 1 / len(TASKS[name].labels) + 0.05


def test_too_few_rows_are_refused_with_what_to_ask_for() -> None:
    with pytest.raises(DataError, match="ask for 1 or more"):
        generate(TASKS["rte"], "train", 0, 0)


@pytest.mark.parametrize(
    ("name", "split", "mend"),
    [("mnli", "validation_match", "Did you mean 'validation_matched'"), ("ax", "train", "Splits: test")],
)
def test_a_split_that_the_task_lacks_is_refused(name: str, split: str, mend: str) -> None:
    with pytest.raises(DataError, match=mend):
        generate(TASKS[name], split, 5, 0)
