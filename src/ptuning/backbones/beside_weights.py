"""What decides a backbone's answers beside its weights: its tokenizer, and values of its configuration."""

import hashlib
import json
from typing import Any

_VALUES = (
    "activation",
    "activation_function",
    "attn_logit_softcapping",
    "classifier_activation",
    "classifier_pooling",
    "global_attn_every_n_layers",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "inner_group_num",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "local_attention",
    "max_relative_positions",
    "norm_eps",
    "norm_rel_ebd",
    "num_attention_heads",
    "num_hidden_groups",
    "num_hidden_layers",
    "num_key_value_heads",
    "pos_att_type",
    "position_biased_input",
    "position_buckets",
    "position_embedding_type",
    "query_pre_attn_scalar",
    "relative_attention",
    "rms_norm_eps",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "share_att_key",
    "sliding_window",
)
"""Values of a configuration that change what the same weights compute. All others are nobody's business: names of
labels, versions, types, caches, dropout, and sizes, which the weights have."""

_TEXTS = ("It's the CAFÉ, isn't it?", "3.5 km  re-opened in New-York")


def computing_values(config: Any) -> dict[str, Any]:
    """Return the values of a Hugging Face configuration, numbers and names, that change what its weights compute."""
    found = {name: getattr(config, name, None) for name in _VALUES}
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, bool | int | float | str)
        or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    }


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a SHA-256 of a tokenizer's vocabulary and of how it reads two texts.

    Its own file is not taken: versions of ``tokenizers`` write the same rules otherwise.
    """
    vocabulary = tokenizer.get_vocab()
    words = [sorted(vocabulary, key=vocabulary.__getitem__), sorted(vocabulary.values())]
    read = [tokenizer(*texts, truncation=False)["input_ids"] for texts in (_TEXTS[:1], _TEXTS[1:], _TEXTS)]
    return hashlib.sha256(json.dumps([words, read, tokenizer.truncation_side]).encode()).hexdigest()
