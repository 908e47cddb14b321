"""What the peers' scripts share: their arguments, RTE's files, a model of which one module moves, and their figures.

Nothing here comes from ptuning.
"""

import argparse
import csv
import json
import re
import resource
import sys
import time
from pathlib import Path

import pandas
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification

LABELS = {"entailment": 0, "not_entailment": 1}
WEIGHT_DECAY, WARMUP, CLIP, MAX_LENGTH, EVAL_BATCH_SIZE = 0.01, 0.06, 1.0, 128, 64


def parser(description: str) -> argparse.ArgumentParser:
    """Return the arguments that every script has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", required=True, help="folder of a BERT with its tokenizer")
    made.add_argument("--data", type=Path, required=True, help="folder that holds RTE")
    made.add_argument("--output", type=Path, required=True, help="folder for the model and figures.json")
    made.add_argument("--module", choices=("layernorm", "full", "head"), default="layernorm")
    made.add_argument("--layer", type=int, help="the one layer whose LayerNorms move; all without it")
    made.add_argument("--epochs", type=int, default=3)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--lr", type=float, default=5e-5)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--attention-dropout", type=float)
    made.add_argument("--evaluate", choices=("epoch", "end"), default="epoch")
    return made


def layernorms(layer: int | None) -> str:
    """Return a regular expression for the names of both LayerNorms of one block, or of all."""
    number = r"\d+" if layer is None else layer
    return rf".*encoder\.layer\.{number}\.(attention\.)?output\.LayerNorm"


def load_model(chosen: argparse.Namespace) -> torch.nn.Module:
    """Return the pretrained model with a new head, in fp32."""
    config = AutoConfig.from_pretrained(chosen.model, num_labels=len(LABELS))
    if chosen.attention_dropout is not None:
        config.attention_probs_dropout_prob = chosen.attention_dropout
    return AutoModelForSequenceClassification.from_pretrained(chosen.model, config=config, dtype=torch.float32)


def freeze(model: torch.nn.Module, module: str, layer: int | None) -> None:
    """Leave the head and the chosen module to move."""
    for name, parameter in model.base_model.named_parameters():
        chosen = module == "layernorm" and re.fullmatch(layernorms(layer), name.rpartition(".")[0])
        parameter.requires_grad = module == "full" or bool(chosen)


def read(data: Path, tokenizer, padding) -> tuple[Dataset, Dataset]:
    """Return train and dev as tokens; quotes are ordinary characters."""

    def encode(rows):
        return tokenizer(rows["sentence1"], rows["sentence2"], truncation=True, max_length=MAX_LENGTH, padding=padding)

    found = []
    for split in ("train", "dev"):
        table = pandas.read_csv(data / "RTE" / f"{split}.tsv", sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
        table["label"] = table["label"].map(LABELS)
        rows = Dataset.from_pandas(table)
        found.append(rows.map(encode, batched=True, remove_columns=["index", "sentence1", "sentence2"]))
    return tuple(found)


class Clock:
    """Adds up the seconds between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, None

    def start(self) -> None:
        """Begin to count."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Count what the device still has to do, and no more."""
        if self._since is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - self._since
            self._since = None


def report(chosen: argparse.Namespace, clock: Clock, examples: int, scores: list[float], precision: str, model) -> None:
    """Write figures.json: seconds and examples of training, scores, and the peak of memory in MiB.

    The peak is that of the GPU's allocated memory, or of the process's resident memory.
    """
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    figures = {
        "train_seconds": clock.seconds,
        "examples": examples,
        "scores": scores,
        "peak_memory_mb": peak,
        "precision": precision,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "figures.json").write_text(json.dumps(figures))
