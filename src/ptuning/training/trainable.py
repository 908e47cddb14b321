"""The trainable weights of a run: its selection, narrowed to its subset."""

from collections.abc import Mapping

from lightning.fabric import Fabric
from torch import Tensor, nn

from ptuning.data.datamodule import GlueDataModule
from ptuning.display.console import console
from ptuning.selection.dimensions import hidden_axes
from ptuning.selection.select import Selection, narrow
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


def _choose(plan: Plan, network: nn.Module, selection: Selection, data: GlueDataModule) -> dict[str, Tensor]:
    scores: dict[str, Tensor] = {}
    if plan.subset.kind == "fisher":
        train = data.split("train")
        rows = sample_rows(len(train), plan.config.seed)
        console.print(f"Fisher information on {len(rows)} training examples")
        device = Fabric(accelerator=plan.trainer["accelerator"], devices=plan.trainer["devices"]).device
        examples = (train[[row]] for row in rows)
        scores = fisher_information(network, plan.task, examples, selection.names, device)
    parameters = dict(network.named_parameters())
    values = {name: parameters[name] for name in selection.names}
    return choose_weights(plan.subset, values, plan.config.seed, scores, hidden_axes(network, selection.names))
