"""What weights look like: magnitudes of a pretrained model by module and layer, and what a run changed of them."""

from ptuning.weights.moved import describe_moves
from ptuning.weights.pretrained import describe_weights

__all__ = ["describe_moves", "describe_weights"]
