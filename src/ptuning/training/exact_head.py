"""The head alone, fitted exactly: ridge regression or penalised logistic regression on what the classifier reads."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptuning.backbones.load import input_names
from ptuning.config.schema import Config
from ptuning.config.training_keys import changed_training_keys
from ptuning.data.samplers import SortedBatches
from ptuning.data.tokenize import TokenTable
from ptuning.errors import ConfigError, RunError
from ptuning.selection.architectures import known_architecture
from ptuning.selection.parameters import split_head
from ptuning.tasks.glue import Task

log = logging.getLogger(__name__)

PENALTIES = tuple(10.0**power for power in range(-5, 2))
"""Penalties beside the mean loss, features standardised; the best on held-out rows is taken.

Scores have the penalty times the squared norm of the weights, classes times *half* of it, as scikit-learn's two
regressions do. Of two classes the weights are those of the one score that stands for both.
"""
_ABSENT = -1e4
"""Logit of a class that no training row has."""
_SLOPE = 1e-5
"""Greatest slope of the penalised loss where a fit counts as the best one."""
_NEWTON_WEIGHTS, _NEWTON_WORK = 5_000, 1e11
"""Weights, and rows times squared weights, up to which logistic regression takes Newton's steps.

A step makes and solves a matrix of squared weights: at most 200 MB, and 7 s on one core. On 7,696 rows of CoLA and 385
weights the fits of all penalties took 1.6 s in 21 such steps, 3.8 s in 828 of L-BFGS. Far beyond, L-BFGS is quicker.
"""

Array = NDArray[np.float64]
Watch = Callable[[Sequence[Any]], Iterable[Any]]
"""Wraps the batches of a long computation, to show how far it is."""


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear layer, for features as they are.

    Attributes
    ----------
    weight
        [outputs, width], fp64.
    bias
        [outputs], fp64.
    penalty
        Of :data:`PENALTIES`, the one that was chosen.
    loss
        Mean loss over the training rows: cross entropy, or the squared error.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    loss: float

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [rows, outputs] in fp32 for features [rows, width]."""
        return (features.double() @ self.weight.T + self.bias).float()


def linear_head(model: nn.Module) -> nn.Linear | None:
    """Return the head of a model, if it is one linear layer with a bias over one vector per row, else ``None``.

    What lies beside the base model and is pretrained (ModernBERT's dense layer) is no part of the head. Of a family
    that is not in the table of architectures it is not known what the layer reads.
    """
    owners = {name.rpartition(".")[0] for name in split_head(model)[0]}
    if known_architecture(model) is None or len(owners) != 1:
        return None
    layer = model.get_submodule(owners.pop())
    return layer if isinstance(layer, nn.Linear) and layer.bias is not None else None


def fits_head_exactly(config: Config, skeleton: nn.Module, selects_modules: bool) -> bool:
    """Return whether a run fits its head exactly: ``optim.head``, or where that is null what the run allows.

    Parameters
    ----------
    config
        The configuration.
    skeleton
        The model, weights or not.
    selects_modules
        False if a class of the reader's own selects, which ``module=`` says nothing of.

    Raises
    ------
    ConfigError
        If ``optim.head=exact`` was typed where there are steps, or where the head has no exact fit.
    """
    is_alone = set(config.module.chosen) == {"frozen"} and selects_modules
    if config.optim.head != "exact":
        wanted = config.optim.head is None and is_alone and not changed_training_keys(config)
        return wanted and linear_head(skeleton) is not None
    leave = "Leave it out, or type optim.head=trained."
    if not is_alone:
        raise ConfigError(f"optim.head=exact fits the head alone, so it goes with module=frozen only. {leave}")
    if linear_head(skeleton) is None:
        raise ConfigError(
            f"optim.head=exact takes a head of one linear layer over one vector per row, and that of a "
            f"{type(skeleton).__name__} is none ({', '.join(split_head(skeleton)[0])}). {leave}"
        )
    if keys := changed_training_keys(config):
        raise ConfigError(
            f"optim.head=exact fits without steps, so that {' and '.join(keys)} would say nothing. Leave one of the "
            "two out."
        )
    return True


