"""Weight subsets: what the words mean, that they pick what a slow computation picks, and that nothing else moves."""

import statistics
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ptuning
from ptuning.backbones.load import load_model, load_skeleton, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.config.compose import compose, config_folder
from ptuning.config.explain import explain
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.deltas.format import read_delta
from ptuning.errors import SelectionError, UserError
from ptuning.results import collect, summarise
from ptuning.results.tables import module_tables
from ptuning.results.text_table import to_markdown
from ptuning.runs.folder import RunFolder, find_run
from ptuning.selection.architectures import architecture_of
from ptuning.selection.dimensions import hidden_axes
from ptuning.selection.parameters import locate_parameters
from ptuning.selection.select import choose_parameters, select
from ptuning.selection.subset import Subset, choose_weights, outliers, parse_subset
from ptuning.tasks.glue import TASKS
from ptuning.training.fisher import EXAMPLES, fisher_information, sample_rows
from ptuning.training.plan import Plan, make_plan
from ptuning.training.run import execute
from ptuning.training.session import Session
from ptuning.training.sparse_parameters import SparseParameters
from support.callbacks import ctrl_c_at, hooks, stopped
from support.running import TINY, Run, Train, run_in

# What the words mean


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("all", "all"),
        ("top:100", "top:100"),
        ("top:0100", "top:100"),
        ("bottom:1%", "bottom:1%"),
        ("bottom:01.50%", "bottom:1.5%"),
        ("random:.5%", "random:0.5%"),
        ("fisher:100%", "fisher:100%"),
        ("outlier:3.0", "outlier:3"),
        ("not:top:01%", "not:top:1%"),
        ("not:outlier:3.0", "not:outlier:3"),
        ("random:outlier:3.0", "random:outlier:3"),
        ("not:top:outlier:2.50", "not:top:outlier:2.5"),
        ("dims:381+0308+381", "dims:308+381"),
        ("not:dims:7", "not:dims:7"),
    ],
)
def test_a_subset_has_one_canonical_spelling(typed: str, canonical: str) -> None:
    assert str(parse_subset(typed)) == canonical
    assert parse_subset(canonical) == parse_subset(typed)


@given(
    st.sampled_from(("top", "bottom", "random", "fisher", "not:top", "not:random")),
    st.integers(1, 10**12) | st.decimals("0.000001", "100", places=6),
    st.sampled_from(("tensor", "selection")),
)
def test_what_a_subset_is_called_means_that_subset(kind: str, amount: int | Decimal, scope: str) -> None:
    typed = f"{kind}:{amount}{'%' if isinstance(amount, Decimal) else ''}"
    subset = parse_subset(typed, scope)
    assert parse_subset(str(subset), scope) == subset
    assert subset.amount == amount
    assert subset.is_complement == kind.startswith("not:")


@given(st.sets(st.integers(0, 10**9 - 1), min_size=1, max_size=5), st.booleans())
def test_dimensions_are_a_set_whatever_their_order(dimensions: set[int], rest: bool) -> None:
    typed = ["not:"[: 4 * rest] + f"dims:{'+'.join(map(str, order))}" for order in (dimensions, sorted(dimensions))]
    one, other = map(parse_subset, typed)
    assert one == other == parse_subset(str(one))
    assert set(one.dimensions) == dimensions


def plan(*overrides: str) -> Plan:
    return make_plan(compose(["backbone=tiny", "data=synthetic", "trainer.accelerator=cpu", *overrides]))


