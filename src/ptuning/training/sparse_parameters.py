"""Parameters that are trainable in part: the optimiser sees a compact parameter of their trainable weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SparseParameters:
    """The trainable weights of partly trainable parameters, each as one compact parameter for an optimiser.

    The model keeps its whole parameters. Gradients are gathered from them (:meth:`gathering`) and values written back
    to them (:meth:`join`), at the trainable indices only. Weight decay, momentum, clipping, loss scaling and the
    optimiser's state know no other weights, which stay bit for bit.

    Parameters
    ----------
    model
        Where it computes: what is made here lies on the same devices, in the same types.
    indices
        Parameter name → indices of the trainable weights in the flattened parameter, [trainable].
    """

    def __init__(self, model: nn.Module, indices: Mapping[str, Tensor]) -> None:
        self._whole = {name: p for name, p in model.named_parameters() if name in indices}
        self._indices = {name: indices[name].to(p.device, torch.int64) for name, p in self._whole.items()}
        self._compact = {name: nn.Parameter(self._read(name)) for name in self._whole}

    def parameter(self, name: str, whole: nn.Parameter) -> nn.Parameter:
        """Return what an optimiser trains for a parameter of the model: its compact parameter, or all of it."""
        return self._compact.get(name, whole)

    def compact(self, name: str) -> nn.Parameter | None:
        """Return the compact parameter of one that is trainable in part, if there is one."""
        return self._compact.get(name)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Within, a backward pass leaves gradients with the compact parameters and none with the whole tensors.

        They are added to those that are there. A whole tensor's gradient is dropped as soon as it is complete, so that
        no two of them are in memory at once.
        """
        hooks = [
            whole.register_post_accumulate_grad_hook(lambda whole, name=name: self._take(name, whole))
            for name, whole in self._whole.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Let every step of an optimiser begin from the model's values and end with writing the new ones into it."""

        def read(*_: Any) -> None:
            for name, compact in self._compact.items():
                compact.data.copy_(self._read(name))

        def write(*_: Any) -> None:
            with torch.no_grad():
                for name, compact in self._compact.items():
                    self._whole[name].view(-1).index_copy_(0, self._indices[name], compact)

        if self._compact:
            optimizer.register_step_pre_hook(read)
            optimizer.register_step_post_hook(write)

    def _read(self, name: str) -> Tensor:
        return trainable_values(self._whole[name], self._indices[name])

    def _take(self, name: str, whole: Tensor) -> None:
        assert whole.grad is not None
        gradient, compact = trainable_values(whole.grad, self._indices[name]), self._compact[name]
        compact.grad = gradient if compact.grad is None else compact.grad.add_(gradient)
        whole.grad = None


def trainable_values(whole: Tensor, indices: Tensor) -> Tensor:
    """Return the values of a tensor at flat indices, [indices], detached."""
    return whole.detach().reshape(-1)[indices.to(whole.device, torch.int64)]


def compact_indices(indices: Tensor, size: int) -> Tensor:
    """Return indices as they are stored: in 32 bits where the tensor's size allows it."""
    return indices.cpu().to(torch.int32 if size < 2**31 else torch.int64)
