"""Loaded backbones: models with a fresh head, tokenizers, configurations, and properties of a model."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones import tokenizer_files
from ptuning.backbones.library_errors import CANNOT_BE, calm, library_errors
from ptuning.backbones.loaded_weights import check_loaded
from ptuning.backbones.padding import may_read_last_token, padding_id
from ptuning.backbones.pooling import set_pooling
from ptuning.backbones.random_init import random_config
from ptuning.backbones.size_limits import check_counts, check_memory
from ptuning.backbones.source import BackboneRef
from ptuning.backbones.weight_files import CONFIG, read_json
from ptuning.errors import BackboneError, in_one_line, nearest
from ptuning.selection.architectures import ARCHITECTURES
from ptuning.selection.parameters import split_head
from ptuning.selection.select import describe
from ptuning.tasks.glue import Task


def load_tokenizer(ref: BackboneRef) -> Any:
    """Return the fast tokenizer of a backbone; for random weights, one with the synthetic grammar's words.

    Raises
    ------
    BackboneError
        If there is none, it cannot be read, or it does not fit the backbone's embeddings.
    """
    if not ref.location:
        from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer

        return synthetic_tokenizer(ref.config.get("model_type", "bert"))
    from transformers import AutoTokenizer

    if ref.folder:
        tokenizer_files.check_files(ref.folder)
    tokenizer = _from_pretrained(AutoTokenizer, ref, "tokenizer")
    tokenizer_files.check_tokenizer(tokenizer, getattr(load_config(ref), "vocab_size", None), ref.location)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token  # a model of the GPT kind; load_config does the same
    tokenizer.padding_side = "right"  # as training pads; a decoder's tokenizer may come with the left
    return tokenizer


def load_model(
    ref: BackboneRef, task: Task, seed: int, attention_dropout: float | None = None, pooling: str = "cls"
) -> nn.Module:
    """Return ``AutoModelForSequenceClassification`` for ``task``: pretrained backbone, fresh seeded head, fp32.

    The head is drawn from a generator of its own (normal, the config's ``initializer_range``; zero bias), so that it
    depends on ``seed`` alone and not on what ran before. ``attention_dropout`` takes the place of the config's rate.
    ``pooling`` is what the head reads (:mod:`ptuning.backbones.pooling`).

    Raises
    ------
    BackboneError
        If the weights cannot be had, or are not those of the backbone that the configuration describes.
    """
    config = load_config(ref, task)
    check_memory(load_skeleton(ref), ref.location or "backbone.config")
    if attention_dropout is not None:
        setattr(config, attention_dropout_key(config), attention_dropout)
    with _drawing_alike():  # for random weights, and for what a checkpoint leaves out (a pooler)
        if ref.location:
            model, found = _pretrained_model(ref, config)
            check_loaded(model, found, ref)
        else:
            model = _from_config(config, ref)
    draw_head(model, seed)
    set_pooling(model, pooling)
    if may_read_last_token(model):
        model.config.pad_token_id = padding_id(load_tokenizer(ref), ref.location)
    return model  # type: ignore[no-any-return]


def missing_weights(ref: BackboneRef, task: Task) -> set[str]:
    """Return the names of the parameters that a backbone's checkpoint lacks; none for random weights."""
    if not ref.location:
        return set()
    with _drawing_alike():
        _, found = _pretrained_model(ref, load_config(ref, task))
    return set(found["missing_keys"])


_one_at_a_time = RLock()


@contextmanager
def _drawing_alike() -> Iterator[None]:
    """Within, random weights are the same ones at each time, in fp32.

    Threads take turns: the generator, the default type and what transformers sets while it loads are the process's.
    """
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def _pretrained_model(ref: BackboneRef, config: Any) -> Any:
    """Return (model, transformers' report on missing, unexpected and mismatched tensors), in fp32."""
    with calm():
        # A folder may hold a head for other labels, which is drawn anew; check_loaded looks at the backbone.
        return _from_pretrained(
            _auto_class(config),
            ref,
            "model",
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )


def _from_pretrained(kind: Any, ref: BackboneRef, what: str, **settings: Any) -> Any:
    with library_errors(ref, what):
        return kind.from_pretrained(ref.location, revision=ref.revision or "main", trust_remote_code=False, **settings)


_skeletons: dict[str, nn.Module] = {}


def load_skeleton(ref: BackboneRef) -> nn.Module:
    """Return the model of a backbone with a two-label head and without weights: names and shapes only.

    The last one is kept and returned again, as sweeps plan many runs on it. Do not change it.
    """
    key = f"{ref.location} {ref.identity}"
    with _drawing_alike():
        if key not in _skeletons:
            _skeletons.clear()
            with torch.device("meta"):
                _skeletons[key] = _from_config(load_config(ref), ref)
        return _skeletons[key]


def load_config(ref: BackboneRef, task: Task | None = None) -> Any:
    """Return the Hugging Face configuration of a backbone, with the labels of ``task``."""
    labels = label_settings(task) if task else {}
    config = _stored_config(ref, labels) if ref.location else random_config(ref.config, labels)
    config.return_dict = True  # what is read of a model's output is read by name
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"  # BigBird changes to it for good at the first short batch it meets
    return config


def _stored_config(ref: BackboneRef, labels: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    if ref.folder:
        _check_model_type(read_json(ref.folder / CONFIG)["model_type"], ref.folder / CONFIG)
    # id2label says the number of labels; beside a folder's own transformers would warn.
    given = {name: value for name, value in labels.items() if name != "num_labels"}
    config = _from_pretrained(AutoConfig, ref, "configuration", **given)
    check_counts(config, str(ref.folder / CONFIG) if ref.folder else ref.location)
    if getattr(config, "pad_token_id", None) is None:
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end[0] if isinstance(end, list) else end
    return config


def _check_model_type(model_type: str, file: Path) -> None:
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise BackboneError(
            f"{file} says model_type={model_type}, which this version of transformers does not know."
            f"{nearest(model_type, CONFIG_MAPPING.keys())} A model that brings its own code cannot be used."
        )


def attention_dropout_key(config: Any) -> str:
    """Return the name of the attention dropout rate in a Hugging Face configuration.

    Raises
    ------
    BackboneError
        If it has no such rate, or calls it otherwise.
    """
    for key in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        if hasattr(config, key):
            return key
    raise BackboneError(f"A {type(config).__name__} has no attention dropout to set: leave attention_dropout out.")


def usable_positions(model: nn.Module) -> int | None:
    """Return the largest number of tokens per row, or ``None`` if the model's configuration does not say.

    Models from fairseq (RoBERTa, XLM-RoBERTa, MPNet) number positions from behind the padding id, so the first rows of
    their table of positions are never used. They have ``padding_idx`` set in that table.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None) or 0
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        table = getattr(module, "weight", None)  # I-BERT's module is no nn.Embedding
        if name.endswith("position_embeddings") and padding is not None and isinstance(table, Tensor):
            return len(table) - int(padding) - 1
    return positions if positions > 0 else None  # XLNet says -1


def input_names(model: nn.Module) -> tuple[str, ...]:
    """Return the inputs of a model: ``input_ids``, ``attention_mask``, and ``token_type_ids`` if it has several types.

    RoBERTa has one type, DistilBERT takes none, and GPT-2 would take type ids for words. XLNet and Funnel have a table
    of segments in every block, of which their configuration says nothing. What is wrapped around a Hugging Face model
    (PEFT, ``torch.compile``) hands inputs down to it, and does not say which.
    """
    from transformers import PreTrainedModel

    model = next((one for one in model.modules() if isinstance(one, PreTrainedModel)), model)
    types = getattr(getattr(model, "config", None), "type_vocab_size", None)
    if types is None:
        tells_apart = any(name.endswith(".seg_embed") for name, _ in model.named_parameters())
    else:
        tells_apart = types > 1
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    return ("input_ids", *(["token_type_ids"] if tells_apart and takes else []), "attention_mask")


def label_settings(task: Task) -> dict[str, Any]:
    """Return the label settings of a Hugging Face configuration for a task."""
    names = task.labels or ("score",)
    return {
        "num_labels": task.num_outputs,
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": "regression" if task.is_regression else "single_label_classification",
    }


def _from_config(config: Any, ref: BackboneRef) -> nn.Module:
    try:
        return _auto_class(config).from_config(config, trust_remote_code=False)  # type: ignore[no-any-return]
    except CANNOT_BE as error:
        what = f"{ref.label} does" if ref.location else "backbone.config does"
        raise BackboneError(f"{what} not make a model that classifies: {in_one_line(error)}.") from error


def _auto_class(config: Any) -> Any:
    """Return the class of transformers that makes a classifier: of texts, or of images."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    architecture = ARCHITECTURES.get(config.model_type)
    images = architecture is not None and architecture.takes_images
    return AutoModelForImageClassification if images else AutoModelForSequenceClassification


def backbone_hash(model: nn.Module) -> str:
    """Return a SHA-256 over names, shapes, types and bytes of the backbone's weights; the head is left out.

    The same backbone from the Hub, a folder or a package has the same hash, however its files store the weights. Take
    it before training.
    """
    _, backbone = split_head(model)
    digest = hashlib.sha256()
    for name, parameter in sorted(backbone.values(), key=lambda named: named[0]):
        value = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.view(torch.uint8).numpy().data if value.dim() else value.numpy().tobytes())
    return digest.hexdigest()


def draw_head(model: nn.Module, seed: int) -> None:
    """Draw the head's weights anew, from ``seed`` alone, in place: matrices at random, biases 0, norms' gains 1."""
    generator = torch.Generator().manual_seed(seed)
    std = float(getattr(model.config, "initializer_range", 0.02))
    head = set(describe(model, ()).head_names)
    for name, parameter in model.named_parameters():
        if name in head:
            with torch.no_grad():
                if name.endswith("bias"):
                    parameter.zero_()
                elif parameter.dim() < 2:
                    parameter.fill_(1.0)
                else:
                    parameter.normal_(0.0, std, generator=generator)
