"""GLUE's submission archive, held against the benchmark's own rules by a validator that shares nothing with ptuning."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ptuning.cli import main as cli
from ptuning.inference.glue_submission import choose_entries
from ptuning.tasks.glue import TASKS
from ptuning.training.callbacks import write_predictions
from ptuning.training.module import Predictions
from support.records import record
from support.running import GLUE, Run, run_in

needs_glue = pytest.mark.skipif(not GLUE.is_dir(), reason=f"no GLUE files in {GLUE}")

NLI = {"entailment", "neutral", "contradiction"}
TWO = {"entailment", "not_entailment"}
BITS = {"0", "1"}
RULES: dict[str, tuple[int, set[str] | None]] = {
    # https://gluebenchmark.com/faq and its sample submission: name, rows, what may stand in them (None: 0 to 5)
    "CoLA.tsv": (1063, BITS),
    "SST-2.tsv": (1821, BITS),
    "MRPC.tsv": (1725, BITS),
    "STS-B.tsv": (1379, None),
    "QQP.tsv": (390965, BITS),
    "MNLI-m.tsv": (9796, NLI),
    "MNLI-mm.tsv": (9847, NLI),
    "QNLI.tsv": (5463, TWO),
    "RTE.tsv": (3000, TWO),
    "WNLI.tsv": (146, BITS),
    "AX.tsv": (1104, NLI),
}


def validate(archive: Path) -> dict[str, list[str]]:
    """Raise AssertionError for whatever the server would refuse; return file → predictions."""
    found = {}
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert sorted(opened.namelist()) == sorted(RULES)  # at the top, nothing else
        for name, (rows, allowed) in RULES.items():
            text = opened.read(name).decode("ascii")
            assert text.endswith("\n")
            lines = io.StringIO(text).read().split("\n")[:-1]
            assert lines[0] == "index\tprediction"
            cells = [line.split("\t") for line in lines[1:]]
            assert len(cells) == rows, name
            assert [cell[0] for cell in cells] == [str(number) for number in range(rows)]
            predictions = [cell[1] for cell in cells]
            assert {len(cell) for cell in cells} == {2}
            if allowed is None:
                assert all(0.0 <= float(value) <= 5.0 and len(value) == 5 for value in predictions)
            else:
                assert set(predictions) <= allowed
            found[name] = predictions
    return found


def submit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        cli.main(["submit", *map(str, arguments)])
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def train_on(glue: Path, runs: Path, task: str, *overrides: str) -> Run:
    """One step of training on files in GLUE's layout."""
    return run_in(
        runs,
        "backbone=tiny",
        "data=local",
        f"data.dir={glue}",
        "logger=none",
        "trainer.accelerator=cpu",
        "trainer.max_steps=1",
        "trainer.enable_progress_bar=false",
        "task.max_length=48",
        "task.batch_size=8",
        "data.eval_batch_size=256",
        f"task={task}",
        *overrides,
    )


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on GLUE's own files: two of RTE, one of each other task at hand."""
    if not GLUE.is_dir():
        pytest.skip(f"no GLUE files in {GLUE}")
    glue = tmp_path_factory.mktemp("glue")
    for task in ("CoLA", "MRPC", "STS-B", "RTE"):
        (glue / task).mkdir()
        (glue / task / "test.tsv").symlink_to(GLUE / task / "test.tsv")
        for stem in ("train", "dev"):  # a few rows: what counts here is the test files
            lines = (GLUE / task / f"{stem}.tsv").read_text().splitlines(keepends=True)
            (glue / task / f"{stem}.tsv").write_text("".join(lines[:40]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTUNING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        runs = tmp_path_factory.mktemp("official")
        for task in ("cola", "mrpc", "stsb", "rte"):
            train_on(glue, runs, task)
        train_on(glue, runs, "cola", "seed=2", "optim.lr=0.03", "trainer.max_steps=3")
    return runs


@pytest.mark.slow
@needs_glue
def test_runs_on_official_files_fill_their_files_and_samples_the_rest(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = submit(capsys, official, "--out", tmp_path / "new" / "glue.zip")
    assert (code, err) == (0, "")
    found = validate(tmp_path / "new" / "glue.zip")
    said = {line.split()[0]: line for line in out.splitlines()}
    records = [json.loads(path.read_text()) for path in official.rglob("record.json")]
    best = max(record["score"] for record in records if record["task"] == "cola")
    assert f"dev score {100 * best:.1f}" in said["CoLA.tsv"]
    for name in ("CoLA.tsv", "MRPC.tsv", "STS-B.tsv", "RTE.tsv"):
        assert "sample" not in said[name]
    for name in ("SST-2.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv", "WNLI.tsv", "AX.tsv"):
        assert "sample" in said[name]
        assert "no run of" in said[name]
        assert len(set(found[name])) == 1

    # The same rows by the other way: `ptuning predict` on the test file itself.
    best_run = said["CoLA.tsv"].split("rows")[1].split(",")[0].strip()
    cli.main(["predict", best_run, "--input", str(GLUE / "CoLA" / "test.tsv")])
    labels = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    assert [str(TASKS["cola"].labels.index(label)) for label in labels] == found["CoLA.tsv"]

    first = (tmp_path / "new" / "glue.zip").read_bytes()
    submit(capsys, official, "--out", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == first


def glue_like(folder: Path, sizes: dict[str, int]) -> Path:
    """The benchmark's layout with made-up rows: small train and dev files, test files of any size."""
    for task in TASKS.values():
        home = folder / task.folder
        home.mkdir(parents=True)
        columns = [*task.file_text, task.file_label]
        for split, stem in {"train": "train", **task.validation, **task.test}.items():
            if split == "train" and not task.trains:
                continue
            kind = next(kind for kind in ("train", "validation", "test") if split.startswith(kind))
            rows = sizes.get(f"{task.name}/{split}", sizes.get(kind, 16))
            label = [str(i % 5) if task.is_regression else task.labels[i % len(task.labels)] for i in range(rows)]
            texts = [[f"text {i % 7}" for _ in task.text] for i in range(rows)]
            header = (
                [] if task.header and kind != "test" else ["\t".join(columns if kind != "test" else task.file_text)]
            )
            if kind == "test":
                lines = ["\t".join(text) for text in texts]
            elif task.header:
                lines = [f"x\t{one}\t\t{text[0]}" for text, one in zip(texts, label, strict=True)]
            else:
                lines = ["\t".join([*text, one]) for text, one in zip(texts, label, strict=True)]
            (home / f"{stem}.tsv").write_text("".join(f"{line}\n" for line in [*header, *lines]))
    return folder


_KEPT = {"qqp": {"test": 390965}, "mnli": {"test_mismatched": 9847}, "qnli": {"test": 5463}}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(GLUE's layout with test files of GLUE's sizes, a run of every task on it)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTUNING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        sizes = {
            "train": 24,
            "validation": 24,
            "cola/test": 1063,
            "sst2/test": 1821,
            "mrpc/test": 1725,
            "stsb/test": 1379,
            "mnli/test_matched": 9796,
            "mnli/test_mismatched": 4,
            "rte/test": 3000,
            "wnli/test": 146,
            "ax/test": 1104,
        }
        glue = glue_like(tmp_path_factory.mktemp("glue"), sizes)
        runs = tmp_path_factory.mktemp("runs")
        for name, task in TASKS.items():
            if task.trains:
                run = train_on(glue, runs, name)
                # The largest sets take minutes: of these, answers as `predict=[test]` leaves them are put there.
                for split, rows in _KEPT.get(name, {}).items():
                    index = torch.arange(rows)
                    logits = torch.nn.functional.one_hot(index % task.num_outputs, task.num_outputs).float()
                    path = run.path / "predictions" / f"{split}.parquet"
                    write_predictions(path, Predictions(index, logits, None))
    return glue, runs


def test_a_run_of_every_task_fills_all_eleven_files(
    everything: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = submit(capsys, everything[1], "--out", tmp_path / "glue.zip")
    assert (code, err) == (0, "")
    found = validate(tmp_path / "glue.zip")
    assert "sample" not in out
    assert found["QQP.tsv"][:4] == ["0", "1", "0", "1"]
    assert found["QNLI.tsv"][:3] == ["entailment", "not_entailment", "entailment"]
    assert found["MNLI-mm.tsv"][:4] == ["entailment", "neutral", "contradiction", "entailment"]
    assert "MNLI-m.tsv" in out
    assert "/mnli/" in next(line for line in out.splitlines() if line.startswith("AX.tsv"))


def test_scores_are_compared_on_one_dev_set(tmp_path: Path) -> None:
    def scored(name: str, score: float, rows: int | None) -> Path:
        known = {} if rows is None else {"validation_examples": {"validation": rows}}
        return record(tmp_path / "runs", seed=len(name), score=score, **known)

    def chosen() -> tuple[Path | None, str]:
        (entry,) = (one for one in choose_entries(tmp_path / "runs") if one.rule.task == "rte")
        return entry.run, entry.why

    few = scored("1", 0.8, 10)
    assert chosen() == (few, "on 10 rows: GLUE's own dev set has 277")
    more = scored("22", 0.6, 40)
    larger = "on 40 rows: GLUE's own dev set has 277; 1 passed over, scored on 10 dev rows in the place of 40"
    assert chosen() == (more, larger)
    own = scored("333", 0.5, 277)
    assert chosen() == (own, "2 passed over, scored on 10 or 40 dev rows in the place of 277")
    unsaid = scored("4444", 0.55, None)  # a record of before version 0.1.0
    assert chosen()[0] == unsaid


def test_scores_of_stsb_are_cut_to_its_range(everything: tuple[Path, Path]) -> None:
    from ptuning.inference.glue_submission import RULES as FILES
    from ptuning.inference.glue_submission import format_predictions

    (rule,) = (rule for rule in FILES if rule.task == "stsb")
    logits = torch.tensor([[-3.0], [0.00049], [2.71828], [4.9996], [99.0]])
    assert format_predictions(TASKS["stsb"], rule, logits) == ["0.000", "0.000", "2.718", "5.000", "5.000"]


def test_what_cannot_be_sent_is_said(
    everything: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    _, runs = everything
    out = tmp_path / "x.zip"

    def refused(*arguments: Any) -> str:
        code, _, complaint = submit(capsys, *arguments, "--out", out)
        assert code == 2
        assert complaint.count("\n") == 1
        assert not out.exists()
        return complaint

    synthetic = tmp_path / "synthetic"
    run_in(synthetic, "backbone=tiny", "data=synthetic", "logger=none", "trainer.max_steps=1", "data.sizes.train=8")
    assert "trained on synthetic data" in refused(synthetic)
    assert "There is no folder" in refused(tmp_path / "nowhere")
    few = glue_like(tmp_path / "few", {"test": 16})
    complaint = refused(runs, "data=local", f"data.dir={few}")
    assert "CoLA.tsv has 16 rows, GLUE's has 1,063" in complaint
    assert "--sample cola" in complaint
    (few / "CoLA" / "test.tsv").unlink()
    assert "There is no test set for CoLA.tsv" in refused(runs, "data=local", f"data.dir={few}")
    assert "Did you mean 'cola'" in refused(runs, "--sample", "colla")

    everything_else = ",".join(name for name in TASKS if name != "wnli")
    code, said, _ = submit(capsys, runs, "--sample", everything_else, "--out", out)
    assert code == 0
    assert said.count("as asked for") == 10
    validate(out)
