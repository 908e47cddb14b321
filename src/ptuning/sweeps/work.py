"""An estimate of the arithmetic of a run on GLUE, for grids of which no run was seen yet; nothing is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ptuning.backbones.load import load_skeleton
from ptuning.selection.callback import ModuleSelectionCallback
from ptuning.selection.parameters import count_frozen_blocks, locate_parameters
from ptuning.training.plan import Plan


class _Size(NamedTuple):
    """Rows of train and dev (both sets of MNLI), and tokens of a mean row, special ones included."""

    train: int
    dev: int
    tokens: int


_SIZES: Mapping[str, _Size] = {
    "cola": _Size(8_551, 1_043, 11),
    "sst2": _Size(67_349, 872, 13),
    "mrpc": _Size(3_668, 408, 53),
    "stsb": _Size(5_749, 1_500, 28),
    "qqp": _Size(363_846, 40_430, 30),
    "mnli": _Size(392_702, 19_647, 39),
    "qnli": _Size(104_743, 5_463, 49),
    "rte": _Size(2_490, 277, 67),
    "wnli": _Size(635, 71, 37),
}
"""GLUE's rows. Tokens are means over train with BERT's vocabulary, at most 128; of QQP, MNLI, QNLI and WNLI assumed."""


@dataclass(frozen=True)
class _Weights:
    """Weights of the matrices inside blocks: all, those that gradients pass through, and those that train."""

    every: int
    passed: int
    trained: int


class Work:
    """Floating-point operations by plan; what selections of one backbone need is counted once."""

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], _Weights | None] = {}

    def estimate(self, plan: Plan) -> float | None:
        """Return the operations of a run, or ``None`` where they cannot be told from its plan.

        Each weight of a block's matrices takes 2 per token in the forward pass, 2 more for the gradient that is handed
        down if something below trains, and 2 for its own gradient if it trains. Scores of attention, embeddings and the
        head are not counted: some percent at these lengths. The data have to be GLUE's, whole or ``data.train_rows``.
        """
        size = _SIZES.get(plan.task.name) if plan.source.place in ("hub", "local") else None
        weights = self._weights(plan) if size else None
        if size is None or weights is None or plan.trainer.get("limit_train_batches") is not None:
            return None
        rows = plan.trainer["max_epochs"] * (plan.config.data.train_rows or size.train)
        if plan.trainer["max_steps"] != -1:
            batch = plan.config.task.batch_size * plan.trainer["accumulate_grad_batches"]
            rows = min(rows, plan.trainer["max_steps"] * batch)
        step = 2 * (weights.every + weights.passed + weights.trained)
        evaluations = 1 if plan.trainer["max_steps"] != -1 else plan.trainer["max_epochs"]
        return float(size.tokens * (rows * step + evaluations * size.dev * 2 * weights.every))

    def _weights(self, plan: Plan) -> _Weights | None:
        key = (plan.backbone.identity, plan.modules, plan.layers, tuple(plan.config.module.patterns))
        if key not in self._seen:
            self._seen[key] = _count(plan)
        return self._seen[key]


def _count(plan: Plan) -> _Weights | None:
    model = load_skeleton(plan.backbone)
    located = {
        name: one for name, one in locate_parameters(model).items() if one.layer is not None and one.parameter.dim() > 1
    }
    if type(plan.selector) is not ModuleSelectionCallback or not located:
        return None
    chosen = set(plan.selector.choose(model))
    lowest = count_frozen_blocks(model, chosen)
    sizes = {name: one.parameter.numel() for name, one in located.items()}
    return _Weights(
        every=sum(sizes.values()),
        passed=sum(size for name, size in sizes.items() if (located[name].layer or 0) >= lowest),
        trained=sum(size for name, size in sizes.items() if name in chosen),
    )


def describe_work(operations: float) -> str:
    """Return ``about 1.9e18 floating-point operations, some 2 to 6 hours of an H100``.

    The hours suppose 90 to 260 TFLOP/s in bf16, where batches are large enough for the card.
    """
    low, high = (operations / (rate * 1e12) / 3600 for rate in (260, 90))
    hours = f", some {low:.1f} to {high:.1f} hours of an H100 at 260 to 90 TFLOP/s" if high >= 0.1 else ""
    return f"about {operations:.1e} floating-point operations by rows, mean length and weights{hours}"
