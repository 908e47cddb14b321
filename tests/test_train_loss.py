"""``train_loss`` of an evaluation: the mean over the rows since the evaluation before."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from ptuning.training.callbacks import HistoryCallback
from ptuning.training.timings import Timings
from support.callbacks import hooks
from support.running import Train


def test_train_loss_is_the_rows_mean_however_they_come_in_batches(train: Train) -> None:
    losses: list[tuple[float, int]] = []

    def after(trainer: Any, classifier: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        losses.append((float(outputs["loss"]), len(batch["labels"])))

    typed = ("task=stsb", "data.sizes.train=33", "task.batch_size=32", "trainer.max_epochs=1")
    run = train("module=query", *typed, hooks(on_train_batch_end=after))
    (whole, rows), (last, row) = losses
    assert (rows, row) == (32, 1)
    assert run.record["last"]["train_loss"] == pytest.approx((whole * 32 + last) / 33, rel=1e-5)
    assert abs(whole - last) > 0.1


def test_a_mean_loss_that_an_earlier_version_began_goes_on_over_batches() -> None:
    timings = Timings(0.0, lambda: 0.0)
    history = HistoryCallback(cast(Any, None), {}, timings)
    trainer, batch = SimpleNamespace(accumulate_grad_batches=1), {"labels": torch.zeros(5)}
    now = history.state_dict()
    history.load_state_dict(
        {**{name: value for name, value in now.items() if name != "rows"}, "batches": 2, "loss": 6.0}
    )
    history.on_train_batch_end(cast(Any, trainer), cast(Any, None), {"loss": torch.tensor(3.0)}, batch, 0)
    assert (history.state_dict()["loss"], history.state_dict()["batches"]) == (9.0, 3)
    history.load_state_dict(now)
    history.on_train_batch_end(cast(Any, trainer), cast(Any, None), {"loss": torch.tensor(3.0)}, batch, 0)
    assert (history.state_dict()["loss"], history.state_dict()["rows"]) == (15.0, 5)