def folder(*overrides: str) -> RunFolder:
    made = plan(*overrides)
    return find_run(Path(made.config.runs_dir), made.backbone.label, made.recipe())[0]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["subset=tpo:5"], "Did you mean 'top'?"),
        (["subset=half"], "Allowed: all, top:N"),
        (["subset=all:5"], "Allowed: all, top:N"),
        (["subset=top"], "needs a number after top:, e.g. 100 or 1%"),
        (["subset=top:x"], "needs a number"),
        (["subset=top:-1"], "needs a number"),
        (["subset=top:1e3"], "needs a number"),
        (["subset=top:0"], "a whole number from 1"),
        (["subset=top:0.5"], "a share: top:50%"),
        (["subset=top:1.5"], "a share: top:1%"),
        (["subset=random:0%"], "above 0% and up to 100%"),
        (["subset=random:100.1%"], "above 0% and up to 100%"),
        (["subset=outlier:0"], "e.g. outlier:3"),
        (["subset=outlier:3%"], "e.g. outlier:3"),
        (["subset=random:outlier:0"], "e.g. outlier:3"),
        (["subset=random:outlier:3%"], "e.g. outlier:3"),
        (["subset=random:5outlier:3"], "needs a number after random:"),
        (["subset=outlier:outlier:3"], "needs a number after outlier:"),
        (["subset=not:all"], "takes one subset that leaves weights, e.g. not:top:1%"),
        (["subset=not:not:top:1%"], "takes one subset that leaves weights"),
        (["subset=not"], "takes one subset that leaves weights"),
        (["subset=not:tpo:1%"], "Did you mean 'top'?"),
        (["subset=not:top:100%", "module=layernorm"], "is every weight of the selection, and none is left"),
        (["subset=not:top:256", "module=layernorm", "subset_scope=selection"], "and none is left"),
        (["subset=not:top:1%", "module=layernorm"], "not:top:1%: top:1% is no weight of any tensor"),
        (["subset=dims:"], "from 0, e.g. dims:308+381"),
        (["subset=dims:1-3"], "from 0, e.g. dims:308+381"),
        (["subset=dims:1%"], "from 0, e.g. dims:308+381"),
        (["subset=dims:3+32", "module=layernorm"], "names dimension 32, but hidden states have 32 dimensions: 0 to 31"),
        (["subset=dims:3", "module=custom", "module.patterns=[query.bias]"], "module=layernorm, module=output"),
        (["subset=top:1%", "subset_scope=layer"], "Allowed: tensor, selection"),
        (["subset=top:1%", "subset_scope=tensors"], "Did you mean 'tensor'?"),
        (["subset=top:33", "module=layernorm"], "has 32: at most top:32, or a share (top:10%), or subset_scope=sel"),
        (["subset=top:300", "module=layernorm", "subset_scope=selection"], "has 256: at most top:256"),
        (["subset=fisher:1%", "module=layernorm"], "at least fisher:1, or fisher:3.1%, or subset_scope=selection"),
        (["subset=fisher:0.1%", "module=layernorm", "subset_scope=selection"], "at least fisher:1, or fisher:0.39%"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_with_the_mend_before_anything_is_loaded(overrides: list[str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(*overrides)
    said = explain(caught.value)
    assert said is not None
    assert "\n" not in said
    assert told in said
    assert said.startswith("subset")


# What they pick, beside a slow computation

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}

TENSORS = st.lists(
    st.lists(st.integers(-3, 3), min_size=1, max_size=9).map(lambda values: torch.tensor(values, dtype=torch.float32)),
    min_size=1,
    max_size=4,
).map(lambda tensors: {f"t{number}": tensor for number, tensor in enumerate(tensors)})


def slowly(ranks: Mapping[str, list[float]], subset: Subset) -> dict[str, list[int]]:
    """Sort all weights in Python, the largest first and of equal ones the first, and take so many."""
    groups = [[name] for name in ranks] if subset.scope == "tensor" else [list(ranks)]
    chosen: dict[str, list[int]] = {}
    for names in groups:
        everything = [(-rank, order, place, name) for order, name in enumerate(names) for place, rank in
                      enumerate(ranks[name])]  # fmt: skip
        exact = Fraction(subset.amount) * len(everything) / 100 if subset.is_share else Fraction(subset.amount)
        count = int(exact + Fraction(1, 2))
        for _, _, place, name in sorted(everything)[:count]:
            chosen.setdefault(name, []).append(place)
    return {name: sorted(chosen[name]) for name in ranks if name in chosen}


def as_lists(indices: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: places.tolist() for name, places in indices.items()}


@given(TENSORS, st.sampled_from(("top", "bottom", "fisher")), st.integers(1, 100), st.booleans(), st.booleans())
def test_ranked_subsets_pick_what_sorting_everything_picks_ties_by_place(
    values: dict[str, Tensor], kind: str, amount: int, is_share: bool, per_tensor: bool
) -> None:
    subset = Subset(kind, Decimal(amount), is_share, "tensor" if per_tensor else "selection")
    scores = {name: tensor.square() for name, tensor in values.items()}
    rank = {"top": abs, "bottom": lambda value: -abs(value), "fisher": lambda value: value**2}[kind]
    expected = slowly({name: [rank(value) for value in tensor.tolist()] for name, tensor in values.items()}, subset)
    try:
        found = choose_weights(subset, values, scores=scores)
    except SelectionError:
        sizes = [len(tensor) for tensor in values.values()]
        least = min(sizes) if per_tensor else sum(sizes)
        assert (not is_share and amount > least) or not expected
    else:
        assert as_lists(found) == expected


@given(
    TENSORS,
    st.sampled_from(("top:1", "bottom:2", "random:60%", "fisher:1", "outlier:1", "random:outlier:1")),
    st.booleans(),
)
def test_a_complement_is_every_other_weight_of_the_selected_tensors(
    values: dict[str, Tensor], typed: str, per_tensor: bool
) -> None:
    scope = "tensor" if per_tensor else "selection"
    scores = {name: tensor.square() for name, tensor in values.items()}
    everything = {(name, place) for name, tensor in values.items() for place in range(len(tensor))}
    try:
        chosen = as_lists(choose_weights(parse_subset(typed, scope), values, 1, scores))
    except SelectionError:
        with pytest.raises(SelectionError, match=r"^subset=not:"):
            choose_weights(parse_subset(f"not:{typed}", scope), values, 1, scores)
        return
    left = everything - {(name, place) for name, places in chosen.items() for place in places}
    if not left:
        with pytest.raises(SelectionError, match="none is left"):
            choose_weights(parse_subset(f"not:{typed}", scope), values, 1, scores)
        return
    found = as_lists(choose_weights(parse_subset(f"not:{typed}", scope), values, 1, scores))
    assert {(name, place) for name, places in found.items() for place in places} == left
    assert all(places == sorted(set(places)) for places in found.values())


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "albert", "modernbert"])
def test_dimensions_are_those_of_the_hidden_states_in_what_reads_and_in_what_writes_them(family: str) -> None:
    model = load_skeleton(find_backbone("random:tiny", config={**SMALL, "model_type": family})).to_empty(device="cpu")
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    modules = dict(model.named_modules())
    axes = hidden_axes(model, choose_parameters(model, "full").names)
    found = choose_weights(parse_subset("dims:3+5"), dict(model.named_parameters()), axes=axes)
    asked = 0
    for name, one in locate_parameters(model).items():
        if one.module not in architecture_of(model).in_block:
            continue
        owner = modules[name.rpartition(".")[0]]
        reads = one.module in ("query", "key", "value", "query_key_value", "intermediate")
        if reads and name.endswith("bias"):
            assert name not in found
            continue
        inputs = torch.randn(2, getattr(owner, "in_features", 16))
        if reads:
            inputs = torch.zeros(2, 16).index_fill(1, torch.tensor([3, 5]), 1.0)
        model.zero_grad()
        outputs = owner(inputs)
        (outputs if reads else outputs[:, [3, 5]]).square().sum().backward()
        assert one.parameter.grad is not None
        assert found[name].tolist() == one.parameter.grad.flatten().nonzero()[:, 0].tolist(), name
        asked += 1
    assert asked >= 5


