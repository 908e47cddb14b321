"""The LightningDataModule of one task: its splits, tokenized once, served in batches."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

from ptuning.data.holdout import draw_rows, hold_out_tenth
from ptuning.data.samplers import LengthGroupedBatches, SortedBatches
from ptuning.data.sources import DataSource
from ptuning.data.tokenize import Batch, TokenTable, tokenize
from ptuning.errors import ConfigError
from ptuning.system.files import cache_folder

HOLDOUT = "holdout"
"""The split of ``select_on=holdout``: a tenth of train, for choosing the best evaluation."""


class GlueDataModule(pl.LightningDataModule):
    """Serves one task: training batches in a seeded order, every dev set, and unlabelled sets for prediction.

    Parameters
    ----------
    source
        The data source, which knows the task.
    tokenizer
        A fast Hugging Face tokenizer.
    batch_size, eval_batch_size
        Rows per batch in training, and in evaluation and prediction.
    max_length
        Tokens kept per row.
    seed
        Seed of the training order.
    group_by_length
        True if training batches hold rows of like length: fewest padding tokens, but batches are no longer random
        draws, and if length correlates with the label (STS-B), short trainings suffer.
    batch_tokens
        Tokens per training batch on average, instead of ``batch_size`` rows.
    micro_batches
        Micro-batches per training batch, for gradient accumulation.
    select_on
        ``"dev"``, or ``"holdout"``: a tenth of train, drawn from ``seed``, is kept out of training and evaluated after
        the dev sets, as the split :data:`HOLDOUT`.
    train_rows
        Rows of ``train`` to take, drawn from ``seed`` evenly over the labels; with ``select_on="holdout"``, a tenth of
        these is kept out. ``None`` takes all.
    splits
        A store of tokenized splits, shared with other modules of the same text, tokenizer and length.
    """

    def __init__(
        self,
        source: DataSource,
        tokenizer: Any,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        max_length: int = 128,
        seed: int = 1,
        group_by_length: bool = False,
        batch_tokens: int | None = None,
        micro_batches: int = 1,
        select_on: str = "dev",
        splits: dict[str, TokenTable] | None = None,
        train_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.task = source.task
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_length = max_length
        self.seed = seed
        self.group_by_length = group_by_length
        self.batch_tokens = batch_tokens
        self.micro_batches = micro_batches
        self.select_on = select_on
        self.train_rows = train_rows
        self.splits = splits if splits is not None else {}
        self._parts: dict[str, TokenTable] = {}
        self._order: LengthGroupedBatches | None = None
        self._start = (0, 0)  # epoch and batch
        self.served: dict[str, Dataset[Batch]] = {}
        """Split → table that batches are taken from instead: the same rows with more columns."""

    def split(self, name: str) -> TokenTable:
        """Return a split as tokens, read at the first call; ``train`` is the rows that train.

        Raises
        ------
        DataError
            If it cannot be had, has fewer rows than ``train_rows``, or no tenth to hold out.
        """
        if name != "train" and (name != HOLDOUT or self.select_on != HOLDOUT):
            return self._read(name)
        if not self._parts:
            train = self._read("train")
            if self.train_rows is not None:
                train = draw_rows(train, self.train_rows, self.seed, self.task.name)
            self._parts = {"train": train}
            if self.select_on == HOLDOUT:
                rest, held = hold_out_tenth(train, self.seed, self.task.name)
                self._parts = {"train": rest, HOLDOUT: held}
        return self._parts[name]

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of the splits evaluated in training: the dev sets, then the one held out."""
        return (*self.task.validation, *([HOLDOUT] if self.select_on == HOLDOUT else []))

    def _read(self, name: str) -> TokenTable:
        if name not in self.splits:
            table = self.source.read(name)
            self.splits[name] = tokenize(table, self.tokenizer, self.max_length, cache_folder() / "tokens")
        return self.splits[name]

    def setup(self, stage: str) -> None:
        """Read the splits of the stage; a training begins with the first batch, unless a checkpoint says otherwise."""
        if getattr(self.trainer, "overfit_batches", 0):
            raise ConfigError(
                "Trainer(overfit_batches=…) would score the rows that it trains on. For a quick try: "
                "Trainer(max_steps=5). To learn a few rows by heart, give them as train and as dev."
            )
        if stage == "fit":
            self._order, self._start = None, (0, 0)
            for name in ("train", *self.evaluated):
                self.split(name)

    @property
    def order(self) -> LengthGroupedBatches:
        """The training order: that of the last :meth:`train_dataloader`."""
        if self._order is None:
            self._order = self._make_order()
        return self._order

    def _make_order(self) -> LengthGroupedBatches:
        order = LengthGroupedBatches(
            self.split("train").lengths,
            self.batch_size,
            self.seed,
            window=50 if self.group_by_length else 1,
            parts=self.micro_batches,
            batch_tokens=self.batch_tokens,
        )
        order.start_at(*self._start)
        return order

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training batches, of as many rows as :attr:`batch_size` says now: Lightning's searches change it.

        In a loop of one's own, ``loader.sampler.set_epoch(epoch)`` gives each epoch its order.
        """
        epoch = self._order.epoch if self._order else 0
        self._order = self._make_order()
        self._order.set_epoch(epoch)
        return self._loader(self.served.get("train", self.split("train")), self._order)

    def weight(self, epoch: int, number: int) -> float:
        """Return what the mean loss of a training batch counts: 1, or by its rows where it is a part of one."""
        return 1.0 if self.micro_batches == 1 else self.order.weights(epoch)[number]

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return one loader per split of :attr:`evaluated`, longest rows first."""
        return [self.eval_dataloader(name) for name in self.evaluated]

    def eval_dataloader(self, name: str) -> DataLoader[Batch]:
        """Return any split in evaluation order; ``batch["index"]`` leads back to the data's own order."""
        split = self.split(name)
        return self._loader(self.served.get(name, split), SortedBatches(split.lengths, self.eval_batch_size))

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training order, for a checkpoint."""
        loop = self.trainer.fit_loop if self.trainer else None
        if loop is None:
            return {}
        return {
            "epoch": loop.epoch_progress.current.completed,
            "batch": loop.epoch_loop.batch_idx + 1,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the position in a checkpoint."""
        self._start = (state_dict["epoch"], state_dict["batch"])
        if self._order:
            self._order.start_at(*self._start)

    def _loader(self, split: Dataset[Batch], order: LengthGroupedBatches | SortedBatches) -> DataLoader[Batch]:
        # A "sampler" of lists with batch_size=None: the table builds a whole batch in one indexing operation.
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(split, sampler=order, batch_size=None, pin_memory=on_gpu)
