"""LightningModules as strangers write them, around encoders under any name, and a program that trains one."""

import random
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel

from ptuning import ModuleSelectionCallback, TrainableCheckpoint

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    max_position_embeddings=16,
    num_labels=3,
)


class Tagger(pl.LightningModule):
    """Token classification by hand: a student and its frozen teacher, two optimizers, random words left out."""

    def __init__(self, encoder: BertModel | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.automatic_optimization = False
        self.teacher = deepcopy(encoder or BertModel(CONFIG)).requires_grad_(False)
        self.net = encoder or BertModel(CONFIG, add_pooling_layer=False)
        self.tags = nn.Sequential(
            nn.Linear(self.net.config.hidden_size, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        ids, tags = batch
        ids = ids.clone()
        ids[:, int(np.random.randint(ids.shape[1]))] = random.randrange(5)
        hidden = self.net(ids).last_hidden_state
        with torch.no_grad():
            target = self.teacher(ids).last_hidden_state
        loss = nn.functional.cross_entropy(self.tags(hidden.flatten(0, 1)), tags.flatten())
        self.manual_backward(loss + nn.functional.mse_loss(hidden, target))
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        encoder = [p for p in self.net.parameters() if p.requires_grad]
        return [torch.optim.AdamW(encoder, lr=1e-2), torch.optim.SGD(self.tags.parameters(), lr=0.1, momentum=0.9)]


class Scorer(pl.LightningModule):
    """Classification with an optimizer over everything, two schedulers, evaluation, and an average of early weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.body = nn.ModuleDict({"text": BertModel(CONFIG)})
        self.score = nn.Linear(16, 3)
        self.average = nn.Linear(16, 3).requires_grad_(False)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        pooled = self.body["text"](batch[0]).pooler_output
        return nn.functional.cross_entropy(self.score(pooled), batch[1][:, 0])

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self._loss(batch)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.current_epoch > 1:
            return
        for mine, other in zip(self.average.parameters(), self.score.parameters(), strict=True):
            mine.data.mul_(0.9).add_(other.data, alpha=0.1)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        self.log("loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-2)
        stepped = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1.0)
        return [optimizer], [stepped, {"scheduler": plateau, "monitor": "loss"}]


def rows(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(2)
    return [
        (torch.randint(5, 30, (6,), generator=drawn), torch.randint(0, 3, (6,), generator=drawn)) for _ in range(count)
    ]


def fit(
    module: pl.LightningModule,
    folder: Path,
    *callbacks: pl.Callback,
    epochs: int = 3,
    seed: int = 1,
    precision: Any = 32,
    **more: Any,
) -> pl.Trainer:
    """Train on a CPU with shuffled batches; a second loader is for evaluation."""
    pl.seed_everything(seed, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        precision=precision,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=any(isinstance(one, pl.callbacks.ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )
    own = torch.Generator().manual_seed(5) if isinstance(module, Scorer) else None
    train = DataLoader(rows(), batch_size=8, shuffle=True, generator=own)
    loaders = (train, DataLoader(rows(8), batch_size=8)) if isinstance(module, Scorer) else (train,)
    trainer.fit(module, *loaders, **more)
    return trainer


if __name__ == "__main__":  # to be killed: python -m support.taggers FOLDER
    place = Path(sys.argv[1])
    fit(
        Tagger(),
        place,
        ModuleSelectionCallback("layernorm", "last:2", attribute="net"),
        TrainableCheckpoint(place, save_top_k=-1),
        epochs=1000,
    )
