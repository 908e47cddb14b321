"""The frozen prefix, computed once per row: a callback that keeps its hidden states and puts them into batches."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ptuning.acceleration.activation_store import (
    DTYPES,
    ActivationStore,
    Chunks,
    PaddedActivations,
    Request,
    check_stop,
)
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.acceleration.micro_batches import side_by_side
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.samplers import SortedBatches
from ptuning.data.tokenize import Batch, TokenTable
from ptuning.errors import RunError

_TRUE = {torch.float32: "32-true", torch.bfloat16: "bf16-true", torch.float64: "64-true"}
"""Type of the weights → how a key calls it."""

_ROWS = 32
"""Rows that are computed together: of like length, so that little is padding."""


@dataclass(frozen=True)
class WithActivations(Dataset[Batch]):
    """A split whose batches bring the hidden states behind the prefix: ``prefix`` [batch, seq, hidden], fp32.

    Where the head looks at the first token alone, the hidden states are those of one token.
    """

    tokens: TokenTable
    activations: PaddedActivations

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        batch = self.tokens[rows]
        return batch | {"prefix": self.activations[batch["index"]]}


class ActivationCache(pl.Callback):
    """Before training: computes or finds the hidden states behind the prefix, and hands them to the data.

    Parameters
    ----------
    prefix
        What is frozen, and the model that it belongs to.
    inputs
        Names of what the model takes.
    backbone
        Hash over the backbone's weights.
    store
        Where states are kept.
    dtype
        What they are kept in: ``fp32``, ``fp16``, ``bf16``.
    memory_mb, disk_mb
        Limits, in MB (10⁶ bytes).
    tell
        Called with sentences for the reader.
    watch
        Wraps the batches of a long computation, to show how far it is.
    """

    def __init__(
        self,
        prefix: FrozenPrefix,
        inputs: Sequence[str],
        backbone: str,
        store: ActivationStore,
        dtype: str = "fp32",
        memory_mb: int = 2000,
        disk_mb: int = 20_000,
        tell: Callable[[str], None] = lambda _: None,
        watch: Callable[[Sequence[Any]], Iterable[Any]] = lambda batches: batches,
    ) -> None:
        self.prefix = prefix
        self.inputs = tuple(inputs)
        self.backbone = backbone
        self.store = store
        self.dtype = dtype
        self.memory, self.disk = memory_mb * 1_000_000, disk_mb * 1_000_000
        self.tell, self.watch = tell, watch
        self.seconds, self.computed = 0.0, 0

    def describe(self, data: GlueDataModule) -> dict[str, Any]:
        """Return what a record says: depth, which tokens, in what, and how much."""
        splits = [data.split(name) for name in _served(data)]
        return {
            "depth": self.prefix.depth,
            "tokens": "first" if self.prefix.cls_only else "all",
            "dtype": self.dtype,
            "megabytes": round(
                sum(prod(self._shape(split)) for split in splits) * DTYPES[self.dtype].itemsize / 1e6, 3
            ),
        }

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Serve every split that the run trains on or scores with its hidden states."""
        if stage != "fit":
            return
        began = time.perf_counter()
        pl_module.to(trainer.strategy.root_device)  # where and in which type Lightning puts it a moment later
        trainer.precision_plugin.convert_module(pl_module)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.serve(data)
        self.seconds = time.perf_counter() - began

    def serve(self, data: GlueDataModule) -> None:
        """Give the splits of ``data`` their hidden states, computed in the weights' own type where nobody has them yet.

        Mixed precision is not for them: they are computed once, and evaluation wants fp32.
        """
        names = _served(data)
        splits = [data.split(name) for name in names]
        requests = [self._request(split) for split in splits]
        for name, split, values in zip(
            names, splits, self.store.get(requests, self.memory, self.disk, self.tell), strict=True
        ):
            data.served[name] = WithActivations(split, PaddedActivations(values, self._offsets(split)))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to go on where a weight of the prefix has become trainable: its kept states would be wrong.

        Raises
        ------
        RunError
            If a weight of the prefix is trainable.
        """
        if any(parameter.requires_grad for parameter in self.prefix.parameters()):
            raise RunError(
                f"Something below block {self.prefix.depth} was unfrozen during training (by a callback?), but its "
                "hidden states were computed once, before. Type frozen_prefix=live."
            )

    def _offsets(self, split: TokenTable) -> Tensor:
        return torch.arange(len(split) + 1) if self.prefix.cls_only else split.offsets

    def _shape(self, split: TokenTable) -> tuple[int, int]:
        return int(self._offsets(split)[-1]), self.prefix.hidden_size

    def _request(self, split: TokenTable) -> Request:
        return Request(
            key=self._key(split, self.prefix.depth, self.prefix.cls_only),
            shape=self._shape(split),
            dtype=DTYPES[self.dtype],
            compute=lambda: self._compute(split),
        )

    def _compute(self, split: TokenTable) -> Chunks:
        device = next(self.prefix.model.parameters()).device
        start, known = self._below(split)
        offsets = self._offsets(split)
        batches = list(SortedBatches(split.lengths, _ROWS))
        workers = torch.get_num_threads() if device.type == "cpu" else 1
        with self.prefix.computing(start) as states_of:

            def compute(rows: Sequence[int]) -> Tensor:
                batch = split[rows]
                inputs = {name: batch[name].to(device) for name in self.inputs}
                given = known[batch["index"]].to(device) if known else None
                states: Tensor = states_of(inputs, given)
                return states.float().cpu()

            found = side_by_side(compute, batches, workers)
            with closing(found):
                for rows, states in zip(self.watch(batches), found, strict=True):
                    check_stop()
                    for row, values in zip(rows, states, strict=True):
                        begin, end = int(offsets[row]), int(offsets[row + 1])
                        yield begin, values[: end - begin]
                    self.computed += len(rows)

    def _below(self, split: TokenTable) -> tuple[int, PaddedActivations | None]:
        """Return the deepest shorter prefix whose states are kept already, exactly, to go on from."""
        if self.dtype == "fp32":
            shape = (int(split.offsets[-1]), self.prefix.hidden_size)
            for depth in range(self.prefix.depth - 1, 0, -1):
                key = self._key(split, depth, cls_only=False)
                values = self.store.find(key, shape, torch.float32)
                if values is not None:
                    return depth, PaddedActivations(values, split.offsets)
        return 0, None

    def _key(self, split: TokenTable, depth: int, cls_only: bool) -> str:
        """Return a digest over everything that hidden states depend on, the tokens themselves included."""
        precision = _TRUE[next(self.prefix.model.parameters()).dtype]
        about = [1, self.backbone, _computation(self.prefix.model), depth, cls_only, self.dtype, precision]
        digest = hashlib.sha256(json.dumps([*about, split.pad_token_id, *self.inputs], default=str).encode())
        for column in (split.input_ids, split.token_type_ids, split.offsets):
            digest.update(column.numpy().data)
        return digest.hexdigest()[:32]


def _served(data: GlueDataModule) -> tuple[str, ...]:
    return ("train", *data.evaluated)


def _computation(model: Any) -> dict[str, Any]:
    """Return what of a configuration, beside the weights, decides what a backbone computes."""
    import transformers

    other = ("id2label", "label2id", "problem_type", "_name_or_path", "architectures")
    values: dict[str, Any] = model.config.to_dict()
    return {name: value for name, value in sorted(values.items()) if name not in other and "dropout" not in name} | {
        "transformers_version": transformers.__version__
    }