def fit_exact_head(
    model: nn.Module, task: Task, train: TokenTable, batch_size: int, seed: int, device: torch.device, watch: Watch
) -> LinearFit:
    """Fit the head of a model in place, which :func:`linear_head` knows, and return the fit.

    Parameters
    ----------
    model
        The frozen backbone with its head.
    task
        Decides between the two regressions.
    train
        Training rows.
    batch_size
        Rows per forward pass.
    seed
        Draws the rows that the penalty is chosen on.
    device
        Where the backbone computes, in fp32.
    watch
        Shows how far the forward passes are.

    Raises
    ------
    RunError
        If what the head reads is not finite.
    """
    assert train.labels is not None
    fit = fit_linear(head_inputs(model, train, batch_size, device, watch), train.labels, task, seed)
    set_head(model, fit)
    return fit


def head_inputs(model: nn.Module, train: TokenTable, batch_size: int, device: torch.device, watch: Watch) -> Tensor:
    """Return what the head of a model reads of each row, [rows, width]; arguments are those of :func:`fit_exact_head`.

    Raises
    ------
    RunError
        If it is not finite.
    """
    layer = linear_head(model)
    assert layer is not None
    read: list[Tensor] = []

    def features(inputs: dict[str, Tensor]) -> Tensor:
        model(**inputs)
        return read.pop()

    hook = layer.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        return vectors(model, features, train, batch_size, device, watch)
    finally:
        hook.remove()


def set_head(model: nn.Module, fit: LinearFit) -> None:
    """Put a fit into the head of a model, which :func:`linear_head` knows."""
    layer = linear_head(model)
    assert layer is not None
    with torch.no_grad():
        layer.weight.copy_(fit.weight)
        layer.bias.copy_(fit.bias)


def vectors(
    model: nn.Module,
    compute: Callable[[dict[str, Tensor]], Tensor],
    tokens: TokenTable,
    batch_size: int,
    device: torch.device,
    watch: Watch = lambda batches: batches,
) -> Tensor:
    """Return a vector per row, [rows, width], on the CPU in fp32, computed without dropout.

    Parameters
    ----------
    model
        What computes; it is moved to ``device``, and left in the mode that it was in.
    compute
        Inputs of a batch → its vectors, [batch, width].
    tokens
        The rows.
    batch_size
        Rows per forward pass.
    device
        Where.
    watch
        Shows how far the forward passes are.
    """
    names = input_names(model)
    training = [module for module in model.modules() if module.training]
    model.to(device).eval()
    found = torch.empty(0, 0)
    try:
        with torch.no_grad():
            for rows in watch(list(SortedBatches(tokens.lengths, batch_size))):
                batch = tokens[rows]
                values = compute({name: batch[name].to(device) for name in names}).float().cpu()
                if not len(found):
                    found = values.new_zeros(len(tokens), values.shape[1])
                found[batch["index"]] = values
    finally:
        for module in training:
            module.training = True
    if broken := int((~found.isfinite().all(1)).sum()):
        raise RunError(
            f"Of {broken:,} of {len(found):,} training rows the backbone's vectors are not finite numbers: no head "
            "fits them. Look at the backbone's weights: `ptuning weights`."
        )
    return found


