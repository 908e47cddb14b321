"""OmegaConf resolvers that ask a backbone for its layers and modules, without loading weights."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from ptuning.backbones.source import BackboneRef

_FIRST = ("full", "frozen", "layernorm", "layernorm_gain", "layernorm_bias", "bias", "attention", "ffn")
"""The modules that tables compare with, then the groups; elementary modules follow in the order of a block."""


def register() -> None:
    """Register ``${single_layers:${backbone}}`` and the other resolvers of this module with OmegaConf."""
    for resolver in (single_layers, all_modules, block_modules, position_rows):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def single_layers(backbone: DictConfig) -> str:
    """Return ``0,1,2,…`` for every block of a backbone, for grids over single layers."""
    ref = _find(backbone)
    from ptuning.backbones.load import load_config

    return ",".join(map(str, range(int(load_config(ref).num_hidden_layers))))


def all_modules(backbone: DictConfig) -> str:
    """Return every module and group that a backbone has: ``full,frozen,layernorm,layernorm_gain,…,query,…``."""
    return _present(backbone, _FIRST, in_block=False)


def block_modules(backbone: DictConfig) -> str:
    """Return the modules inside blocks, which can be trained in a single layer; LayerNorms and biases come first."""
    return _present(backbone, ("layernorm", "bias"), in_block=True)


def position_rows(model_type: str, tokens: int) -> int:
    """Return ``max_position_embeddings`` of a random model for rows of at most ``tokens`` tokens.

    Families from fairseq number positions from behind the padding id, so their table has two rows more.
    """
    from ptuning.backbones.synthetic_tokenizer import FAIRSEQ

    return tokens + 2 if model_type in FAIRSEQ else tokens


def _present(backbone: DictConfig, first: tuple[str, ...], in_block: bool) -> str:
    """Return the names in ``first``, then the elementary modules, as far as the backbone has them."""
    ref = _find(backbone)
    from ptuning.backbones.load import load_skeleton
    from ptuning.selection.architectures import architecture_of
    from ptuning.selection.parameters import list_modules

    model = load_skeleton(ref)
    architecture, present = architecture_of(model), list_modules(model)
    elementary = architecture.in_block if in_block else architecture.elementary
    return ",".join(name for name in (*first, *elementary) if name in present)


def _find(backbone: DictConfig) -> "BackboneRef":
    from ptuning.system.hub import use_cache_if_unreachable

    use_cache_if_unreachable(str(backbone.path))
    from ptuning.backbones.source import find_backbone

    return find_backbone(backbone.path, backbone.revision, dict(backbone.config))
