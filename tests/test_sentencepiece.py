"""DeBERTa's tokenizer: a real SentencePiece model read through our door, and what is said where it cannot be."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from ptuning.backbones.load import load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.errors import BackboneError
from support.running import run_in

LINES = ["The cat sat on the mat.", "A dog ran through the park!", "Who is there?", "It snows on Friday."]


def deberta(folder: Path, words: int) -> Path:
    """A tiny DeBERTa-v2 of random weights, as it lies on the Hub, without a tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "deberta-v2",
        vocab_size=words,
        max_position_embeddings=64,
        type_vocab_size=0,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        **sizes,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"vocab_type": "spm", "do_lower_case": false}')
    return folder


def test_a_tokenizer_that_comes_as_a_sentencepiece_file_is_read_and_trains(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="the extra `sentencepiece` is not installed")
    (tmp_path / "text").write_text("\n".join(20 * LINES))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        minloglevel=2,
    )
    folder = deberta(tmp_path / "my_deberta", words=64)
    (tmp_path / "spm.model").rename(folder / "spm.model")
    tokenizer = load_tokenizer(find_backbone(str(folder)))
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    ids = tokenizer(LINES[0], LINES[2])["input_ids"]
    assert ids == [1, *own.encode(LINES[0]), 2, *own.encode(LINES[2]), 2]
    run = run_in(
        tmp_path / "runs",
        f"backbone={folder}",
        "module=relative_positions",
        "data=synthetic",
        "data.sizes.train=16",
        "data.sizes.validation=8",
        "task.max_length=48",
        "trainer.max_steps=1",
        "trainer.accelerator=cpu",
        "logger=none",
    )
    assert run.record["status"] == "finished"
    assert run.record["last"]["step"] == 1


@pytest.mark.skipif(importlib.util.find_spec("tiktoken") is not None, reason="tiktoken would read the file")
def test_a_file_that_cannot_be_read_names_the_extra_or_says_that_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = deberta(tmp_path, words=64)
    (folder / "spm.model").write_bytes(b"nothing")
    if importlib.util.find_spec("sentencepiece") is not None:
        with pytest.raises(BackboneError, match="cannot be read as one"):
            load_tokenizer(find_backbone(str(folder)))
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(BackboneError, match=r"pip install 'ptuning\[sentencepiece\]'"):
        load_tokenizer(find_backbone(str(folder)))
