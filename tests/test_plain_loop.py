"""Without dropout, training walks the path of a loop in plain PyTorch: equal batches, losses and weights."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ptuning.deltas.format import read_delta
from support.callbacks import hooks
from support.running import Train

STEPS, WARMUP = 12, 0.25
NO_DROPOUT = ("+backbone.config.hidden_dropout_prob=0.0", "+backbone.config.attention_probs_dropout_prob=0.0")


@pytest.mark.parametrize(("task", "module"), [("rte", "query"), ("stsb", "layernorm"), ("mrpc", "full")])
def test_training_is_what_a_plain_loop_computes(train: Train, task: str, module: str) -> None:
    seen: list[dict[str, Tensor]] = []
    losses: list[float] = []
    models: list[Any] = []

    def before(trainer: Any, classifier: Any, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        if not models:
            models.append(_copy(classifier.model))
        seen.append({name: value.clone() for name, value in batch.items()})

    def after(trainer: Any, classifier: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        losses.append(float(outputs["loss"]))

    typed = ("optim.lr=0.003", f"optim.warmup={WARMUP}", "trainer.max_epochs=1", "trainer.gradient_clip_val=0.5")
    watched = hooks(on_train_batch_start=before, on_train_batch_end=after)
    run = train(*NO_DROPOUT, f"task={task}", f"module={module}", "data.sizes.train=192", *typed, watched)
    assert len(losses) == STEPS
    values, _ = read_delta(run.path)
    plain = models[0].train()
    parameters = dict(plain.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in values)
    moving = {name: parameters[name] for name in values}
    groups = [
        {"params": [p for p in moving.values() if (p.dim() >= 2) == decayed], "weight_decay": 0.01 * decayed}
        for decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.003)
    warmup = round(WARMUP * STEPS)
    for step, (batch, known) in enumerate(zip(seen, losses, strict=True)):
        rate = (step + 1) / (warmup + 1) if step < warmup else (STEPS - step) / (STEPS - warmup)
        for group in optimizer.param_groups:
            group["lr"] = 0.003 * rate
        logits = plain(**{name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}).logits
        if task == "stsb":
            loss = functional.mse_loss(logits[:, 0], batch["labels"])
        else:
            loss = functional.cross_entropy(logits, batch["labels"])
        assert float(loss.detach()) == pytest.approx(known, rel=1e-4, abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving.values(), 0.5)
        optimizer.step()
    for name, value in values.items():
        torch.testing.assert_close(parameters[name].detach(), value, rtol=1e-3, atol=1e-4)


def _copy(model: Any) -> Any:
    copied = type(model)(model.config)
    copied.load_state_dict(model.state_dict())
    return copied
