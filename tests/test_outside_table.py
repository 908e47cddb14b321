"""Families outside the table of architectures: what is refused, and that the rest computes what its model means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

import ptuning
from ptuning.acceleration import accelerate
from ptuning.backbones.load import (
    backbone_hash,
    draw_head,
    input_names,
    load_model,
    load_skeleton,
    load_tokenizer,
    usable_positions,
)
from ptuning.backbones.outside_table import check_padding
from ptuning.backbones.source import find_backbone
from ptuning.config.compose import compose
from ptuning.data.table import Table
from ptuning.deltas.export import export
from ptuning.deltas.loading import load_run
from ptuning.deltas.predictor import Predictor
from ptuning.errors import BackboneError
from ptuning.selection.parameters import split_head
from ptuning.tasks.glue import TASKS
from ptuning.training.plan import make_plan
from support import families
from support.families import ANY_FAMILY, QUICK, every_variant, source
from support.running import run_in
from support.tokenizers import fresh_tokenizer

RTE = TASKS["rte"]
BERT_LIKE = {**families.SIZES, "num_hidden_layers": 2, "max_position_embeddings": 128}
SIZES: dict[str, dict[str, Any]] = {
    "bert": BERT_LIKE,
    "big_bird": {**BERT_LIKE, "block_size": 4, "num_random_blocks": 1},
    "convbert": {**BERT_LIKE, "embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3},
    "fnet": {key: value for key, value in BERT_LIKE.items() if key != "num_attention_heads"},
    "funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    "ibert": {**BERT_LIKE, "pad_token_id": 1},
    "modernbert-decoder": BERT_LIKE,
    "nystromformer": {**BERT_LIKE, "num_landmarks": 4, "segment_means_seq_len": 128},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {**BERT_LIKE, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "perceiver": {
        **{"num_latents": 8, "d_latents": 32, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 1},
        **{"num_self_attention_heads": 4, "num_cross_attention_heads": 4, "max_position_embeddings": 128},
    },
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "yoso": BERT_LIKE,
}
CUSTOM = (*ANY_FAMILY[1:], *QUICK, "task=rte", "module=custom", "module.patterns=[.]")


def saved(family: str, folder: Path, **values: Any) -> Path:
    """Save a tiny model of a family, with weights large enough that texts lie apart, and its tokenizer."""
    tokenizer = fresh_tokenizer()
    special = {
        f"{name}_token_id": number
        for name, number in {"pad": 0, "bos": 2, "cls": 2, "eos": 3, "sep": 3, "decoder_start": 0}.items()
    }
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](vocab_size=len(tokenizer), **{**special, **SIZES[family]})
    kind = AutoModelForCausalLM if family == "modernbert-decoder" else AutoModelForSequenceClassification
    model = kind.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model.save_pretrained(folder / family)
    tokenizer.save_pretrained(folder / family)
    if values:
        file = folder / family / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder / family


def loaded(folder: Path) -> nn.Module:
    return load_model(find_backbone(str(folder)), RTE, seed=1).eval()


def logits(model: nn.Module, folder: Path, *texts: str) -> torch.Tensor:
    batch = load_tokenizer(find_backbone(str(folder)))(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model(**{name: batch[name] for name in input_names(model)}).logits
    return found


# What is refused


@pytest.mark.parametrize("family", ["xlnet", "yoso"])
def test_a_model_whose_answer_depends_on_the_padding_beside_it_does_not_train(family: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"whose answer to a text depends on the padding beside it: a logit moves"):
        run_in(tmp_path / "runs", f"backbone={saved(family, tmp_path)}", *CUSTOM)


@pytest.mark.parametrize(
    ("family", "told"),
    [("fnet", "reads no attention mask, so that its answer to a text"), ("perceiver", "inside its base model")],
)
def test_a_model_without_a_mask_or_a_head_is_refused_before_anything_is_loaded(
    family: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match=told):
        make_plan(compose([f"backbone={saved(family, tmp_path)}", *CUSTOM]))


def test_a_model_that_cannot_compute_short_texts_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"cannot compute a batch of short texts: RuntimeError: shape"):
        run_in(tmp_path / "runs", f"backbone={saved('nystromformer', tmp_path)}", *CUSTOM)


@pytest.mark.parametrize("family", ["convbert", "t5", "opt", "funnel", "big_bird"])
def test_a_model_that_masks_padding_passes_and_stays_as_it_was(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path)
    model, before = loaded(folder).train(), torch.get_rng_state()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    check_padding(model, load_tokenizer(find_backbone(str(folder))), family)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())


def test_a_model_without_one_width_is_accelerated(tmp_path: Path) -> None:
    assert accelerate(loaded(saved("perceiver", tmp_path))).inputs == ("input_ids", "attention_mask")


# What is computed


def test_big_bird_answers_a_long_text_the_same_before_and_after_a_short_one(tmp_path: Path) -> None:
    folder = saved("big_bird", tmp_path)
    model, long = loaded(folder), "it met . " * 12
    before = logits(model, folder, long)
    alone = logits(model, folder, "it met .")
    assert torch.equal(logits(model, folder, long), before)
    torch.testing.assert_close(logits(model, folder, "it met .", long)[:1], alone, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_big_bird_answers_the_same_by_the_code_on_a_peft_adapters_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(tmp_path / "runs", f"backbone={saved('big_bird', tmp_path)}", *CUSTOM)
    export(load_run(run.path), "peft", tmp_path / "adapter")
    code = (tmp_path / "adapter" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert (
        names["backbone"].config.attention_type == "original_full"
    )  # by the other one, logits of these sizes are near
    model, tokenizer = ptuning.load(run.path)
    batch = tokenizer(["it met . " * 12], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(names["model"](**batch).logits, model(**batch).logits, atol=1e-5, rtol=1e-4)


def test_token_types_go_where_there_is_a_table_of_them_though_the_configuration_does_not_say_so(tmp_path: Path) -> None:
    assert "token_type_ids" in input_names(load_skeleton(find_backbone(str(saved("xlnet", tmp_path)))))
    assert "token_type_ids" not in input_names(loaded(saved("openai-gpt", tmp_path)))  # it would take them for words
    run = run_in(tmp_path / "runs", f"backbone={saved('funnel', tmp_path)}", *CUSTOM)
    model, tokenizer = ptuning.load(run.path)
    batch = tokenizer(["it met ."], ["it did not ."], return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        as_loaded, one_type = model(**batch).logits, model(**batch | {"token_type_ids": 0 * batch["input_ids"]}).logits
    predicted = Predictor(load_run(run.path)).answer(Table((["it met ."], ["it did not ."]), None, "here"))
    assert torch.equal(predicted, as_loaded)
    assert not torch.equal(one_type, as_loaded)


def test_rows_as_long_as_there_are_positions_run_where_the_table_of_positions_is_quantised(tmp_path: Path) -> None:
    model = loaded(saved("ibert", tmp_path))
    longest = usable_positions(model)
    assert longest == 126
    ids = torch.full((1, longest), 9)
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()


def test_a_folder_that_asks_for_tuples_is_read_by_name(tmp_path: Path) -> None:
    plain = loaded(saved("bert", tmp_path))
    folder = saved("bert", tmp_path / "tuples", return_dict=False)
    model = loaded(folder)
    assert backbone_hash(model) == backbone_hash(plain)
    assert torch.equal(logits(model, folder, "it met ."), logits(plain, folder, "it met ."))


# What is drawn


def test_a_norm_in_the_head_begins_with_a_gain_of_one(tmp_path: Path) -> None:
    model = loaded(saved("modernbert-decoder", tmp_path))
    assert torch.equal(model.head.norm.weight, torch.ones(32))
    first = model.classifier.weight.clone()
    with torch.no_grad():
        model.head.norm.weight.fill_(7.0)
    draw_head(model, seed=2)
    assert torch.equal(model.head.norm.weight, torch.ones(32))
    assert not torch.equal(model.classifier.weight, first)


@every_variant
def test_no_family_of_the_table_has_a_vector_in_its_head_but_biases(variant: str) -> None:
    """Heads of earlier versions drew such a vector at random, so that a run would not be the same any more."""
    head, _ = split_head(load_skeleton(source(variant)))
    assert all(parameter.dim() == 2 or name.endswith("bias") for name, parameter in head.items())
