"""Dropout masks are those of the seed: with a compiler and without, on any processor."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptuning.acceleration import accelerate, native
from ptuning.acceleration.masks import keep_mask, row_masks
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.tasks.glue import TASKS
from support.families import SIZES, VARIANTS, batch, encoder_variants
from support.learning import assert_same_step, learnt
from support.running import needs_compiler

SHORT = settings(deadline=None, max_examples=20, derandomize=True)
SEEDS = st.integers(0, 2**64 - 1)


def test_masks_of_a_seed_are_these() -> None:
    kept = (keep_mask((40_000,), 20_000, 7) > 0).long()
    assert kept[:24].tolist() == [1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert int((kept * torch.arange(40_000)).sum()) == 553_159_024


@needs_compiler
@SHORT
@given(st.integers(1, 70_000), st.integers(0, 65_535), SEEDS)
def test_masks_of_numbers_are_the_same_without_a_compiler(size: int, dropped: int, seed: int) -> None:
    assert torch.equal(native.drop(torch.ones(size), dropped, seed), keep_mask((size,), dropped, seed))


def test_masks_drawn_together_are_those_drawn_alone() -> None:
    shapes = [(3, 700), (2, 20_000), (5,), (40_000,), (3, 700)]
    alone = [keep_mask(shape, 20_000, seed) for seed, shape in enumerate(shapes)]
    together = [keep_mask(shape, 20_000, seed, range(seed + 1, seed + 4)) for seed, shape in enumerate(shapes)]
    assert all(map(torch.equal, together, alone))


@needs_compiler
@SHORT
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 60_000), SEEDS)
def test_masks_of_attention_are_the_same_without_a_compiler(
    lengths: list[int], heads: int, dropped: int, seed: int
) -> None:
    width, tokens = max(lengths), sum(lengths)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    even = torch.zeros(tokens, heads, width)
    one_hot = torch.cat([torch.eye(width)[:length] for length in lengths])[:, None].repeat(1, heads, 1)
    found = native.attend(even, even, one_hot, cu_seqlens, 1.0, dropped, seed)  # even weights, each at its key
    for row, mask in enumerate(row_masks(lengths, heads, dropped, seed)):
        length = lengths[row]
        weights = found[cu_seqlens[row] : cu_seqlens[row + 1], :, :length].transpose(0, 1)
        torch.testing.assert_close(weights * length, mask[:, :length, :length])


@needs_compiler
@encoder_variants
def test_a_step_is_the_same_to_rounding_without_a_compiler(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})

    def step() -> dict[str, torch.Tensor]:
        model = load_model(ref, TASKS["rte"], 1, attention_dropout=0.2).train()
        torch.manual_seed(3)
        return learnt(accelerate(model), batch(model))

    in_c = step()
    monkeypatch.setenv(native.SWITCH, "0")
    assert_same_step(step(), in_c)


@needs_compiler
@pytest.mark.parametrize("vectors", ["-D__AVX512F__", "-U__AVX512F__ -U__AVX__"])
def test_masks_are_the_same_whatever_the_width_of_vectors(
    vectors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nexec "{shutil.which("cc")}" "$@" -O0 {vectors}\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path))
    native.library.cache_clear()
    try:
        test_masks_of_numbers_are_the_same_without_a_compiler()
        test_masks_of_attention_are_the_same_without_a_compiler()
    finally:
        native.library.cache_clear()
