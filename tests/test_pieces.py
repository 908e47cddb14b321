"""A batch on a CPU in pieces, several side by side: what the whole gives, and the same bits every time."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ptuning.acceleration.micro_batches import even_pieces, loss_in_pieces, tokens_of_a_piece
from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from support.families import SIZES, VARIANTS


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_batch_in_pieces_has_the_loss_and_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["mrpc"]
    source = SyntheticSource(task, {"train": 30, "validation": 10, "test": 10})
    backbone = find_backbone(
        "random:tiny", config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    )
    data = GlueDataModule(source, load_tokenizer(backbone))
    batch = data.split("train")[list(range(30))]
    found = []
    for tokens, threads in ((100, 1), (100, 2), (100, 3), (70, 8), (1, 2), (10_000, 2)):
        monkeypatch.setattr("ptuning.acceleration.micro_batches._TOKENS", tokens)
        torch.set_num_threads(threads)
        module = GlueClassifier(load_model(backbone, task, seed=1), task, Optimisation(lr=1e-3, head_lr=1e-3))
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        loss = module.train().training_loss(batch)
        (3 * loss).backward()
        assert torch.get_num_threads() == threads
        found.append((loss.detach(), [p.grad for p in module.parameters()]))
        module.zero_grad()
    torch.set_num_threads(1)
    module.loss(module(batch), batch["labels"]).backward()
    whole = [3 * parameter.grad for parameter in module.parameters()]
    for loss, gradients in found:
        torch.testing.assert_close(loss, found[-1][0])
        torch.testing.assert_close(gradients, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("native_or_torch")
@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_follow_from_the_seed_whatever_the_number_of_threads(variant: str) -> None:
    task, backbone = TASKS["rte"], find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})
    data = GlueDataModule(SyntheticSource(task, {"train": 24}), load_tokenizer(backbone), max_length=40)
    batch = data.split("train")[list(range(24))]
    module = GlueClassifier(load_model(backbone, task, 1, attention_dropout=0.3), task, Optimisation(1e-3, 1e-3))

    def step(threads: int, seed: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        module.zero_grad()
        loss = module.training_loss(batch)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)]

    first = step(2, 1)
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(step(2, 1), first, strict=True))
    torch.testing.assert_close(step(1, 1), first, rtol=1e-4, atol=1e-6)
    assert not torch.equal(step(2, 2)[0], first[0])


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_has_the_gradients_of_the_whole_batch(variant: str) -> None:
    task, backbone = TASKS["stsb"], find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})
    data = GlueDataModule(SyntheticSource(task, {"train": 20}), load_tokenizer(backbone), max_length=40)
    batch = data.split("train")[list(range(20))]
    module = GlueClassifier(load_model(backbone, task, 1), task, Optimisation(1e-3, 1e-3))
    torch.set_num_threads(2)
    found = []
    for loss in (module.training_loss(batch), module.loss(module(batch), batch["labels"])):
        module.zero_grad()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in module.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_a_model_whose_gradients_share_memory_gets_each_of_them() -> None:
    first, second = (torch.nn.Parameter(torch.full((3,), value)) for value in (1.0, 2.0))
    lengths = torch.arange(20, 0, -1)

    def share(rows: Tensor, longest: int) -> Tensor:
        return len(rows) * (first + second).sum()

    torch.set_num_threads(2)
    loss_in_pieces(share, lengths, [first, second], width=384, padded=False, in_threads=True).backward()
    assert torch.equal(first.grad, torch.full((3,), 20.0))
    assert torch.equal(second.grad, torch.full((3,), 20.0))


def test_pieces_of_wide_models_have_fewer_tokens_and_so_take_no_more_memory() -> None:
    assert [tokens_of_a_piece(width) for width in (32, 384, 768, 1024, 4096)] == [1500, 1500, 750, 562, 140]


@given(st.lists(st.integers(1, 128), min_size=1, max_size=70), st.integers(1, 2000), st.booleans())
def test_pieces_hold_every_row_once_and_none_could_be_made_smaller(
    lengths: list[int], tokens: int, padded: bool
) -> None:
    lengths.sort(reverse=True)

    def time_of(piece: list[int]) -> int:
        return len(piece) * piece[0] if padded else sum(piece)

    pieces = [lengths[rows] for rows in even_pieces(lengths, tokens, padded)]
    assert [length for piece in pieces for length in piece] == lengths
    allowed = min(len(lengths), 2 * math.ceil(sum(lengths) / (2 * tokens)))
    assert len(pieces) <= allowed
    largest = max(map(time_of, pieces))

    def needed(most: int) -> float:
        """Return how few pieces of less than ``most`` there can be, as each takes what it can of the rows left."""
        count, begin = 0, 0
        while begin < len(lengths):
            end = begin
            while end < len(lengths) and time_of(lengths[begin : end + 1]) < most:
                end += 1
            if end == begin:
                return math.inf
            count, begin = count + 1, end
        return count

    assert needed(largest) > allowed
