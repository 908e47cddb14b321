"""Decoders: the token that their heads read, training as Hugging Face made them, and what they cannot take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import ptuning
from ptuning.acceleration import accelerate, none
from ptuning.backbones.load import load_config, load_model, load_skeleton, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.config.compose import compose
from ptuning.data.table import Table
from ptuning.data.tokenize import tokenize
from ptuning.deltas.export import export
from ptuning.deltas.loading import load_run
from ptuning.errors import BackboneError, ConfigError
from ptuning.inference.yardsticks import measure_yardsticks
from ptuning.selection.architectures import ARCHITECTURES
from ptuning.selection.dimensions import hidden_axes
from ptuning.selection.parameters import count_modules
from ptuning.selection.select import select
from ptuning.training.plan import make_plan
from support.families import ANY_FAMILY, QUICK, RTE, TEXTS, batch, rows, source, tiny, typed
from support.learning import assert_same_step, learnt
from support.running import run_in
from support.tokenizers import fresh_tokenizer

DECODERS = tuple(family for family in TEXTS if ARCHITECTURES[family].reads_last)
decoders = pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=[] if family in ("gpt2", "qwen3") else pytest.mark.slow) for family in DECODERS],
)


def published(family: str, folder: Path, pad: str | None, end: str | None, **config: Any) -> Path:
    """Return a folder as decoders are published: a language model, a tokenizer that pads on the left, if at all."""
    tokenizer: PreTrainedTokenizerFast = fresh_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None  # nothing begins or ends a text
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side = pad, end, "left"
    described = load_config(source(family))
    described.pad_token_id, described.eos_token_id = None, 3
    described.update(config)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(described).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TEXT = ("the committee met .", "it did not , and so on and on .", "the", "nobody said that it had met .")


# The token that the head reads


@pytest.mark.parametrize(
    ("family", "pad", "config"),
    [
        ("gpt2", None, {}),
        pytest.param("llama", None, {"pad_token_id": 0}, marks=pytest.mark.slow),
        ("qwen3", "[PAD]", {}),
    ],
)
def test_the_code_on_a_peft_adapters_card_pads_a_decoder_as_published(
    family: str, pad: str | None, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(family, tmp_path / "model", pad, "[SEP]", **config)
    run = run_in(tmp_path / "runs", *ANY_FAMILY[1:], f"backbone={folder}", *QUICK, "task=sst2", "module=layernorm")
    export(load_run(run.path), "peft", tmp_path / "adapter")
    code = (tmp_path / "adapter" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    model, tokenizer = ptuning.load(run.path)
    with torch.no_grad():
        found, expected = (
            one(**padder(list(TEXT), padding=True, truncation=True, return_tensors="pt")).logits
            for one, padder in ((names["model"], names["tokenizer"]), (model, tokenizer))
        )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@decoders
@pytest.mark.parametrize(
    ("pad", "end", "config"),
    [
        (None, "[SEP]", {}),  # GPT-2, Llama 3, Mistral: none at all
        ("[PAD]", "[SEP]", {}),  # Qwen3: the tokenizer has one that is not the end token, the configuration has none
        (None, "[SEP]", {"pad_token_id": 0}),  # Llama 2: the configuration has one that the tokenizer does not use
    ],
)
def test_logits_are_hugging_faces_own_whatever_the_padding_token_is(
    family: str, pad: str | None, end: str, config: dict[str, Any], tmp_path: Path
) -> None:
    folder = published(family, tmp_path / "model", pad, end, **config)
    ref = find_backbone(str(folder))
    model, tokenizer = load_model(ref, RTE, seed=1).eval(), load_tokenizer(ref)
    own: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    own.load_state_dict(model.state_dict())
    split = tokenize(Table((TEXT,), None, "here"), tokenizer, 60, None)[range(len(TEXT))]
    given = {name: split[name] for name in ("input_ids", "attention_mask")}
    padded = tokenizer(list(TEXT), padding=True, return_tensors="pt")
    assert torch.equal(padded["input_ids"], given["input_ids"])  # on the right
    with torch.no_grad():
        found = model(**given).logits
        as_published = AutoTokenizer.from_pretrained(folder)
        alone = [own(as_published(text, return_tensors="pt")["input_ids"]).logits for text in TEXT]
        torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=1e-4)
        own.config.pad_token_id = tokenizer.pad_token_id
        assert torch.equal(own(**given).logits, found)
        torch.testing.assert_close(none(model).evaluation_logits(given), found)
    assert found.unique(dim=0).shape[0] == len(TEXT)


def test_a_decoder_without_any_token_to_pad_with_is_one_sentence(tmp_path: Path) -> None:
    ref = find_backbone(str(published("llama", tmp_path, None, None)))
    with pytest.raises(BackboneError, match=r"neither a padding token nor an end token.*tokenizer\.pad_token"):
        load_model(ref, RTE, seed=0)


def test_a_token_for_images_needs_no_row_and_any_other_does(tmp_path: Path) -> None:
    folder = published("gemma3_text", tmp_path, "[PAD]", "[SEP]")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    load_tokenizer(find_backbone(str(folder)))
    tokenizer.add_tokens(["[ENTITY]"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(BackboneError, match=r"1 of the .*ENTITY"):
        load_tokenizer(find_backbone(str(folder)))


@pytest.mark.parametrize(
    ("family", "buffer"),
    [("gpt2", "transformer.h.1.attn.bias"), ("llama", "model.layers.1.self_attn.rotary_emb.inv_freq")],
)
def test_buffers_of_old_checkpoints_are_passed_over(family: str, buffer: str, tmp_path: Path) -> None:
    file = published(family, tmp_path, "[PAD]", "[SEP]") / "model.safetensors"
    save_file({**load_file(file), buffer: torch.ones(4)}, file, metadata={"format": "pt"})
    load_model(find_backbone(str(tmp_path)), RTE, seed=0)


# Training as Hugging Face made it


@decoders
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_loss_and_gradients_are_the_bits_of_the_plain_forward(family: str, device: str) -> None:
    plain, model = tiny(family).eval(), tiny(family).eval()
    given = batch(model)
    own = plain(**rows(plain), labels=given["labels"])
    own.loss.backward()
    found = learnt(accelerate(model, device), given)
    assert torch.equal(found["loss"], own.loss.detach())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(found[name], parameter.grad), name


def test_with_dropout_a_step_is_the_plain_one_too() -> None:
    plain, model = tiny("gpt2").train(), tiny("gpt2").train()
    torch.manual_seed(3)
    expected = learnt(none(plain), batch(plain))
    torch.manual_seed(3)
    assert_same_step(learnt(accelerate(model, "cpu"), batch(model)), expected)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("frozen_prefix=cache", r"has to know the blocks of a GPT2.*albert\).*frozen_prefix=live"),
        ("trainer.compile=true", r"not shown to give a GPT2.*trainer\.compile=auto"),
        ("optim.head=exact", "takes a head of one linear layer"),
    ],
)
def test_what_was_not_shown_equal_is_one_sentence(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_plan(compose([*ANY_FAMILY, *typed("gpt2"), "module=frozen", override]))


@pytest.mark.slow
def test_the_probe_of_a_decoder_reads_what_its_head_reads(tmp_path: Path) -> None:
    overrides = [*ANY_FAMILY, *QUICK[:2], "task=sst2", *typed("gpt2"), "module=frozen", f"runs_dir={tmp_path}"]
    found = {one.record.module: one.record for one in measure_yardsticks(compose(overrides))}
    assert found["probe_cls"].score != found["constant"].score  # the first token is [CLS], the same in every row


# What its modules are


def by_hand(family: str) -> dict[str, int]:
    """Return module → weights in all blocks, from SIZES: 3 blocks, hidden size 32, feed-forward half of 64."""
    words, biases = load_config(source(family)).vocab_size, family in ("gpt2", "llama")
    heads, keys, width = (4, 2, 16) if family == "qwen3" else (4, 4, 8)

    def linear(inside: int, outside: int) -> int:
        return 3 * (inside * outside + (outside if biases else 0))

    if family == "gpt2":
        return {
            "query_key_value": linear(32, 96),
            "attention_output": linear(32, 32),
            "attention_layernorm": 3 * 64,
            "intermediate": linear(32, 64),
            "output": linear(64, 32),
            "output_layernorm": 3 * 64,
            "embeddings": (words + 64) * 32,
            "final_layernorm": 64,
        }
    norms = 2 if family == "gemma3_text" else 1
    of_heads = {"query_norm": 3 * width, "key_norm": 3 * width} if family in ("qwen3", "gemma3_text") else {}
    return {
        "query": linear(32, heads * width),
        "key": linear(32, keys * width),
        "value": linear(32, keys * width),
        "attention_output": linear(heads * width, 32),
        "attention_layernorm": norms * 3 * 32,
        "intermediate": 2 * linear(32, 64),
        "output": linear(64, 32),
        "output_layernorm": norms * 3 * 32,
        **of_heads,
        "embeddings": words * 32,
        "final_layernorm": 32,
    }


@decoders
def test_counts_are_those_computed_by_hand(family: str) -> None:
    model = load_skeleton(source(family))
    counts = {module: sum(per_layer.values()) for module, per_layer in count_modules(model).items()}
    assert counts == by_hand(family)
    assert select(model, "attention").trainable_parameters == sum(
        counts.get(module, 0)
        for module in ("query_key_value", "query", "key", "value", "query_norm", "key_norm", "attention_output")
    )
    chosen = select(model, "frozen")
    assert (chosen.head_names, chosen.head_parameters) == (("score.weight",), 64)
    language: nn.Module
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(load_config(source(family)))
    tied = language.config.tie_word_embeddings
    assert select(language, "full").trainable_parameters == sum(counts.values())
    assert select(language, "frozen").head_names == (() if tied else ("lm_head.weight",))
    assert select(language, "embeddings").trainable_parameters == counts["embeddings"]


@decoders
def test_dimensions_of_the_hidden_states_lie_where_the_blocks_read_and_write_them(family: str) -> None:
    model: Any = tiny(family).eval()
    axes = hidden_axes(model, select(model, "full").names)
    given, place = rows(model), 5
    parameters = dict(model.named_parameters())
    read = {"query_key_value", "query", "key", "value", "intermediate"}
    located = {name: ARCHITECTURES[family].locate(name.partition(".")[2]) for name in axes}
    with torch.no_grad():
        for name, axis in axes.items():  # nothing is written to, or read from, this dimension any more
            if located[name][0] in read | {"attention_output", "output", "embeddings"}:
                parameters[name].index_fill_(axis, torch.tensor(place), 0.0)
        states = model.base_model(**given, output_hidden_states=True).hidden_states
        assert all((one[..., place] == 0).all() for one in states[:-1])
        for name in axes:  # what is read has another value there
            if located[name][0] in ("attention_layernorm", "output_layernorm"):
                parameters[name][place] = 7.0
        again = model.base_model(**given, output_hidden_states=True).hidden_states
    assert all(torch.equal(one, other) for one, other in zip(states[:-1], again[:-1], strict=True))
    widths = {"attention_output", "output", "embeddings", "attention_layernorm", "output_layernorm", "final_layernorm"}
    assert {located[name][0] for name in axes} == widths | (read & set(ARCHITECTURES[family].elementary))
    assert all(parameters[name].shape[axis] == 32 for name, axis in axes.items())
