"""The diagonal of the empirical Fisher information, by which ``subset=fisher:N`` ranks weights."""

import random
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning.backbones.load import input_names
from ptuning.data.tokenize import Batch
from ptuning.errors import RunError
from ptuning.tasks.glue import Task

EXAMPLES = 256
"""Training examples that the information is estimated on, or all if there are fewer."""


def sample_rows(rows: int, seed: int, examples: int = EXAMPLES) -> list[int]:
    """Return the rows of the training split that gradients are taken on, sorted: a function of the seed."""
    return sorted(random.Random(f"fisher/{seed}").sample(range(rows), min(rows, examples)))


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
    chosen = tuple(names)
    sums: list[Tensor] = []
    count = 0
    for gradients in example_gradients(model, task, examples, chosen, device):
        sums = sums or [torch.zeros_like(gradient) for gradient in gradients]
        for total, gradient in zip(sums, gradients, strict=True):
            total.addcmul_(gradient, gradient)
        count += 1
    found = {name: (total / count).cpu() for name, total in zip(chosen, sums, strict=True)}
    if not all(bool(value.isfinite().all()) for value in found.values()):
        raise RunError(
            "The Fisher information of this backbone is not finite: its gradients overflow before any training. "
            "Choose weights otherwise, e.g. subset=top:1%."
        )
    return found


def example_gradients(
    model: nn.Module, task: Task, examples: Iterable[Batch], names: Iterable[str], device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the gradients of one example's negative log-likelihood after the other, on the device, without dropout.

    A parameter that an example does not use has zeros. Arguments are those of :func:`fisher_information`; the model is
    in evaluation mode and on the device until all are taken.
    """
    parameters = dict(model.named_parameters())
    inputs = input_names(model)
    was_training = model.training
    model.to(device).eval()
    try:
        chosen = [parameters[name] for name in names]
        for batch in examples:
            logits = model(**{name: batch[name].to(device) for name in inputs}).logits.float()
            loss = _negative_log_likelihood(task, logits, batch["labels"].to(device))
            yield torch.autograd.grad(loss, chosen, allow_unused=True, materialize_grads=True)
    finally:
        model.train(was_training).cpu()


def _negative_log_likelihood(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    if task.is_regression:
        return (logits[:, 0] - labels).square().sum() / 2
    return functional.cross_entropy(logits, labels, reduction="sum")
