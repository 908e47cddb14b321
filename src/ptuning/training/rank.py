"""Modules ranked before any training, by gradients at the pretrained weights behind a fitted head.

Three criteria, each per weight and summed, from the gradients g_i of the negative log-likelihood of single training
examples, without dropout in fp32, and their mean g:

- Fisher: the mean of g_i² over examples, averaged or summed over a module's weights (the diagonal of the empirical
  Fisher information, :func:`ptuning.training.fisher.fisher_information`).
- ‖g‖/‖w‖, the relative gradient norm of a module (Lee et al., "Surgical fine-tuning improves adaptation to
  distribution shifts", arXiv 2210.11466); summed, that of each of its tensors.
- |g|/|w|, averaged or summed over a module's weights, the gradient-to-weight ratio by which GEM (AAAI 2026) chooses.

A weight is no smaller than 1 % of the backbone's mean |w| in the two ratios, so that weights near 0 do not decide them.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones.load import load_skeleton
from ptuning.backbones.tokenizer_files import check_first_token
from ptuning.config.compose import restore
from ptuning.config.schema import Config
from ptuning.data.datamodule import GlueDataModule
from ptuning.deltas.loading import load_run
from ptuning.display.console import console, follow
from ptuning.errors import RunError
from ptuning.runs.ranking import CRITERIA, RankedModule, Ranking, make_folder, ranking_path, read_ranking, write_ranking
from ptuning.runs.writer import installed_versions
from ptuning.selection.parameters import count_layers, count_modules, list_modules, require_modules
from ptuning.selection.select import choose_parameters
from ptuning.training.build import make_data
from ptuning.training.exact_head import fit_linear, head_inputs, linear_head, set_head
from ptuning.training.fisher import EXAMPLES, example_gradients, sample_rows
from ptuning.training.plan import Plan, make_plan
from ptuning.training.run import execute
from ptuning.training.session import Session

SEEDS = 3
STEPS = 200
"""Steps of a head that has to be trained, or fewer if the epochs of ``module=frozen`` end before."""
_SELECTS = {"_target_": "ptuning.ModuleSelectionCallback"}
_FLOOR = 0.01
"""Of the backbone's mean |w|: the least that a weight counts as in a ratio."""
_DECIDES = ("task", "seed", "backbone", "data", "max_length", "train_rows", "select_on", "pooling", "score_of")
"""Parts of a run's recipe that change a ranking behind an exact head."""
_DECIDES_TRAINED = ("batch_size", "batch_tokens", "group_by_length", "trainer", "attention_dropout")
"""And of one behind a trained head."""


@dataclass(frozen=True)
class Ranked:
    """A ranking, the file of it, and whether it was there before."""

    path: Path
    ranking: Ranking
    earlier: bool


@dataclass(frozen=True)
class _Sums:
    """What the criteria need to know of one tensor: n, Σ Fisher, Σ g², Σ w², Σ |g|/|w|."""

    weights: int
    fisher: float
    gradient: float
    weight: float
    ratio: float


def rank_modules(config: Config, examples: int = EXAMPLES, seeds: int = SEEDS) -> Ranked:
    """Return the ranking of a backbone's modules on a task, computed now or found beside the runs.

    Parameters
    ----------
    config
        With ``module=frozen``. Backbone, task and data as for training, ``runs_dir`` and ``force``; the first seed.
        ``optim.head=trained`` trains the head where it could be fitted.
    examples
        Training examples per seed, or all if there are fewer.
    seeds
        How many seeds are averaged over: those from ``seed`` on.

    Raises
    ------
    ptuning.UserError
        For everything that the reader can mend.
    """
    plan, began = make_plan(config), time.perf_counter()
    numbers = tuple(range(config.seed, config.seed + seeds))
    head = "exact" if config.optim.head != "trained" and linear_head(load_skeleton(plan.backbone)) else "trained"
    recipe = _recipe(plan, head, examples, seeds)
    path = ranking_path(Path(config.runs_dir).expanduser(), plan.backbone.label, plan.task.name, recipe)
    if not config.force and isinstance(earlier := read_ranking(path), Ranking):
        return Ranked(path, earlier, earlier=True)
    make_folder(path)
    heads = _ExactHeads(plan) if head == "exact" else _TrainedHeads(plan)
    names = tuple(require_modules(heads.network(numbers[0])))
    found = [_tensor_sums(heads, names, seed, examples) for seed in numbers]
    ranking = Ranking(
        backbone=plan.backbone.label,
        task=plan.task.name,
        source=plan.source.place,
        examples=min(examples, len(heads.data.split("train"))),
        seeds=numbers,
        head=head,
        rows=tuple(_rows(heads.network(numbers[-1]), found)),
        recipe=recipe,
        seconds=round(time.perf_counter() - began, 3),
        versions=installed_versions(),
    )
    write_ranking(path, ranking)
    return Ranked(path, ranking, earlier=False)


def _recipe(plan: Plan, head: str, examples: int, seeds: int) -> dict[str, Any]:
    kept = _DECIDES if head == "exact" else (*_DECIDES, *_DECIDES_TRAINED)
    chosen = {key: value for key, value in plan.recipe().items() if key in kept}
    steps = {} if head == "exact" else {"steps": STEPS, "optimisation": asdict(plan.optimisation)}
    return {**chosen, **steps, "rank": 1, "head": head, "examples": examples, "seeds": seeds}


