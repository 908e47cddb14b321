"""The benchmark beside the peers: their scripts train, the count of operations is torch's, and ratios are ratios."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from ptuning.acceleration import accelerate, native
from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer
from support.learning import learnt

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROWS, EPOCHS = {"train": 40, "dev": 20}, 2
HIDDEN, LAYERS = 16, 2


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scripts find each other, as they do when they are run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(BENCHMARKS / "peers")


def _config() -> BertConfig:
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 40, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    return BertConfig(**sizes, vocab_size=len(synthetic_tokenizer()), attn_implementation="eager")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RTE's files and a tiny BERT, which both sides can load."""
    folder = tmp_path_factory.mktemp("inputs")
    BertForSequenceClassification(_config()).save_pretrained(folder / "model")
    synthetic_tokenizer().save_pretrained(folder / "model")
    (folder / "RTE").mkdir()
    for split, rows in ROWS.items():
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for number in range(rows):
            label = ("entailment", "not_entailment")[number % 2]
            lines.append(f'{number}\tThe "{number}" dog\'s cat sees.\tNA\t{label}')
        (folder / "RTE" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _run(script: str, inputs: Path, output: Path, monkeypatch: pytest.MonkeyPatch, *typed: str) -> dict[str, Any]:
    fixed = ["--model", str(inputs / "model"), "--data", str(inputs), "--output", str(output), "--epochs", str(EPOCHS)]
    monkeypatch.setattr(sys, "argv", [script, *fixed, "--batch-size", "16", *typed])
    runpy.run_path(str(BENCHMARKS / "peers" / script), run_name="__main__")
    figures: dict[str, Any] = json.loads((output / "figures.json").read_text())
    return figures


NORMS, HEAD = 2 * 2 * HIDDEN, 2 * HIDDEN + 2


@pytest.mark.parametrize(
    ("script", "typed", "moving", "evaluations"),
    [
        ("trainer.py", ("--attention-dropout", "0"), LAYERS * NORMS + HEAD, EPOCHS),
        ("trainer.py", ("--layer", "1", "--group-by-length", "--evaluate", "end"), NORMS + HEAD, 1),
        ("trainer.py", ("--module", "head"), HEAD, EPOCHS),
        ("lightning_loop.py", (), LAYERS * NORMS + HEAD, EPOCHS),
        ("lightning_loop.py", ("--module", "full", "--evaluate", "end"), None, 1),
    ],
)
def test_every_peer_trains_what_it_is_told_and_reports_its_figures(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    typed: tuple[str, ...],
    moving: int | None,
    evaluations: int,
) -> None:
    figures = _run(script, inputs, tmp_path, monkeypatch, *typed)
    everything = sum(p.numel() for p in BertForSequenceClassification(_config()).parameters())
    assert figures["trainable"] == (everything if moving is None else moving)
    assert figures["examples"] == EPOCHS * ROWS["train"]
    assert len(figures["scores"]) == evaluations
    assert all(0 <= score <= 1 for score in figures["scores"])
    assert figures["train_seconds"] > 0
    assert figures["peak_memory_mb"] > 0
    assert figures["precision"] == "32-true"


@pytest.mark.parametrize(
    ("module", "layers"),
    [("layernorm", (0, 1)), ("layernorm", (1,)), ("layernorm", (0,)), ("head", ()), ("full", (0, 1))],
)
def test_needed_operations_are_those_that_torch_counts_less_the_last_blocks_other_queries(
    module: str, layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.SWITCH, "0")  # as torch counts its own alone
    from flops import training_flops
    from rte import freeze

    model, config, rows, tokens = BertForSequenceClassification(_config()), _config(), 3, 11
    freeze(model, module, layers[0] if len(layers) == 1 else None)
    model.set_attn_implementation("sdpa")
    ids = torch.randint(5, 50, (rows, tokens))
    batch = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0, "labels": ids[:, 0] * 0}
    acceleration = accelerate(model, "cpu")
    with FlopCounterMode(display=False) as counter:
        learnt(acceleration, batch)
    full, below, others = module == "full", module == "full" or 0 in layers, rows * (tokens - 1)
    unneeded = 2 * others * HIDDEN**2 * (1 + below + full) + 4 * others * tokens * HIDDEN * (1 + 2 * below)
    assert training_flops(config, [tokens] * rows, module, layers) + unneeded == counter.get_total_flops()


