"""Fine-tune on RTE with plain Lightning: frozen parameters, batches padded to their longest row."""

import lightning.pytorch as pl
import torch
from rte import CLIP, EVAL_BATCH_SIZE, WARMUP, WEIGHT_DECAY, Clock, freeze, load_model, parser, read, report
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding, get_linear_schedule_with_warmup


class Classifier(pl.LightningModule):
    """A Hugging Face model, its loss and its accuracy."""

    def __init__(self, model: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.model, self.lr = model.train(), lr  # Lightning would keep the evaluation mode of from_pretrained
        self.right: list[torch.Tensor] = []
        self.scores: list[float] = []

    def training_step(self, batch, batch_idx):
        """Return the loss."""
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        """Note which answers are right."""
        self.right.append(self.model(**batch).logits.argmax(-1) == batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Score the dev set."""
        self.scores.append(float(torch.cat(self.right).float().mean()))
        self.right.clear()

    def configure_optimizers(self):
        """Return AdamW with warm-up and linear decay; LayerNorms and biases do not decay."""
        moving = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in moving if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in moving if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TrainingClock(pl.Callback):
    """Counts the epochs' seconds up to their evaluation."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_epoch_start(self, *args) -> None:
        """Begin to count."""
        self.clock.start()

    def on_validation_start(self, *args) -> None:
        """Stop counting."""
        self.clock.stop()

    def on_train_epoch_end(self, *args) -> None:
        """Stop counting, in an epoch without an evaluation."""
        self.clock.stop()


def main() -> None:
    """Train, evaluate, save."""
    chosen = parser(__doc__).parse_args()
    pl.seed_everything(chosen.seed)
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    train, dev = read(chosen.data, tokenizer, False)
    collate = DataCollatorWithPadding(tokenizer)
    model = load_model(chosen)
    freeze(model, chosen.module, chosen.layer)
    classifier, clock = Classifier(model, chosen.lr), TrainingClock()
    trainer = pl.Trainer(
        max_epochs=chosen.epochs,
        gradient_clip_val=CLIP,
        check_val_every_n_epoch=1 if chosen.evaluate == "epoch" else chosen.epochs,
        num_sanity_val_steps=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(
        classifier,
        DataLoader(train, chosen.batch_size, shuffle=True, collate_fn=collate),
        DataLoader(dev, EVAL_BATCH_SIZE, collate_fn=collate),
    )
    model.save_pretrained(chosen.output)
    report(chosen, clock.clock, chosen.epochs * len(train), classifier.scores, str(trainer.precision), model)


if __name__ == "__main__":
    main()
