"""Plain chains of blocks: the paper's small snn5 networks, VGGSNN (Deng et al. 2022), and fully connected layers."""

from __future__ import annotations

from functools import partial

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from .layers import Conv2d, Parts, SpikingNetwork, init_conv_kaiming, is_heard, norm_and_fire

POOL = "P"  # 2×2 average pool
Shape = tuple[int, int, int, int]  # out_channels, kernel, stride, padding


class Block(nn.Module):
    """conv – norm – neuron: [T, N, in_channels, H, W] → [T, N, out_channels, H′, W′]."""

    def __init__(self, parts: Parts, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int):
        super().__init__()
        conv = Conv2d(in_channels, out_channels, kernel, stride, padding, step_mode="m")
        self.fwd = nn.Sequential(conv, parts.norm(out_channels))
        self.act = parts.neuron()

    def forward(self, x: Tensor) -> Tensor:
        if is_heard(self.fwd):
            return self.act(self.fwd(x))
        conv, norm = self.fwd
        return norm_and_fire(norm, self.act, conv(x))


class SpikingChain(SpikingNetwork):
    """Blocks and pools one after the other, flatten, dropout, one linear layer.

    Args:
        shapes: the chain, a shape per block and ``POOL`` for a 2×2 average pool.
        parts: how to make neurons, norms and dropouts.
        num_classes: K. in_channels: C. input_size: H = W.

    Raises:
        ValueError: if nothing is left of an input of this size.
    """

    def __init__(
        self, shapes: tuple[Shape | str, ...], parts: Parts, num_classes: int, in_channels: int, input_size: int
    ):
        super().__init__()
        features: list[nn.Module] = []
        channels, size = in_channels, input_size
        for shape in shapes:
            if isinstance(shape, str):
                features.append(layer.AvgPool2d(2, step_mode="m"))
                size //= 2
            else:
                out_channels, kernel, stride, padding = shape
                features.append(Block(parts, channels, out_channels, kernel, stride, padding))
                channels, size = out_channels, (size + 2 * padding - kernel) // stride + 1
            if size < 1:
                raise ValueError(f"frames of {input_size}×{input_size} are too small for this network")
        self.features = nn.Sequential(*features)
        self.flatten = layer.Flatten(step_mode="m")
        self.dropout = parts.dropout()
        self.classifier = layer.Linear(channels * size * size, num_classes, step_mode="m")
        init_conv_kaiming(self)

    def run(self, x: Tensor) -> Tensor:
        for block in self.features:
            x = self.through(block, x)
        return self.classifier(self.dropout(self.flatten(x)))  # [T, N, C, H, W] → [T, N, C·H·W] → [T, N, K]


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


def conv3(channels: int) -> Shape:
    return channels, 3, 1, 1


snn5 = partial(
    SpikingChain,
    ((16, 3, 1, 1), (64, 5, 1, 1), POOL, (128, 5, 1, 1), POOL, (256, 5, 1, 1), POOL, (512, 3, 1, 1), POOL),
)
snn5_noAP = partial(SpikingChain, ((16, 3, 1, 1), (64, 5, 2, 1), (128, 5, 2, 1), (256, 5, 4, 1), (256, 3, 2, 1)))  # noqa: N816
vggsnn = partial(
    SpikingChain,
    (
        *(conv3(64), conv3(128), POOL),
        *(conv3(256), conv3(256), POOL),
        *(conv3(512), conv3(512), POOL),
        *(conv3(512), conv3(512), POOL),
    ),
)
mlp3 = partial(SpikingMLP, (128, 128))