def test_a_number_of_random_weights_is_that_number_in_all_of_a_selection(train: Train) -> None:
    typed = ("trainer.max_epochs=1", "data.sizes.train=32", "subset=random:77", "subset_scope=selection")
    for module in ("query", "layernorm", "ffn", "embeddings"):
        assert train(f"module={module}", *typed).record["trainable_parameters"] == 77


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=30),
    st.sampled_from((0.5, 1.0, 2.0, 3.0)),
)
def test_outliers_lie_further_than_so_many_deviations_from_the_mean_of_their_tensor(
    values: list[float], deviations: float
) -> None:
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    distances = [abs(value - mean) / deviation if deviation else 0.0 for value in values]
    assume(all(abs(distance - deviations) > 1e-6 for distance in distances) and (deviation == 0 or deviation > 1e-6))
    expected = [place for place, distance in enumerate(distances) if distance > deviations]
    assert outliers(torch.tensor(values), deviations).tolist() == expected


def test_outliers_are_those_of_each_tensor_and_finding_none_says_how_far_the_furthest_is() -> None:
    values = {"flat": torch.ones(4, 4), "one far": torch.tensor([[0.0] * 15 + [1.0]]), "none far": torch.arange(4.0)}
    assert as_lists(choose_weights(parse_subset("outlier:3"), values)) == {"one far": [15]}
    with pytest.raises(SelectionError, match=r"the furthest lies 3\.87 .* outlier:3"):
        choose_weights(parse_subset("outlier:4"), values)
    with pytest.raises(SelectionError, match="one value throughout"):
        choose_weights(parse_subset("outlier:3"), {"flat": torch.ones(4)})


