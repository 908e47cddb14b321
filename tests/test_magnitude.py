"""Under AdamW a factor on a tensor is a factor on its rate: why magnitude is asked at several rates."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS

MRPC = TASKS["mrpc"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TINY = find_backbone("random:tiny", config={**SMALL, "initializer_range": 0.3})
SIZES = {"train": 80, "validation": 16, "test": 10}
RATE, STEPS = 1e-2, 40


def trained(batches: list[Mapping[str, Tensor]], factor: float, follows: bool) -> tuple[Tensor, Tensor, nn.Module]:
    """Return logits before and after training value and attention output, one scaled up and the other down; the model.

    The values are multiplied by ``factor`` and the matrices behind them divided, so that the model computes the same.
    Rates are scaled with them if ``follows``.
    """
    model = load_model(TINY, MRPC, seed=3).double().eval()
    select(model, ["value", "attention_output"])
    groups = []
    for name, parameter in model.named_parameters():
        scale = factor if ".value." in name else 1 / factor if "attention.output.dense.weight" in name else 1.0
        with torch.no_grad():
            parameter.mul_(scale)
        if parameter.requires_grad:
            groups.append({"params": [parameter], "lr": RATE * (scale if follows else 1.0)})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-30)
    before = logits(model, batches[-1])
    for step in range(STEPS):
        batch = batches[step % (len(batches) - 1)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(model, batch), batch["labels"]).backward()
        optimizer.step()
    return before.detach(), logits(model, batches[-1]).detach(), model


def logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    found: Tensor = model(**{name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}).logits
    return found


def test_a_factor_on_a_tensor_is_a_factor_on_its_rate_under_adamw() -> None:
    data = GlueDataModule(SyntheticSource(MRPC, SIZES), load_tokenizer(TINY), batch_size=16)
    data.setup("fit")
    batches = [*data.train_dataloader()]
    start, end, _ = trained(batches, 1.0, follows=True)
    scaled_start, scaled_end, scaled = trained(batches, 4.0, follows=True)
    torch.testing.assert_close(scaled_start, start, rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled_end, end, rtol=0, atol=1e-8)
    assert (end - start).abs().max() > 0.1  # it learnt something
    plain = load_model(TINY, MRPC, seed=3).double()
    value = "bert.encoder.layer.0.attention.self.value.weight"
    ratio = scaled.get_parameter(value).abs().mean() / plain.get_parameter(value).abs().mean()
    assert ratio > 3  # and its values are four times as large

    _, other, _ = trained(batches, 4.0, follows=False)
    assert (other - end).abs().max() > 0.01  # the same magnitudes at the old rates train another model