def test_padding_does_not_count_as_needed() -> None:
    from flops import training_flops

    config = _config()
    apart = sum(training_flops(config, [length], "layernorm", (0, 1)) for length in (4, 19))
    assert training_flops(config, [4, 19], "layernorm", (0, 1)) == apart


def test_ratios_are_taken_round_by_round_against_the_first_peer() -> None:
    from ratios import baseline, table
    from sides import Figures

    found = {
        "ours": [
            Figures(wall=5, train=2, examples=100, peak=300, score=0.5, precision="32-true", mfu=mfu)
            for mfu in (0.5, 0.625, 0.75)
        ],
        "trainer": [
            Figures(wall=wall, train=train, examples=100, peak=600, score=0.625, precision="32-true")
            for wall, train in ((10, 8), (20, 6), (5, 10))
        ],
    }
    assert baseline(found) == "trainer"
    headings, _, ours, trainer = (line.strip("| ").split(" | ") for line in table(found).splitlines())
    cells = dict(zip(headings, ours, strict=True))
    assert cells["examples/s"] == "50.0"
    assert cells["examples/s, × trainer"] == "4.00 (3.00–5.00)"
    assert cells["command, times faster"] == "2.00 (1.00–4.00)"
    assert cells["peak, ×"] == "0.50 (0.50–0.50)"
    assert cells["MFU"] == "62 %"
    assert cells["score by seed"] == "50.0, 50.0, 50.0"
    assert trainer[headings.index("examples/s, × trainer")] == "1.00 (1.00–1.00)"


def test_growth_is_measured_against_a_straight_line() -> None:
    from growth import table

    *_, least, most = table("examples", {10: [(1.0, 0.0, 3.0)], 40: [(6.0, 0.5, 9.0)]}).splitlines()
    assert least.endswith("| 1.00 (1.00–1.00) |")
    assert most == "| 40 | 6.00 | 0.50 | 9.0 | 1.50 (1.50–1.50) |"


def test_shortened_files_are_the_first_rows(inputs: Path, tmp_path: Path) -> None:
    from commands import shorten

    assert shorten(inputs, tmp_path, 7, 3) == 7
    for split, rows in (("train", 7), ("dev", 3)):
        kept = (tmp_path / "RTE" / f"{split}.tsv").read_text()
        assert kept.count("\n") == rows + 1
        assert (inputs / "RTE" / f"{split}.tsv").read_text().startswith(kept)


def test_lora_is_a_run_whose_low_rank_updates_alone_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["backbone=tiny", "task=rte", "data=synthetic", "data.sizes.train=64", "logger=none", f"runs_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["lora.py", "2", "query,value", *data, "trainer.max_epochs=1", "optim.lr=0.01"])
    runpy.run_path(str(BENCHMARKS / "lora.py"), run_name="__main__")
    (path,) = tmp_path.rglob("record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "finished"
    assert record["trainable_parameters"] == 2 * 2 * (2 * 2 * 32)  # layers, matrices, two factors of 2 × 32 each
    assert all(".lora_A." in name or ".lora_B." in name for name in record["selection"])
    values = safetensors.torch.load_file(path.with_name("delta.safetensors"))
    assert all(values[name].any() for name in record["selection"])  # B began as zeros


@pytest.mark.slow
def test_both_sides_are_measured_in_turn_as_commands_of_their_own(inputs: Path) -> None:
    typed = ["--rounds=2", "--threads=1", "--epochs=1", "--work=last-layer", "--sides=ours,trainer,lightning"]
    command = [sys.executable, str(BENCHMARKS / "peers.py"), str(inputs), "--model", str(inputs / "model"), *typed]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    sides = ["ours", "trainer", "lightning"]
    assert [(one["round"], one["side"]) for one in measured] == [(n, side) for n in (1, 2) for side in sides]
    assert {one["examples"] for one in measured} == {ROWS["train"]}
    assert [one["cached"] for one in measured[:3]] == [True, False, False]
    assert [one["mfu"] is None for one in measured[:3]] == [True, False, False]
    assert all(0 < one["train"] < one["wall"] for one in measured)
    assert printed.count("\n| ") == 5  # headings, a rule, three sides