def test_as_many_as_outliers_are_as_many_of_each_tensor() -> None:
    values = {"two far": torch.tensor([0.0] * 40 + [9.0, -9.0]), "none far": torch.arange(42.0), "last": torch.eye(7)}
    count = {name: len(places) for name, places in choose_weights(parse_subset("outlier:2"), values).items()}
    assert count == {"two far": 2, "last": 7}
    for kind in ("random", "top", "bottom"):
        found = choose_weights(parse_subset(f"{kind}:outlier:2"), values)
        assert {name: len(places) for name, places in found.items()} == count
    assert as_lists(choose_weights(parse_subset("top:outlier:2"), values))["two far"] == [40, 41]
    assert as_lists(choose_weights(parse_subset("bottom:outlier:2"), values))["two far"] == [0, 1]
    with pytest.raises(SelectionError, match="subset=random:outlier:9 is no weight: the furthest lies"):
        choose_weights(parse_subset("random:outlier:9"), values)
    assert "subset_scope" not in plan("subset=random:outlier:3", "subset_scope=selection").recipe()


def test_random_weights_depend_on_seed_and_name_alone_and_more_contain_fewer() -> None:
    values = {name: torch.zeros(40, 10) for name in ("a", "b", "c")}
    drawn = as_lists(choose_weights(parse_subset("random:40"), values, seed=5))
    assert all(len(set(places)) == 40 for places in drawn.values())
    assert drawn["a"] != drawn["b"]
    assert as_lists(choose_weights(parse_subset("random:40"), {"c": values["c"]}, seed=5)) == {"c": drawn["c"]}
    assert as_lists(choose_weights(parse_subset("random:40"), values, seed=6)) != drawn
    more = as_lists(choose_weights(parse_subset("random:60"), values, seed=5))
    assert all(set(drawn[name]) < set(more[name]) for name in values)
    across = parse_subset("random:10%", "selection")
    some = as_lists(choose_weights(across, values, seed=5))
    assert sum(map(len, some.values())) == 120
    backwards = dict(reversed(values.items()))
    assert as_lists(choose_weights(across, backwards, seed=5)) == some
    assert drawn["a"][:4] == [1, 6, 11, 17]  # the same on every platform


BACKBONE = find_backbone("random:tiny", config={**SMALL, "initializer_range": 0.3})


@pytest.mark.parametrize("task", ["mrpc", "mnli", "stsb"])
@pytest.mark.parametrize("scope", ["tensor", "selection"])
def test_fisher_picks_what_a_direct_computation_picks(task: str, scope: str) -> None:
    about = TASKS[task]
    data = GlueDataModule(SyntheticSource(about, {"train": 12, "validation": 10, "test": 10}), load_tokenizer(BACKBONE))
    rows = data.split("train")
    model = load_model(BACKBONE, about, seed=3).train()
    names = select(model, ["query", "output", "layernorm"]).names
    found = fisher_information(model, about, (rows[[row]] for row in range(12)), names)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())

    direct = load_model(BACKBONE, about, seed=3).double().eval()
    parameters = dict(direct.named_parameters())
    sums = {name: torch.zeros_like(parameters[name]) for name in names}
    for row in range(12):
        batch = rows[[row]]
        direct.zero_grad()
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
        logits = direct(**inputs).logits
        if about.is_regression:
            likelihood = -((logits[0, 0] - batch["labels"][0]) ** 2) / 2
        else:
            likelihood = torch.log(torch.softmax(logits[0], dim=0)[batch["labels"][0]])
        likelihood.backward()
        for name in names:
            sums[name] += parameters[name].grad ** 2
    expected = {name: total / 12 for name, total in sums.items()}

    for name in names:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-3, atol=1e-9)
    subset = parse_subset("fisher:5" if scope == "tensor" else "fisher:3%", scope)
    chosen = choose_weights(subset, {name: parameters[name] for name in names}, scores=found)
    ranks = {name: value.flatten().tolist() for name, value in expected.items()}
    assert as_lists(chosen) == slowly(ranks, subset)


