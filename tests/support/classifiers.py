"""Small classifiers, their data and Trainers, as readers make them in Python."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from transformers import BertConfig, BertForSequenceClassification

from ptuning import GlueClassifier, GlueDataModule, ModuleSelectionCallback
from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer
from ptuning.data.sources import SyntheticSource
from ptuning.tasks.glue import get_task
from ptuning.training.optim import Optimisation

OPTIMISATION = Optimisation(lr=5e-3, head_lr=1e-2)


def bert(task: str = "rte", seed: int = 0, **settings: Any) -> BertForSequenceClassification:
    """Return a BERT of two layers with random weights and a head for a task."""
    config = BertConfig(
        vocab_size=len(synthetic_tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=get_task(task).num_outputs,
        **settings,
    )
    torch.manual_seed(seed)
    return BertForSequenceClassification(config)


def classifier(task: str = "rte", model: Any = None, kind: type[GlueClassifier] = GlueClassifier, **more: Any) -> Any:
    """Return a classifier around a model, by default :func:`bert`."""
    return kind(bert(task) if model is None else model, get_task(task), OPTIMISATION, **more)


def data(task: str = "rte", train: int = 32, **more: Any) -> GlueDataModule:
    """Return few rows of the grammar, eight to a batch."""
    source = SyntheticSource(get_task(task), {"train": train, "validation": 16, "test": 16}, seed=0)
    return GlueDataModule(source, synthetic_tokenizer(), **{"batch_size": 8, **more})


def trainer(*callbacks: pl.Callback, selects: Sequence[str] = ("layernorm",), **more: Any) -> pl.Trainer:
    """Return Lightning's own Trainer for a CPU, quiet, with a selection."""
    settings: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(one, pl.callbacks.ModelCheckpoint) for one in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **more,
    }
    selection = [ModuleSelectionCallback(selects)] if selects else []
    return pl.Trainer(callbacks=[*selection, *callbacks], **settings)
