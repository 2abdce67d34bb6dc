"""A network of fully connected layers, small enough for experiments on a CPU."""

from __future__ import annotations

from torch import Tensor

from .chain import SpikingChain
from .layers import Parts


class SpikingMLP(SpikingChain):
    """linear – norm – neuron blocks over all pixels at once, then dropout and one linear layer.

    A linear layer is a 1×1 convolution of maps of 1×1 here: what is known of convolutions, norms and neurons
    (per-step statistics, conversion, energy) holds for it too.

    Args:
        widths: neurons in each hidden layer.
        parts: how to make neurons, norms and dropouts.
        num_classes: K. in_channels: C. input_size: H = W.
    """

    def __init__(self, widths: tuple[int, ...], parts: Parts, num_classes: int, in_channels: int, input_size: int):
        shapes = tuple((width, 1, 1, 0) for width in widths)
        super().__init__(shapes, parts, num_classes, in_channels * input_size**2, 1)

    def run(self, x: Tensor) -> Tensor:
        return super().run(x.flatten(-3)[..., None, None])  # [T, N, C, H, W] → [T, N, C·H·W, 1, 1] → [T, N, K]