def test_the_sample_of_examples_is_seeded_and_bounded() -> None:
    assert sample_rows(10, seed=1) == list(range(10))
    assert len(set(sample_rows(5000, seed=1))) == EXAMPLES
    assert sample_rows(5000, seed=1) == sample_rows(5000, seed=1) != sample_rows(5000, seed=2)


# That nothing else moves


@st.composite
def trainings(draw: st.DrawFn) -> tuple[list[int], dict[str, list[int]], str, dict[str, float], int, int]:
    """Sizes of a network's layers, places that move, an optimiser with its settings, batches per step, a seed."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    shapes = {}
    for number, (before, after) in enumerate(pairwise(sizes)):
        shapes |= {f"{2 * number}.weight": before * after, f"{2 * number}.bias": after}
    places = {
        name: sorted(draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count)))
        for name, count in shapes.items()
        if draw(st.booleans())
    }
    kind = draw(st.sampled_from(("AdamW", "Adam", "SGD", "RMSprop", "NAdam")))
    options = {"lr": draw(st.sampled_from((1e-3, 0.1))), "weight_decay": draw(st.sampled_from((0.0, 0.3)))}
    if kind in ("SGD", "RMSprop"):
        options["momentum"] = draw(st.sampled_from((0.0, 0.9)))
    return sizes, places, kind, options, draw(st.integers(1, 3)), draw(st.integers(0, 99))


def network(sizes: list[int], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers)


@settings(deadline=None)
@given(trainings())
def test_outside_the_mask_nothing_moves_and_inside_it_all_goes_as_without_one(
    training: tuple[list[int], dict[str, list[int]], str, dict[str, float], int, int],
) -> None:
    sizes, places, kind, options, batches, seed = training
    indices = {name: torch.tensor(found) for name, found in places.items()}
    model, whole = network(sizes, seed), network(sizes, seed)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    parts = SparseParameters(model, indices)
    optimizer_class = getattr(torch.optim, kind)
    optimizer = optimizer_class([parts.parameter(n, p) for n, p in model.named_parameters()], **options)
    parts.join(optimizer)
    reference = optimizer_class(whole.parameters(), **options)
    masks = {name: torch.ones_like(value, dtype=torch.bool) for name, value in before.items()}
    for name, index in indices.items():
        masks[name] = torch.zeros_like(masks[name])
        masks[name].view(-1)[index] = True

    for _ in range(4):
        optimizer.zero_grad()
        reference.zero_grad()
        for _ in range(batches):
            inputs = torch.randn(3, sizes[0])
            with parts.gathering():
                model(inputs).square().sum().backward()
            assert all(p.grad is None for n, p in model.named_parameters() if n in indices)
            whole(inputs).square().sum().backward()
        optimizer.step()
        reference.step()
        with torch.no_grad():  # the slow way: train everything, put back what is outside
            for name, parameter in whole.named_parameters():
                parameter.copy_(torch.where(masks[name], parameter, before[name]))

    after = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter[~masks[name]], before[name][~masks[name]])
        torch.testing.assert_close(parameter, after[name], rtol=1e-4, atol=1e-6)
    state = sum(value.numel() for one in optimizer.state.values() for value in one.values() if value.dim())
    full = sum(value.numel() for one in reference.state.values() for value in one.values() if value.dim())
    moving, everything = sum(int(mask.sum()) for mask in masks.values()), sum(p.numel() for p in whole.parameters())
    assert state * everything == full * moving


def pretrained(run: Run) -> nn.Module:
    backbone = run.record["config"]["backbone"]
    source = find_backbone(backbone["path"], config=backbone["config"])
    return load_model(source, TASKS[run.record["task"]], run.record["seed"])


@pytest.mark.parametrize(
    ("subset", "scope", "extra"),
    [
        ("top:1%", "tensor", ["module=full"]),
        ("top:50", "selection", ["module=full", "trainer.accumulate_grad_batches=2"]),
        ("bottom:3", "tensor", ["module=layernorm", "trainer.precision=bf16-mixed"]),
        ("outlier:2.5", "tensor", ["module=ffn", "trainer.gradient_clip_val=0.01"]),
        ("random:10%", "selection", ["module=[query,bias]", "task=stsb"]),
        ("fisher:4", "tensor", ["module=attention", "layers=1"]),
        ("fisher:1%", "selection", ["module=full", "task=mnli"]),
        ("not:top:90%", "tensor", ["module=[query,layernorm]"]),
        ("dims:3+17", "tensor", ["module=full"]),
    ],
)
def test_a_run_moves_its_subset_and_the_head_and_leaves_the_rest_bit_for_bit(
    train: Train, subset: str, scope: str, extra: list[str]
) -> None:
    optimizers: list[torch.optim.Optimizer] = []

    def look(trainer: Any, classifier: Any, optimizer: torch.optim.Optimizer) -> None:
        optimizers.append(optimizer)

    steep = ["optim.lr=0.05", "optim.weight_decay=0.5", "keep_checkpoint=true"]
    run = train(f"subset={subset}", f"subset_scope={scope}", *steep, *extra, hooks(on_before_optimizer_step=look))

    before, record = dict(pretrained(run).named_parameters()), run.record
    values, description = read_delta(run.path)
    places = {name.removesuffix(":indices"): v.long() for name, v in values.items() if name.endswith(":indices")}
    after = dict(ptuning.load(run.path)[0].named_parameters())
    moved = 0
    for name, parameter in before.items():
        changed = (parameter != after[name]).flatten().nonzero()[:, 0]
        if name in record["selection"]:
            assert set(changed.tolist()) <= set(places[name].tolist())
            assert values[f"{name}:indices"].dtype == torch.int32
            assert torch.equal(after[name].view(-1)[places[name]], values[f"{name}:values"])
            moved += len(changed)
        elif not name.startswith("classifier"):
            assert len(changed) == 0
    count = sum(map(len, places.values()))
    assert set(places) == set(record["selection"])
    assert 0 < moved <= count == record["trainable_parameters"]
    assert record["trainable_percent"] == pytest.approx(100 * count / record["total_parameters"])
    scoped = {"subset": subset} | ({} if subset.startswith(("outlier", "dims")) else {"subset_scope": scope})
    for said in (record, record["recipe"], description.content):
        assert {key: said[key] for key in said if key.startswith("subset")} == scoped

    # The optimiser knows of nothing else, and decay goes by the whole tensor's dimensions.
    state = optimizers[-1].state
    moments = sum(value.numel() for one in state.values() for value in one.values() if value.dim())
    assert moments == 2 * (count + record["head_parameters"])
    decaying = sum(p.numel() for g in optimizers[-1].param_groups if g["weight_decay"] for p in g["params"])
    head = before["classifier.weight"].numel()
    assert decaying == head + sum(len(index) for name, index in places.items() if before[name].dim() >= 2)
    checkpoint = torch.load(run.path / "last.ckpt", weights_only=True)
    assert sum(value.numel() for value in checkpoint["state_dict"].values()) == count + record["head_parameters"]


@pytest.mark.slow
def test_a_subset_of_everything_trains_as_all_does(train: Train) -> None:
    whole, parts = train("module=query"), train("module=query", "subset=top:100%")
    assert parts.path != whole.path
    for name, parameter in ptuning.load(whole.path)[0].named_parameters():
        torch.testing.assert_close(dict(ptuning.load(parts.path)[0].named_parameters())[name], parameter)


@pytest.mark.parametrize(
    ("step", "extra"),
    [
        pytest.param(5, (), marks=pytest.mark.slow),
        (2, ("trainer.accumulate_grad_batches=2",)),
    ],
)
def test_a_subset_run_that_was_stopped_ends_as_an_undisturbed_one_with_the_weights_it_chose_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, extra: tuple[str, ...]
) -> None:
    command = (*TINY, "module=attention", "subset=fisher:2%", "optim.lr=0.01", "keep_checkpoint=true", *extra)
    whole = run_in(tmp_path / "whole", *command)
    command = (*command, ctrl_c_at(step))
    with stopped():
        run_in(tmp_path / "stopped", *command)
    with monkeypatch.context() as patch:
        patch.setattr("ptuning.training.trainable.fisher_information", None)  # not asked again
        resumed = run_in(tmp_path / "stopped", *command)
    expected, found = read_delta(whole.path)[0], read_delta(resumed.path)[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    last = [torch.load(run.path / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


@pytest.mark.slow
def test_a_worker_that_ran_others_before_gives_what_a_cold_one_gives(tmp_path: Path) -> None:
    def job(runs_dir: str, warm: Session, *overrides: str) -> dict[str, Tensor]:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = hydra_compose("config", [*TINY, *overrides, f"runs_dir={tmp_path / runs_dir}"])
        return read_delta(execute(cfg, warm).folder)[0]

    commands = ("module=query", "subset=top:5"), ("module=[query,ffn]", "subset=fisher:1%"), ("module=query",)
    expected = [job("cold", Session(), *one) for one in commands]
    warm = Session()
    for one, cold in zip(commands, expected, strict=True):
        found = job("warm", warm, *one)
        assert cold.keys() == found.keys()
        assert all(torch.equal(value, found[name]) for name, value in cold.items())


# Where they show


def test_the_recipe_of_a_run_that_moves_all_knows_nothing_of_subsets() -> None:
    plain = plan("module=query").recipe()
    assert plain["subset"] == "all"
    assert "subset_scope" not in plain
    assert folder("module=query", "subset_scope=selection") == folder("module=query")
    assert folder("module=frozen", "subset=top:1%") == folder("module=frozen")
    assert folder("module=query", "subset=outlier:3", "subset_scope=selection") == folder(
        "module=query", "subset=outlier:3.0"
    )


def test_a_run_folder_says_which_subset_moves() -> None:
    one = folder("module=query", "subset=top:01.0%", "layers=1")
    assert one == folder("module=query", "subset=top:1%", "layers=1")
    assert one.path.parts[-3:-1] == ("query", "1,top=1%")
    assert one.name == "rte/query/1,top=1%/seed=1"
    across = folder("module=query", "subset=top:1%", "layers=1", "subset_scope=selection")
    assert across.path.parts[-3:-1] == ("query", "1,top=1%,selection")
    assert across.key != one.key
    rest = folder("module=query", "subset=not:top:1%", "subset_scope=selection")
    assert rest.path.parts[-3:-1] == ("query", "all,not=top=1%,selection")
    assert folder("module=query", "subset=dims:7+3").path.parts[-3:-1] == ("query", "all,dims=3+7")


def test_a_readers_own_choice_is_narrowed_too(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "narrow_choice.py").write_text(
        "from ptuning import SelectionCallback\n"
        "class Poolers(SelectionCallback):\n"
        "    def __init__(self, module, layers, patterns):\n"
        "        pass\n"
        "    def choose(self, model):\n"
        "        return [name for name, _ in model.named_parameters() if 'pooler' in name]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = "callbacks.selection._target_=narrow_choice.Poolers"
    run = train(own, "subset=random:7", "trainer.max_epochs=1")
    assert run.record["selection"] == ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    assert run.record["trainable_parameters"] == 14
    with pytest.raises(SelectionError, match=r"has 32: at most top:32"):
        train(own, "subset=top:1000", "trainer.max_epochs=1")


@pytest.mark.slow
def test_tables_have_a_row_per_subset(train: Train, tmp_path: Path) -> None:
    for typed in ("all", "top:10", "top:9", "top:10 subset_scope=selection", "not:top:9", "dims:1+30"):
        extra = f"subset={typed}".split()
        train("module=query", "trainer.max_epochs=1", "data.sizes.train=32", *extra)
    cells = summarise(collect(tmp_path / "runs").runs)
    assert cells["subset"].tolist() == [
        *("all", "dims:1+30", "top:9", "not:top:9", "top:10", "top:10 of the selection"),
    ]
    assert cells["trainable_parameters"].tolist() == [2112, 128, 36, 2076, 40, 10]
    assert set(cells["note"]) == {""}
    modules, parts = module_tables(cells)
    assert [row[1] for row in parts.rows] == [
        *("all", "all, dims:1+30", "all, top:9", "all, not:top:9", "all, top:10", "all, top:10 of the selection"),
    ]
    assert parts.title == "tiny, chosen layers or weights"
    assert "| query | all, top:9 |" in to_markdown(parts)
    assert len(modules.rows) == 1
