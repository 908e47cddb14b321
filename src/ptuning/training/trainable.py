"""The trainable weights of a run: its selection, narrowed to its subset."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ptuning.backbones.load import load_skeleton
from ptuning.data.datamodule import GlueDataModule
from ptuning.display.console import console
from ptuning.errors import ConfigError
from ptuning.runs.record import RunRecord
from ptuning.selection.callback import ModuleSelectionCallback
from ptuning.selection.dimensions import hidden_axes
from ptuning.selection.select import Selection, describe, narrow
from ptuning.selection.subset import choose_weights
from ptuning.training.fisher import fisher_information, sample_rows
from ptuning.training.plan import Plan


def choose_trainable(
    plan: Plan, network: nn.Module, data: GlueDataModule, kept: Mapping[str, Tensor] | None = None
) -> Selection:
    """Return the run's selection, after freezing everything outside of it for all of the run.

    Parameters
    ----------
    plan
        Says which modules, layers and subset.
    network
        With pretrained values and the head as drawn.
    data
        Fisher information is estimated on a sample of its training examples.
    kept
        For a run that goes on: name → indices of the weights that it trained so far. They are not chosen again, because
        Fisher information on another machine may differ in its last bits.

    Raises
    ------
    SelectionError
        If the subset holds no weight, or more than there are.
    """
    selection = plan.selector.apply(network)
    if plan.subset.kind == "all" or not selection.names:
        return selection
    selection = narrow(selection, _choose(plan, network, selection, data) if kept is None else kept)
    plan.selector.keep_to(network, selection)
    return selection


def refuse_other_choice(plan: Plan, record: RunRecord) -> None:
    """Refuse a finished run whose parameters a reader's own selection class would not choose today: it was edited.

    Raises
    ------
    ConfigError
        With a parameter that is chosen in one of the two alone.
    """
    if type(plan.selector) is ModuleSelectionCallback or record.selection is None:
        return
    skeleton = load_skeleton(plan.backbone)
    try:
        chosen = set(describe(skeleton, plan.selector.choose(skeleton)).names)
    except RuntimeError:  # it reads weights, and here are none: what it chooses is known when the model is loaded
        return
    trained = set(record.selection)
    added = chosen - trained if plan.subset.kind == "all" else set()  # of some tensors a subset may take nothing
    if different := sorted(added) or sorted(trained - chosen):
        target = plan.config.callbacks["selection"]["_target_"]
        raise ConfigError(
            f"callbacks.selection._target_={target} chooses otherwise than when this run was trained: {different[0]} "
            f"is {'new' if added else 'left out'}. Type force=true to train it again, or another runs_dir= for both."
        )


def mean_magnitude(plan: Plan, network: nn.Module, selection: Selection) -> float | None:
    """Return the mean |w| of the pretrained backbone weights that train, ``None`` if none do or it is not finite.

    A random draw from the whole selection estimates the selection's own mean. That is what is returned then: modules
    are compared by it, and equal ones should not differ by the luck of a draw. Draws from each tensor take other
    shares of the tensors than they have, so theirs is the mean of what was drawn.

    Parameters
    ----------
    plan
        Says which modules, layers and subset.
    network
        With pretrained values.
    selection
        What :func:`choose_trainable` returned.
    """
    subset, parameters = plan.subset, dict(network.named_parameters())
    is_whole = subset.kind == "random" and subset.is_ranked and subset.scope == "selection" and not subset.is_complement
    indices = {} if is_whole else selection.indices
    total, count = 0.0, 0
    for name in plan.selector.choose(network) if is_whole else selection.names:
        if name in selection.head_names:  # which a reader's own class may name
            continue
        values = parameters[name].detach().reshape(-1)
        values = values[indices[name]] if name in indices else values
        total += float(values.abs().sum(dtype=torch.float64))
        count += values.numel()
    return total / count if count and math.isfinite(total) else None


def _choose(plan: Plan, network: nn.Module, selection: Selection, data: GlueDataModule) -> dict[str, Tensor]:
    scores: dict[str, Tensor] = {}
    if plan.subset.kind == "fisher":
        train = data.split("train")
        rows = sample_rows(len(train), plan.config.seed)
        console.print(f"Fisher information on {len(rows)} training examples")
        examples = (train[[row]] for row in rows)
        scores = fisher_information(network, plan.task, examples, selection.names, plan.device)
    parameters = dict(network.named_parameters())
    values = {name: parameters[name] for name in selection.names}
    return choose_weights(plan.subset, values, plan.config.seed, scores, hidden_axes(network, selection.names))
