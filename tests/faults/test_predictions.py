"""Damaged predictions are noticed wherever they are read, and give no wrong number."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from ptuning.inference.glue_submission import choose_entries, write_submission
from ptuning.results import collect, summarise
from ptuning.results.comparisons import Comparer, against_full
from ptuning.runs.predictions import keep_predictions, read_predictions
from ptuning.system.digests import seal_of
from ptuning.system.json_files import DamagedError
from ptuning.tasks.glue import TASKS
from support.records import record

ROWS = 277
"""Of RTE's dev set."""


def answered(runs: Path, module: str, wrong: int) -> Path:
    """Return the folder of a run with so many wrong answers on a dev set, whose predictions are kept."""
    folder = record(runs, module=module)
    labels = np.arange(ROWS) % 2
    given = np.where(np.arange(ROWS) < wrong, 1 - labels, labels)
    keep_predictions(folder / "predictions" / "validation.parquet", np.arange(ROWS), labels, np.eye(2)[given])
    return folder


def flipped(content: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(content))
    return content[:position] + bytes([content[position] ^ (1 << rng.randrange(8))]) + content[position + 1 :]


def compared(runs: Path) -> tuple[str, str]:
    table = collect(runs).runs
    comparisons = against_full(Comparer(runs, table), summarise(table))
    return f"{comparisons['difference'].iloc[0]:.6f}", comparisons["why"].iloc[0]


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "validation.parquet"
    logits = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    keep_predictions(file, np.arange(40), None, logits)
    kept = read_predictions(file)
    assert kept.labels is None
    assert np.array_equal(kept.index, np.arange(40))
    assert np.array_equal(kept.logits, logits)


@pytest.mark.parametrize("sealed", [True, False], ids=["with a digest", "of an earlier version"])
def test_no_flipped_bit_gives_other_predictions(sealed: bool, tmp_path: Path) -> None:
    rng = random.Random(9)
    file = answered(tmp_path, "full", 30) / "predictions" / "validation.parquet"
    kept, content = read_predictions(file), file.read_bytes()
    if not sealed:
        seal_of(file).unlink()
    noticed = 0
    for _ in range(300):
        file.write_bytes(flipped(content, rng))
        try:
            found = read_predictions(file)
        except DamagedError:
            noticed += 1
            continue
        assert not sealed
        same = np.array_equal(found.logits, kept.logits) and np.array_equal(found.index, kept.index)
        assert same  # pages have checksums of their own; what they leave open is a name or a statistic
    assert noticed == 300 if sealed else noticed > 100


@pytest.mark.parametrize("damage", [b"", b"PAR1", None], ids=["emptied", "cut", "another run's"])
def test_a_report_says_so_and_compares_nothing(damage: bytes | None, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    answered(runs, "full", 30)
    folder = answered(runs, "layernorm", 90)
    assert float(compared(runs)[0]) == pytest.approx(-60 / ROWS, abs=1e-6)
    if damage is None:
        other = answered(tmp_path / "other", "query", 10)
        damage = (other / "predictions" / "validation.parquet").read_bytes()
    (folder / "predictions" / "validation.parquet").write_bytes(damage)
    difference, why = compared(runs)
    assert difference == "nan"
    assert "validation.parquet is damaged" in why


def test_a_submission_takes_no_damaged_predictions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(3)
    folder = record(tmp_path / "runs", source="local")
    file = folder / "predictions" / "test.parquet"
    keep_predictions(file, np.arange(3000), None, np.eye(2)[np.arange(3000) % 2])
    content = file.read_bytes()
    entries = [entry for entry in choose_entries(tmp_path / "runs") if entry.rule.task == "rte"]
    out = tmp_path / "glue.zip"
    assert list(write_submission(entries, out))
    whole = out.read_bytes()
    for _ in range(20):
        file.write_bytes(flipped(content, rng))
        out.unlink(missing_ok=True)
        with pytest.raises(Exception, match="holds no finished run"):  # it would answer anew, and has no delta
            list(write_submission(entries, out))
        assert not out.exists()
    assert "computed anew" in caplog.text
    file.write_bytes(content)
    assert list(write_submission(entries, out))
    assert out.read_bytes() == whole


def test_a_digest_that_is_damaged_itself_gives_no_wrong_result(tmp_path: Path) -> None:
    rng = random.Random(4)
    file = answered(tmp_path, "full", 30) / "predictions" / "validation.parquet"
    kept, seal = read_predictions(file), seal_of(file).read_bytes()
    for _ in range(100):
        seal_of(file).write_bytes(flipped(seal, rng))
        try:
            assert np.array_equal(read_predictions(file).logits, kept.logits)
        except DamagedError:
            continue


def test_the_record_of_a_run_on_custom_data_may_describe_no_task(tmp_path: Path) -> None:
    for module in ("full", "layernorm"):
        folder = record(tmp_path, module=module, task="mine")
        values = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps({**values, "labels": 5, "score_of": [[]]}))
    assert "mine" not in TASKS
    assert "cannot be scored" in compared(tmp_path)[1]
