"""The table of architectures: which parameter belongs to which module, one entry per ``config.model_type``.

To add an architecture, add an entry: the name of its blocks, a pattern per elementary module, and a pattern for
pretrained weights beside the base model. ``ptuning modules --names`` lists the names to match. Every backbone parameter
has to match exactly one elementary module; modules that an architecture lacks are left out.
``tests/test_architectures.py`` checks this for the whole table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from torch import nn

from ptuning.errors import SelectionError
from ptuning.selection.names import ATTENTION


@dataclass(frozen=True)
class Architecture:
    """Parameter names of one model family, as patterns.

    The head is everything beside the base model that ``beside`` does not claim: ``classifier``, and for some families a
    dense layer before it. It is drawn anew for each run and is always trainable.

    Attributes
    ----------
    block
        Start of a block's parameter names inside the base model, with one group for its 0-based number; without a
        group where all layers share one block.
    in_block
        Elementary module → start of its parameter names inside a block.
    outside
        Elementary module → start of its parameter names inside the base model, for what has no layer.
    beside
        Elementary module → start of its parameter names in a model with a head, for what is pretrained but lies beside
        the base model.
    absent
        Module of other architectures → the reason why this one lacks it, and what to choose instead.
    block_returns_tuple
        True if a block returns a tuple that begins with its hidden states, False if it returns them alone.
    before_ffn
        Elementary module whose LayerNorm hands hidden states to the feed-forward half of its block.
    positions_in_blocks
        True if blocks use positions themselves, by relative positions or rotations.
    """

    block: str
    in_block: Mapping[str, str]
    outside: Mapping[str, str]
    beside: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    block_returns_tuple: bool = False
    before_ffn: str = "attention_layernorm"
    positions_in_blocks: bool = False

    @property
    def elementary(self) -> tuple[str, ...]:
        """Names of the elementary modules, those of the blocks first."""
        return (*self.in_block, *self.outside, *self.beside)

    @property
    def shares_layers(self) -> bool:
        """True if all layers share the weights of one block."""
        return re.compile(self.block).groups == 0

    def blocks(self, base: nn.Module) -> list[nn.Module]:
        """Return the blocks of a base model, the lowest first."""
        return [module for name, module in base.named_modules() if re.fullmatch(self.block, f"{name}.")]

    def locate(self, name: str) -> tuple[str, int | None] | None:
        """Return (elementary module, layer or ``None``) of a backbone parameter, or ``None`` if nothing matches.

        ``name`` is relative to the base model; of what lies beside it, the full name. The weights of a shared block
        have no layer.
        """
        if match := re.match(self.block, name):
            rest, layer = name[match.end() :], None if self.shares_layers else int(match[1])
            return next(((m, layer) for m, start in self.in_block.items() if re.match(start, rest)), None)
        elsewhere = (*self.outside.items(), *self.beside.items())
        return next(((m, None) for m, start in elsewhere if re.match(start, name)), None)


def _modules(**entries: str) -> Mapping[str, str]:
    return MappingProxyType(entries)


_DENSE_IN_HEAD = _modules(
    pooler="the dense layer before its classifier is part of the head: not pretrained, it always trains"
)

_BEHIND_PROJECTIONS = _modules(
    attention_output=r"attention\.output\.dense\.",
    attention_layernorm=r"attention\.output\.LayerNorm\.",
    intermediate=r"intermediate\.dense\.",
    output=r"output\.dense\.",
    output_layernorm=r"output\.LayerNorm\.",
)
"""The modules of a block behind query, key and value, in BERT and DeBERTa."""

BERT = Architecture(
    block=r"encoder\.layer\.(\d+)\.",
    in_block=_modules(
        query=r"attention\.self\.query\.",
        key=r"attention\.self\.key\.",
        value=r"attention\.self\.value\.",
        **_BEHIND_PROJECTIONS,
    ),
    outside=_modules(embeddings=r"embeddings\.", pooler=r"pooler\."),
)

ROBERTA = replace(BERT, absent=_DENSE_IN_HEAD)

ELECTRA = replace(  # embeddings_project widens the small models' embeddings to the hidden size
    BERT,
    outside=_modules(embeddings=r"embeddings(_project)?\."),
    absent=_DENSE_IN_HEAD,
)

DISTILBERT = Architecture(
    block=r"transformer\.layer\.(\d+)\.",
    in_block=_modules(
        query=r"attention\.q_lin\.",
        key=r"attention\.k_lin\.",
        value=r"attention\.v_lin\.",
        attention_output=r"attention\.out_lin\.",
        attention_layernorm=r"sa_layer_norm\.",
        intermediate=r"ffn\.lin1\.",
        output=r"ffn\.lin2\.",
        output_layernorm=r"output_layer_norm\.",
    ),
    outside=_modules(embeddings=r"embeddings\."),
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
    outside=_modules(
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
    in_block=_modules(
        query=r"attention\.self\.query_proj\.",
        key=r"attention\.self\.key_proj\.",
        value=r"attention\.self\.value_proj\.",
        position_query=r"attention\.self\.pos_query_proj\.",
        position_key=r"attention\.self\.pos_key_proj\.",
        **_BEHIND_PROJECTIONS,
    ),
    outside=_modules(
        embeddings=r"embeddings\.",  # embed_proj, which widens them, included
        relative_positions=r"encoder\.(rel_embeddings|LayerNorm)\.",  # this LayerNorm is theirs
        convolution=r"encoder\.conv\.",  # with its own LayerNorm; beside the first block, not in it
    ),
    absent=_modules(
        **_DENSE_IN_HEAD,
        position_query="only a DeBERTa with share_att_key=false has it; others use query for positions too",
        position_key="only a DeBERTa with share_att_key=false has it; others use key for positions too",
        convolution="only a DeBERTa with conv_kernel_size has it (v2-xlarge, v2-xxlarge)",
    ),
    block_returns_tuple=True,
    positions_in_blocks=True,
)

_FUSED = "its query, key and value projections are one matrix, Wqkv: module=query_key_value"

MODERNBERT = Architecture(
    block=r"layers\.(\d+)\.",
    in_block=_modules(
        query_key_value=r"attn\.Wqkv\.",
        attention_output=r"attn\.Wo\.",
        attention_layernorm=r"attn_norm\.",  # before the attention; the first block has none
        intermediate=r"mlp\.Wi\.",  # with the gate
        output=r"mlp\.Wo\.",
        output_layernorm=r"mlp_norm\.",  # before the feed-forward half
    ),
    outside=_modules(embeddings=r"embeddings\.", final_layernorm=r"final_norm\."),
    beside=_modules(prediction_head=r"head\."),
    before_ffn="output_layernorm",
    positions_in_blocks=True,
    absent=_modules(
        query=_FUSED,
        key=_FUSED,
        value=_FUSED,
        pooler="its pretrained dense layer before the classifier is called module=prediction_head",
    ),
)

ALBERT = Architecture(
    block=r"encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+\.",
    in_block=_modules(
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
    outside=_modules(embeddings=r"embeddings\.|encoder\.embedding_hidden_mapping_in\.", pooler=r"pooler\."),
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
            f"(known: {', '.join(ARCHITECTURES)}). Name parameters yourself, which works on every model: "
            "module=custom 'module.patterns=[<regular expression>]' (`ptuning modules --names` lists them); or add an "
            "entry to ptuning/selection/architectures.py: how its blocks are named, and one pattern per module."
        )
    return ARCHITECTURES[model_type]


def known_architecture(model: nn.Module) -> Architecture | None:
    """Return the table entry for a Hugging Face model, or ``None`` if there is none."""
    return ARCHITECTURES.get(_model_type(model))


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))
