"""The table of architectures: which parameter belongs to which module, one entry per ``config.model_type``.

To add an architecture, add an entry: the name of its blocks, a pattern per elementary module, and a pattern for
pretrained weights beside the base model. ``ptuning modules --names`` lists the names to match. Every backbone parameter
has to match exactly one elementary module; modules that an architecture lacks are left out.
``tests/test_architectures.py`` checks this for the whole table.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import nn

from ptuning.errors import SelectionError
from ptuning.selection.architecture import Architecture, modules
from ptuning.selection.names import ATTENTION

_DENSE_IN_HEAD = modules(
    pooler="the dense layer before its classifier is part of the head: not pretrained, it always trains"
)

_BEHIND_PROJECTIONS = modules(
    attention_output=r"attention\.output\.dense\.",
    attention_layernorm=r"attention\.output\.LayerNorm\.",
    intermediate=r"intermediate\.dense\.",
    output=r"output\.dense\.",
    output_layernorm=r"output\.LayerNorm\.",
)
"""The modules of a block behind query, key and value, in BERT and DeBERTa."""

BERT = Architecture(
    block=r"encoder\.layer\.(\d+)\.",
    in_block=modules(
        query=r"attention\.self\.query\.",
        key=r"attention\.self\.key\.",
        value=r"attention\.self\.value\.",
        **_BEHIND_PROJECTIONS,
    ),
    outside=modules(embeddings=r"embeddings\.", pooler=r"pooler\."),
)

ROBERTA = replace(BERT, absent=_DENSE_IN_HEAD)

ELECTRA = replace(  # embeddings_project widens the small models' embeddings to the hidden size
    BERT,
    outside=modules(embeddings=r"embeddings(_project)?\."),
    absent=_DENSE_IN_HEAD,
)

DISTILBERT = Architecture(
    block=r"transformer\.layer\.(\d+)\.",
    in_block=modules(
        query=r"attention\.q_lin\.",
        key=r"attention\.k_lin\.",
        value=r"attention\.v_lin\.",
        attention_output=r"attention\.out_lin\.",
        attention_layernorm=r"sa_layer_norm\.",
        intermediate=r"ffn\.lin1\.",
        output=r"ffn\.lin2\.",
        output_layernorm=r"output_layer_norm\.",
    ),
    outside=modules(embeddings=r"embeddings\."),
    absent=_DENSE_IN_HEAD,
)

MPNET = replace(
    BERT,
    in_block={
        **BERT.in_block,
        "query": r"attention\.attn\.q\.",
        "key": r"attention\.attn\.k\.",
        "value": r"attention\.attn\.v\.",
        "attention_output": r"attention\.attn\.o\.",
        "attention_layernorm": r"attention\.LayerNorm\.",
    },
    outside=modules(
        embeddings=r"embeddings\.",
        relative_positions=r"encoder\.relative_attention_bias\.",
        pooler=r"pooler\.",
    ),
    absent=_DENSE_IN_HEAD,
    block_returns_tuple=True,
    positions_in_blocks=True,
)

DEBERTA_V2 = Architecture(
    block=r"encoder\.layer\.(\d+)\.",
    in_block=modules(
        query=r"attention\.self\.query_proj\.",
        key=r"attention\.self\.key_proj\.",
        value=r"attention\.self\.value_proj\.",
        position_query=r"attention\.self\.pos_query_proj\.",
        position_key=r"attention\.self\.pos_key_proj\.",
        **_BEHIND_PROJECTIONS,
    ),
    outside=modules(
        embeddings=r"embeddings\.",  # embed_proj, which widens them, included
        relative_positions=r"encoder\.(rel_embeddings|LayerNorm)\.",  # this LayerNorm is theirs
        convolution=r"encoder\.conv\.",  # with its own LayerNorm; beside the first block, not in it
    ),
    absent=modules(
        **_DENSE_IN_HEAD,
        position_query="only a DeBERTa with share_att_key=false has it; others use query for positions too",
        position_key="only a DeBERTa with share_att_key=false has it; others use key for positions too",
        convolution="only a DeBERTa with conv_kernel_size has it (v2-xlarge, v2-xxlarge)",
    ),
    block_returns_tuple=True,
    positions_in_blocks=True,
)

_FUSED = "its query, key and value projections are one matrix,"
_READS_LAST = "its head reads the hidden state of the last token"

MODERNBERT = Architecture(
    block=r"layers\.(\d+)\.",
    in_block=modules(
        query_key_value=r"attn\.Wqkv\.",
        attention_output=r"attn\.Wo\.",
        attention_layernorm=r"attn_norm\.",  # before the attention; the first block has none
        intermediate=r"mlp\.Wi\.",  # with the gate
        output=r"mlp\.Wo\.",
        output_layernorm=r"mlp_norm\.",  # before the feed-forward half
    ),
    outside=modules(embeddings=r"embeddings\.", final_layernorm=r"final_norm\."),
    beside=modules(prediction_head=r"head\."),
    before_ffn="output_layernorm",
    positions_in_blocks=True,
    absent=modules(
        **dict.fromkeys(("query", "key", "value"), f"{_FUSED} Wqkv: module=query_key_value"),
        pooler="its pretrained dense layer before the classifier is called module=prediction_head",
    ),
)

ALBERT = Architecture(
    block=r"encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+\.",
    in_block=modules(
        query=r"attention\.query\.",
        key=r"attention\.key\.",
        value=r"attention\.value\.",
        attention_output=r"attention\.dense\.",
        attention_layernorm=r"attention\.LayerNorm\.",
        intermediate=r"ffn\.",
        output=r"ffn_output\.",
        output_layernorm=r"full_layer_layer_norm\.",
    ),
    # The embeddings are factorised: a narrow table, and the matrix that widens it to the hidden size.
    outside=modules(embeddings=r"embeddings\.|encoder\.embedding_hidden_mapping_in\.", pooler=r"pooler\."),
)

GPT2 = Architecture(
    block=r"h\.(\d+)\.",
    in_block=modules(
        query_key_value=r"attn\.c_attn\.",
        attention_output=r"attn\.c_proj\.",
        attention_layernorm=r"ln_1\.",  # before the attention
        intermediate=r"mlp\.c_fc\.",
        output=r"mlp\.c_proj\.",
        output_layernorm=r"ln_2\.",  # before the feed-forward half
    ),
    outside=modules(embeddings=r"wte\.|wpe\.", final_layernorm=r"ln_f\."),
    absent=modules(
        **dict.fromkeys(("query", "key", "value"), f"{_FUSED} c_attn: module=query_key_value"),
        pooler=_READS_LAST,
    ),
    reads_last=True,
)

LLAMA = Architecture(
    block=r"layers\.(\d+)\.",
    in_block=modules(
        query=r"self_attn\.q_proj\.",
        key=r"self_attn\.k_proj\.",
        value=r"self_attn\.v_proj\.",
        attention_output=r"self_attn\.o_proj\.",
        attention_layernorm=r"input_layernorm\.",  # before the attention
        intermediate=r"mlp\.(gate|up)_proj\.",
        output=r"mlp\.down_proj\.",
        output_layernorm=r"post_attention_layernorm\.",  # before the feed-forward half
    ),
    outside=modules(embeddings=r"embed_tokens\.", final_layernorm=r"norm\."),
    absent=modules(pooler=_READS_LAST),
    positions_in_blocks=True,
    reads_last=True,
)

QWEN3 = replace(
    LLAMA,
    in_block={**LLAMA.in_block, "query_norm": r"self_attn\.q_norm\.", "key_norm": r"self_attn\.k_norm\."},
)

GEMMA3 = replace(  # a norm before and one behind either half
    QWEN3,
    in_block={
        **QWEN3.in_block,
        "attention_layernorm": r"(input|post_attention)_layernorm\.",
        "output_layernorm": r"(pre|post)_feedforward_layernorm\.",
    },
)

VIT = Architecture(  # the second names are those of earlier versions of transformers
    block=r"(?:layers|encoder\.layer)\.(\d+)\.",
    in_block=modules(
        query=r"attention\.(q_proj|attention\.query)\.",
        key=r"attention\.(k_proj|attention\.key)\.",
        value=r"attention\.(v_proj|attention\.value)\.",
        attention_output=r"attention\.(o_proj|output\.dense)\.",
        attention_layernorm=r"layernorm_before\.",
        intermediate=r"(mlp\.fc1|intermediate\.dense)\.",
        output=r"(mlp\.fc2|output\.dense)\.",
        output_layernorm=r"layernorm_after\.",  # behind the attention, before the feed-forward half
    ),
    outside=modules(embeddings=r"embeddings\.", final_layernorm=r"layernorm\.", pooler=r"pooler\."),
    takes_images=True,
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "bert": BERT,
        "roberta": ROBERTA,
        "xlm-roberta": ROBERTA,
        "distilbert": DISTILBERT,
        "electra": ELECTRA,
        "mpnet": MPNET,
        "deberta-v2": DEBERTA_V2,  # DeBERTa-v3 too
        "modernbert": MODERNBERT,
        "albert": ALBERT,
        "gpt2": GPT2,
        "llama": LLAMA,
        "mistral": LLAMA,
        "qwen3": QWEN3,
        "gemma3_text": GEMMA3,
        "vit": VIT,
    }
)

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layernorm": ("attention_layernorm", "output_layernorm"),
        "attention": ATTENTION,
        "ffn": ("intermediate", "output"),
        "frozen": (),
    }
)
"""Group → its elementary modules, as far as a backbone has them."""

CROSS_CUTTING = ("layernorm_gain", "layernorm_bias", "bias", "full")
"""Groups that cut across modules, selected by parameter name (:func:`ptuning.selection.parameters.cuts_across`)."""

ABOVE_BLOCKS = ("pooler", "final_layernorm")
"""Modules inside the base model that only see what comes out of the last block."""


def module_names() -> tuple[str, ...]:
    """Return every module name that ``module=`` takes for some architecture, groups included."""
    elementary = [name for architecture in ARCHITECTURES.values() for name in architecture.elementary]
    return (*dict.fromkeys(elementary), *GROUPS, *CROSS_CUTTING)


def architecture_of(model: nn.Module) -> Architecture:
    """Return the table entry for a Hugging Face model.

    Raises
    ------
    SelectionError
        If there is no entry for its ``config.model_type``.
    """
    model_type = _model_type(model)
    if model_type not in ARCHITECTURES:
        raise SelectionError(
            f"ptuning does not know the modules of a '{model_type or type(model).__name__}' model "
            f"(known: {', '.join(ARCHITECTURES)}). Name parameters yourself, which works on other families too: "
            "module=custom 'module.patterns=[<regular expression>]' (`ptuning modules --names` lists them); or add an "
            "entry to ptuning/selection/architectures.py: how its blocks are named, and one pattern per module."
        )
    return ARCHITECTURES[model_type]


def accelerated_families() -> str:
    """Return the families that faster training was shown right for, as ``bert, roberta, …``."""
    return ", ".join(name for name, architecture in ARCHITECTURES.items() if architecture.is_accelerated)


def known_architecture(model: nn.Module) -> Architecture | None:
    """Return the table entry for a Hugging Face model, or ``None`` if there is none."""
    return ARCHITECTURES.get(_model_type(model))


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))