def fit_linear(features: Tensor, labels: Tensor, task: Task, seed: int) -> LinearFit:
    """Return the ridge regression of scores, or the logistic regression of classes, on features [rows, width].

    Features are standardised for the fit, and the scale is folded back into weight and bias. The penalty is the one of
    least loss on a fifth of the rows, drawn from ``seed``; then all rows are fitted with it.
    """
    x = features.double().numpy()
    mean, std = x.mean(0), x.std(0)
    std[std <= 1e-7 * np.abs(mean) + 1e-12] = 1.0  # a constant feature says nothing
    x = (x - mean) / std
    y = labels.double().numpy() if task.is_regression else labels.numpy()
    fit = _ridge if task.is_regression else _logistic
    order = np.asarray(torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)))
    held, rest = np.split(order, [len(y) // 5])
    penalty = PENALTIES[-1]
    if len(held):
        fits = fit(x[rest], y[rest], task, PENALTIES)
        losses = [_loss(x[held], y[held], weight, bias, task) for weight, bias in fits]
        penalty = PENALTIES[int(np.argmin(losses))]
    weight, bias = fit(x, y, task, (penalty,))[0]
    loss = _loss(x, y, weight, bias, task)
    weight = weight / std
    return LinearFit(torch.from_numpy(weight), torch.from_numpy(bias - weight @ mean), penalty, loss)


def _ridge(x: Array, y: Array, task: Task, penalties: Sequence[float]) -> list[tuple[Array, Array]]:
    """Return (weight [1, width], bias [1]) for each penalty of the mean squared error."""
    from sklearn.linear_model import Ridge

    fits = (Ridge(alpha=penalty * len(y), solver="cholesky").fit(x, y) for penalty in penalties)
    return [(np.atleast_2d(fit.coef_), np.atleast_1d(fit.intercept_)) for fit in fits]


def _logistic(x: Array, y: NDArray[np.int64], task: Task, penalties: Sequence[float]) -> list[tuple[Array, Array]]:
    """Return (weight [classes, width], bias [classes]) for each penalty of the mean cross entropy.

    Of small penalties the optimum is flat: many steps of L-BFGS, few of Newton's. So Newton's are taken where they are
    cheap (:data:`_NEWTON_WORK`). A fit that ends short of its optimum is told.
    """
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(y)
    weights = (x.shape[1] + 1) * (1 if len(classes) == 2 else len(classes))
    newton = weights <= _NEWTON_WEIGHTS and len(y) * weights**2 <= _NEWTON_WORK
    solver, steps = ("newton-cholesky", 100) if newton else ("lbfgs", 10_000)
    model = LogisticRegression(solver=solver, tol=1e-8, max_iter=steps, warm_start=True)
    found: dict[float, tuple[Array, Array]] = {}
    short: dict[float, float] = {}
    for penalty in sorted(penalties, reverse=True):  # the easiest first: each begins where the one before ended
        weight = np.zeros((task.num_outputs, x.shape[1]))
        bias = np.full(task.num_outputs, _ABSENT)
        bias[classes] = 0.0
        if len(classes) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of steps that rounding stops at the optimum too
                model.set_params(C=1 / (penalty * len(y))).fit(x, y)
            if (slope := _slope(model, x, y, penalty)) > _SLOPE:
                short[penalty] = slope
            coefficients, intercepts = model.coef_, model.intercept_
            if len(classes) == 2:  # one score stands for both
                coefficients = np.concatenate([-coefficients, coefficients]) / 2
                intercepts = np.concatenate([-intercepts, intercepts]) / 2
            weight[classes], bias[classes] = coefficients, intercepts
        found[penalty] = weight, bias
    if short:
        told = ", ".join(f"{penalty:g} (slope {slope:.1g})" for penalty, slope in short.items())
        log.warning("The logistic regression ended short of its optimum at penalty %s, after %d steps.", told, steps)
    return [found[penalty] for penalty in penalties]


def _slope(model: Any, x: Array, y: NDArray[np.int64], penalty: float) -> float:
    """Return the greatest derivative of the penalised loss by a weight, where a fit ended."""
    errors = model.predict_proba(x) - (y[:, None] == model.classes_)
    by_weight = errors[:, -len(model.coef_) :].T @ x / len(y) + penalty * model.coef_
    return float(np.abs(by_weight).max())


def _loss(x: Array, y: NDArray[Any], weight: Array, bias: Array, task: Task) -> float:
    outputs = x @ weight.T + bias
    if task.is_regression:
        return float(((outputs[:, 0] - y) ** 2).mean())
    return float((np.logaddexp.reduce(outputs, axis=1) - outputs[np.arange(len(y)), y]).mean())
