"""What a training step computes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning.acceleration import Acceleration


def learnt(acceleration: Acceleration, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss of a batch and the gradients of all trainable parameters."""
    acceleration.model.zero_grad()
    loss = acceleration.training_loss(functional.cross_entropy, batch)
    loss.backward()
    named = acceleration.model.named_parameters()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in named if p.grad is not None}}


def assert_same_step(found: dict[str, Tensor], expected: dict[str, Tensor], near: float = 1e-6) -> None:
    """Check gradients to rounding, which is measured by the largest: some are 0, as those of a key's bias."""
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=near * largest, msg=name)


@contextmanager
def counting(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Within, the tokens, padding included, that each of these modules computes are added up by name."""
    met = dict.fromkeys(modules, 0)

    def note(name: str, given: Tensor) -> None:
        met[name] += given.shape[:-1].numel()

    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: note(name, given[0]))
        for name, module in modules.items()
    ]
    try:
        yield met
    finally:
        for hook in hooks:
            hook.remove()
