"""The optimiser of the trainable weights: AdamW, its groups and its learning rates."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ptuning.selection.select import describe
from ptuning.training.sparse_parameters import SparseParameters


@dataclass(frozen=True)
class Optimisation:
    """How the trainable weights are trained.

    Attributes
    ----------
    lr
        Peak learning rate.
    head_lr
        Peak learning rate of the head.
    weight_decay
        Decoupled weight decay of matrices; LayerNorm weights and biases have none.
    warmup
        Share of the optimiser steps in which the learning rate rises from 0.
    schedule
        ``linear`` (falls to 0 at the last step) or ``constant`` after the warm-up.
    betas, eps
        AdamW's.
    """

    lr: float
    head_lr: float
    weight_decay: float = 0.01
    warmup: float = 0.06
    schedule: str = "linear"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def optimizer(self, model: nn.Module, parts: SparseParameters, fused: bool) -> torch.optim.AdamW:
        """Return AdamW over what is trainable, in four groups: backbone and head, what decays and what does not.

        Parameters
        ----------
        model
            A Hugging Face encoder with a classification head.
        parts
            What stands for its parameters that are trainable in part.
        fused
            Whether a step is one kernel.
        """
        head = set(describe(model, ()).head_names)
        groups: list[dict[str, Any]] = [
            {
                "params": [
                    parts.parameter(name, parameter)
                    for name, parameter in model.named_parameters()
                    if parameter.requires_grad and (name in head) == in_head and (parameter.dim() >= 2) == decays
                ],
                "lr": self.head_lr if in_head else self.lr,
                # What has fewer than two dimensions is a bias or a LayerNorm weight.
                "weight_decay": self.weight_decay if decays else 0.0,
            }
            for in_head in (False, True)
            for decays in (True, False)
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.lr, betas=self.betas, eps=self.eps, fused=fused
        )
        parts.join(optimizer)
        return optimizer

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
        """Return warm-up and decay over ``steps`` optimiser steps."""
        return LambdaLR(optimizer, _Factor(steps, round(self.warmup * steps), self.schedule))


@dataclass
class _Factor:
    steps: int
    warmup: int
    schedule: str

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return 1.0
        return max(0.0, (self.steps - step) / max(1, self.steps - self.warmup))