class _ExactHeads:
    """Heads fitted exactly, one per seed; what they read is computed once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.device = plan.device
        self._session = Session(keeps_backbone=False)

    @cached_property
    def data(self) -> GlueDataModule:
        return make_data(self.plan, self._session, 1)

    @cached_property
    def _network(self) -> nn.Module:
        plan = self.plan
        model, _ = self._session.model(plan.backbone, plan.task, plan.config.seed, pooling=plan.pooling)
        check_first_token(model, self._session.tokenizer(plan.backbone), plan.backbone.label)
        return model

    @cached_property
    def _inputs(self) -> Tensor:
        watch = partial(follow, "what the head reads") if self.shows else list
        return head_inputs(self._network, self.data.split("train"), self.data.eval_batch_size, self.device, watch)

    @property
    def shows(self) -> bool:
        """Whether bars are shown."""
        return bool(self.plan.trainer["enable_progress_bar"])

    def network(self, seed: int) -> nn.Module:
        """Return the pretrained backbone with the head of a seed."""
        labels = self.data.split("train").labels
        assert labels is not None  # training rows have labels
        set_head(self._network, fit_linear(self._inputs, labels, self.plan.task, seed))
        return self._network


class _TrainedHeads(_ExactHeads):
    """Heads that ordinary runs of ``module=frozen`` trained for some steps, in a folder that goes afterwards."""

    _last: tuple[int, nn.Module] | None = None

    def network(self, seed: int) -> nn.Module:
        """Return the pretrained backbone with the head of a seed."""
        if self._last is None or self._last[0] != seed:
            self._last = None
            self._last = seed, self._train(seed)
        return self._last[1]

    def _train(self, seed: int) -> nn.Module:
        values = asdict(self.plan.config)
        values["trainer"] |= {"max_steps": STEPS, "max_time": None, "limit_val_batches": 1, "precision": "32"}
        values["trainer"] |= {"enable_progress_bar": False, "profiler": None}
        values["optim"]["head"] = "trained"
        values |= {"seed": seed, "logger": {}, "predict": [], "callbacks": {"selection": dict(_SELECTS)}}
        with tempfile.TemporaryDirectory() as folder, console.capture():
            values["runs_dir"] = folder
            network: nn.Module = load_run(execute(restore(values), self._session).folder).model
        return network.float()


def _tensor_sums(heads: _ExactHeads, names: tuple[str, ...], seed: int, examples: int) -> dict[str, _Sums]:
    """Return parameter name → its sums behind the head of one seed, on that seed's examples."""
    network, train = heads.network(seed), heads.data.split("train")
    network.requires_grad_(True)
    rows = sample_rows(len(train), seed, examples)
    shown = follow(f"gradients, seed {seed}", rows) if heads.shows else rows
    total: list[Tensor] = []
    squares: list[Tensor] = []
    found = example_gradients(network, heads.plan.task, (train[[row]] for row in shown), names, heads.device)
    for gradients in found:
        if not total:
            total, squares = ([torch.zeros_like(gradient) for gradient in gradients] for _ in range(2))
        for one, square, gradient in zip(total, squares, gradients, strict=True):
            one.add_(gradient)
            square.addcmul_(gradient, gradient)
    parameters = dict(network.named_parameters())
    weights = {name: parameters[name].detach() for name in names}
    count = sum(value.numel() for value in weights.values())
    floor = _FLOOR * sum(_total(value.abs()) for value in weights.values()) / count
    sums = {}
    for name, one, square in zip(names, total, squares, strict=True):
        gradient, weight = (one / len(rows)).cpu(), weights[name]
        sums[name] = _Sums(
            weights=weight.numel(),
            fisher=_total(square) / len(rows),
            gradient=_total(gradient.square()),
            weight=max(_total(weight.square()), floor**2 * weight.numel()),
            ratio=_total(gradient.abs() / weight.abs().clamp(min=floor)),
        )
    if not all(math.isfinite(value) for one in sums.values() for value in asdict(one).values()):
        raise RunError(
            "The gradients of this backbone are not finite, so its modules cannot be ranked. Look at its weights: "
            "`ptuning weights`."
        )
    return sums


def _total(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _rows(network: nn.Module, seeds: list[dict[str, _Sums]]) -> Iterator[RankedModule]:
    """Yield modules and groups with a weight, in all layers and then in each."""
    elementary = count_modules(network)
    located = require_modules(network)
    inside = {one.layer for one in located.values() if one.layer is not None}
    for layers in ("all", *range(count_layers(network))):
        for module in list_modules(network):
            names = choose_parameters(network, module).names
            if layers != "all":
                names = tuple(name for name in names if located[name].layer == layers)
            if names and (layers == "all" or layers in inside):
                sums = [[one[name] for name in names] for one in seeds]
                values = {name: tuple(_criteria(tensors)[name] for tensors in sums) for name in CRITERIA}
                weights = sum(one.weights for one in sums[0])
                yield RankedModule(module, str(layers), module not in elementary, weights, values)


def _criteria(tensors: list[_Sums]) -> Mapping[str, float]:
    """Return every criterion of the tensors of one module."""
    weights, fisher = sum(one.weights for one in tensors), sum(one.fisher for one in tensors)
    ratio = sum(one.ratio for one in tensors)
    gradient, weight = sum(one.gradient for one in tensors), sum(one.weight for one in tensors)
    return {
        "fisher_mean": fisher / weights,
        "fisher_sum": fisher,
        "norm_ratio": math.sqrt(gradient / weight),
        "norm_ratio_sum": sum(math.sqrt(one.gradient / one.weight) for one in tensors),
        "weight_ratio_mean": ratio / weights,
        "weight_ratio_sum": ratio,
    }
