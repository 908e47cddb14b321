"""Configurations of backbones with random weights: any family of the architectures' table, from a few sizes."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ptuning.errors import BackboneError, in_one_line, nearest, shorten

_OWN_NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "distilbert": {"intermediate_size": "hidden_dim"},
        "gpt2": {"intermediate_size": "n_inner"},
        "vit": {"max_position_embeddings": ""},
    }
)
"""Family → BERT's name of a size → the family's, if its class does not translate it; empty if it has no such size."""

_NOT_IN_CLASS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "deberta-v2": (
            "attention_head_size",
            "conv_act",
            "conv_groups",
            "conv_kernel_size",
            "embedding_size",
            "norm_rel_ebd",
            "pooler_hidden_size",
            "position_buckets",
            "share_att_key",
        )
    }
)
"""Family → values that its model reads and its configuration class does not declare."""

_AS_PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "roberta": {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
        "xlm-roberta": {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
        "deberta-v2": {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
        },
    }
)
"""Family → values of its published base model (DeBERTa: v3), if its class has other defaults."""


def check_model_type(model_type: object) -> str:
    """Return ``backbone.config.model_type``, after checking that the table of architectures has it.

    Raises
    ------
    BackboneError
        If it has not, with the nearest name.
    """
    from ptuning.selection.architectures import ARCHITECTURES

    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise BackboneError(
            f"backbone.config.model_type={model_type} is not known.{nearest(str(model_type), ARCHITECTURES)} "
            f"Allowed: {', '.join(ARCHITECTURES)}."
        )
    return model_type


def random_config(values: Mapping[str, Any], labels: Mapping[str, Any]) -> Any:
    """Return a Hugging Face configuration for random weights and the synthetic tokenizer.

    Parameters
    ----------
    values
        Values of the family's configuration class, and ``model_type`` (``bert`` if it is not there). The sizes go by
        BERT's names in every family.
    labels
        Label settings.

    Raises
    ------
    BackboneError
        If the family has no such value, or it does not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer

    model_type = check_model_type(values.get("model_type", "bert"))
    family = CONFIG_MAPPING[model_type]
    tokenizer = synthetic_tokenizer(model_type)
    own_names = {**family.attribute_map, **_OWN_NAMES.get(model_type, {})}
    defaults = family().to_dict()
    known = {*defaults, *own_names, *_NOT_IN_CLASS.get(model_type, ())}
    for key in values:
        if key not in known:
            raise BackboneError(f"{family.__name__} has no value backbone.config.{key}.{nearest(key, known)}")
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    fitting: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        **{key: value for key, value in special.items() if defaults.get(key) is not None},
        **_AS_PUBLISHED.get(model_type, {}),
        **{own_names.get(key, key): value for key, value in values.items() if key != "model_type"},
    }
    fitting.pop("", None)
    _fit_heads(fitting, values, defaults)
    if isinstance(fitting["vocab_size"], int) and fitting["vocab_size"] < len(tokenizer):
        raise BackboneError(
            f"backbone.config.vocab_size={fitting['vocab_size']} is too small: the synthetic tokenizer has "
            f"{len(tokenizer)} words."
        )
    try:
        config = family(**fitting, **labels)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise BackboneError(f"backbone.config does not make a {family.__name__}: {in_one_line(error)}.") from error
    _check_size(config)
    if config.hidden_size % config.num_attention_heads:  # some families say so themselves, some only when they compute
        raise BackboneError(
            f"backbone.config.hidden_size={config.hidden_size} is not a multiple of "
            f"backbone.config.num_attention_heads={config.num_attention_heads}."
        )
    of_keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if config.num_attention_heads % of_keys:
        raise BackboneError(
            f"backbone.config.num_attention_heads={config.num_attention_heads} is not a multiple of "
            f"backbone.config.num_key_value_heads={of_keys}."
        )
    return config


def _fit_heads(fitting: dict[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Give every query its own key and value, in heads as wide as BERT's, unless other numbers are typed."""
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        for key, value in (("num_key_value_heads", heads), ("head_dim", width // heads)):
            if key in defaults:
                fitting.setdefault(key, value)


def _check_size(config: Any) -> None:
    """Refuse sizes that are none, or that no machine holds, before anything is made of them."""
    sizes = Counter({name: getattr(config, name) for name in _SIZES if hasattr(config, name)})
    for name, size in sizes.items():
        if not isinstance(size, int) or size < (name not in _TABLES):
            raise BackboneError(f"backbone.config.{name}={shorten(size)} does not fit: it must be a whole number.")
    layers, width, inner = sizes["num_hidden_layers"], sizes["hidden_size"], sizes["intermediate_size"]
    weights = width * (layers * (4 * width + 2 * (inner or sizes["hidden_dim"])) + sum(sizes[name] for name in _TABLES))
    if max(layers, sizes["num_hidden_groups"], sizes["inner_group_num"]) > _MOST_LAYERS or weights > _MOST_WEIGHTS:
        raise BackboneError(
            f"backbone.config describes {layers:,} layers and some {weights:,} weights. Random ones may have "
            f"{_MOST_LAYERS:,} layers and {_MOST_WEIGHTS:,} weights."
        )


_TABLES = ("vocab_size", "max_position_embeddings", "type_vocab_size")
_SIZES = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", *_TABLES),
    *("hidden_dim", "num_hidden_groups", "inner_group_num"),  # DistilBERT's, ALBERT's
    *("num_key_value_heads", "head_dim"),  # decoders'
)
_MOST_LAYERS, _MOST_WEIGHTS = 1000, 4_000_000_000
