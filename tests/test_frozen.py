"""No work for what is frozen: no graph below what moves, no gradients, no optimiser state."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.selection.architectures import ARCHITECTURES, architecture_of
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from support.families import batch, families, tiny
from support.running import Train

RTE = TASKS["rte"]


def nodes(root: Any) -> Iterator[Any]:
    """Every node of the autograd graph behind a tensor."""
    seen, waiting = set(), [root.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [parent for parent, _ in node.next_functions]


@families
def test_the_backward_pass_ends_at_the_lowest_weight_that_moves(family: str) -> None:
    shared = ARCHITECTURES[family].shares_layers
    for module, layers in (("frozen", "all"), ("ffn", "all" if shared else 2), ("attention_output", "all")):
        model = tiny(family)
        selection = select(model, module, layers)
        moving = {*selection.names, *selection.head_names}
        tracked: dict[str, bool] = {}

        def note(name: str, tracked: dict[str, bool] = tracked) -> Any:
            def keep(_: nn.Module, __: Any, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) else output
                if isinstance(first, Tensor):
                    tracked[name] = first.grad_fn is not None

            return keep

        for name, part in model.named_modules():
            part.register_forward_hook(note(name))
        classifier = GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3))
        loss = classifier.loss(classifier(batch(model)), batch(model)["labels"])
        leaves = {id(node.variable) for node in nodes(loss) if hasattr(node, "variable")}
        assert leaves == {id(p) for name, p in model.named_parameters() if name in moving}
        base = model.base_model_prefix
        pattern = architecture_of(model)
        for name, has_graph in tracked.items():
            located = pattern.locate(f"{name.removeprefix(base + '.')}.weight")
            if module == "frozen" and name.startswith(base):
                assert not has_graph, name
            if located and (located[0] == "embeddings" or (layers == 2 and located[1] in (0, 1))):
                assert not has_graph, name
        loss.backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == moving


def weight_gradients(module: str) -> int:
    """Matrix products of a backward pass whose result has the shape of an encoder's matrix."""
    model = tiny("bert")
    select(model, module)
    classifier = GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3))
    logits = classifier(batch(model)).sum()
    with torch.profiler.profile(record_shapes=True) as seen:
        logits.backward()
    shapes = {tuple(p.shape) for name, p in model.named_parameters() if "encoder" in name and p.dim() == 2}
    products = [event.input_shapes for event in seen.events() if event.name == "aten::mm"]
    return sum((one[0], two[1]) in shapes for one, two, *_ in products)


def test_no_weight_gradient_is_computed_for_frozen_matrices() -> None:
    assert weight_gradients("full") == 3 * 6 + 1  # the pooler is a matrix of the same shape
    assert weight_gradients("query") == 3
    assert weight_gradients("layernorm") == 0


def test_the_optimiser_holds_what_moves_and_nothing_else(train: Train) -> None:
    run = train("module=query", "layers=1", "trainer.max_epochs=1", "keep_checkpoint=true")
    state = torch.load(run.path / "last.ckpt", weights_only=True)
    held = [p for group in state["optimizer_states"][0]["param_groups"] for p in group["params"]]
    assert len(held) == len(state["state_dict"]) == 4
    moments = state["optimizer_states"][0]["state"]
    assert sum(moments[p]["exp_avg"].numel() for p in held) == (
        run.record["trainable_parameters"] + run.record["head_parameters"]
    )
