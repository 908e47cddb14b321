"""The diagonal of the empirical Fisher information, by which ``subset=fisher:N`` ranks weights."""

import random
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning.backbones.load import input_names
from ptuning.data.tokenize import Batch
from ptuning.errors import RunError
from ptuning.tasks.glue import Task

EXAMPLES = 256
"""Training examples that the information is estimated on, or all if there are fewer."""


def sample_rows(rows: int, seed: int) -> list[int]:
    """Return the rows of the training split that the information is estimated on, sorted: a function of the seed."""
    return sorted(random.Random(f"fisher/{seed}").sample(range(rows), min(rows, EXAMPLES)))


def fisher_information(
    model: nn.Module, task: Task, examples: Iterable[Batch], names: Iterable[str], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Estimate the diagonal Fisher information of parameters: the mean of squared gradients of log-likelihoods.

    Each example contributes the gradient of the log-likelihood of its observed label (hence empirical), taken alone and
    without dropout. For regression the likelihood is Gaussian with unit variance, whose logarithm is half the squared
    error but for its sign and a constant. As in ValizadehAslani & Liang, "LayerNorm: A key component in
    parameter-efficient fine-tuning" (arXiv 2403.20284), which selects weights by it.

    Parameters
    ----------
    model
        A Hugging Face model with a classification head; it ends in the mode and with the gradients it came with.
    task
        Says what labels mean.
    examples
        Batches of one row each.
    names
        Of the parameters in question; they have to require gradients.
    device
        Where to compute; the model is brought there and back to the CPU.

    Returns
    -------
    dict
        Name → information, in the parameter's shape, on the CPU.

    Raises
    ------
    RunError
        If a gradient is not finite.
    """
    parameters = dict(model.named_parameters())
    chosen = {name: parameters[name] for name in names}
    inputs = input_names(model)
    was_training = model.training
    model.to(device).eval()
    sums = {name: torch.zeros_like(p) for name, p in chosen.items()}
    count = 0
    try:
        for batch in examples:
            logits = model(**{name: batch[name].to(device) for name in inputs}).logits.float()
            loss = _negative_log_likelihood(task, logits, batch["labels"].to(device))
            gradients = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
            count += 1
    finally:
        model.train(was_training).cpu()
    found = {name: (total / max(1, count)).cpu() for name, total in sums.items()}
    if not all(bool(value.isfinite().all()) for value in found.values()):
        raise RunError(
            "The Fisher information of this backbone is not finite: its gradients overflow before any training. "
            "Choose weights otherwise, e.g. subset=top:1%."
        )
    return found


def _negative_log_likelihood(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    if task.is_regression:
        return (logits[:, 0] - labels).square().sum() / 2
    return functional.cross_entropy(logits, labels, reduction="sum")
