"""Magnitudes of weights by module and layer: of a pretrained model, and of the changes by a run."""

from ptuning.weights.moved import describe_moves
from ptuning.weights.pretrained import describe_weights

__all__ = ["describe_moves", "describe_weights"]
