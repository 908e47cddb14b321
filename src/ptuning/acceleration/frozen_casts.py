"""Frozen matrices in the type they are multiplied in: cast once, where autocast casts them again in every step."""

from torch import Tensor, dtype, nn


class FrozenCasts:
    """Holds the frozen weights of a model's linear layers in a low precision, until they are given back.

    Autocast multiplies in that type anyway, so training's answers and gradients are the same bits. Trainable weights,
    LayerNorms and embeddings are left as they are. The pretrained values wait on the CPU, as evaluation in fp32 asks
    for them back.

    Parameters
    ----------
    model
        Frozen is what has no ``requires_grad``.
    low
        ``torch.bfloat16`` or ``torch.float16``: the type of the autocast that the model runs under.
    """

    def __init__(self, model: nn.Module, low: dtype) -> None:
        self._low = low
        self._frozen = [
            parameter
            for module in model.modules()
            if type(module) is nn.Linear
            for parameter in module.parameters()
            if not parameter.requires_grad and parameter.dtype != low
        ]
        self._kept: list[Tensor] = []
        self.cast()

    def cast(self) -> None:
        """Cast, unless that is done."""
        if not self._kept:
            self._kept = [parameter.data.cpu() for parameter in self._frozen]
            for parameter in self._frozen:
                parameter.data = parameter.data.to(self._low)

    def give_back(self) -> None:
        """Put the pretrained values back, bit for bit, where the model is now."""
        for parameter, value in zip(self._frozen, self._kept, strict=False):
            parameter.data = value.to(parameter.device)
        self._kept = []
