"""Spiking VGGs with batch norm (Simonyan & Zisserman 2015, with neurons in ReLU's place)."""

from __future__ import annotations

from functools import partial

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from .layers import Conv2d, Parts, SpikingNetwork, init_conv_kaiming, norm_and_fire

WIDTHS = (64, 128, 256, 512, 512)


class SpikingVGG(SpikingNetwork):
    """Five stages of conv3×3 – norm – neuron – dropout, each closed by a 2×2 average pool; then adaptive
    average pool to 7×7, flatten, one linear layer.

    Args:
        depths: convolutions in each of the five stages.
        parts: how to make neurons, norms and dropouts.
        num_classes: K. in_channels: C. input_size: H = W, at least 32.

    Raises:
        ValueError: if the input is too small for five halvings.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int, int],
        parts: Parts,
        num_classes: int,
        in_channels: int,
        input_size: int,
    ):
        super().__init__()
        if input_size < 32:
            raise ValueError(f"a spiking VGG needs frames of 32×32 or more, not {input_size}×{input_size}")
        channels = in_channels
        stages = []
        for depth, width in zip(depths, WIDTHS, strict=True):
            stage: list[nn.Module] = []
            for _ in range(depth):
                conv = Conv2d(channels, width, 3, 1, 1, step_mode="m")
                stage += [conv, parts.norm(width), parts.neuron(), parts.dropout()]
                channels = width
            stage.append(layer.AvgPool2d(2, step_mode="m"))
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4, self.layer5 = stages
        self.avgpool = layer.AdaptiveAvgPool2d((7, 7), step_mode="m")
        linear = layer.Linear(channels * 7 * 7, num_classes, step_mode="m")
        self.classifier = nn.Sequential(layer.Flatten(step_mode="m"), linear)
        init_conv_kaiming(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(linear.weight, 0, 0.01)
        nn.init.zeros_(linear.bias)

    def run(self, x: Tensor) -> Tensor:
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5):
            *modules, pool = stage
            for conv, norm, neuron, dropout in zip(*[iter(modules)] * 4, strict=True):
                x = self.through(partial(unit, conv, norm, neuron, dropout), x)
            x = pool(x)
        return self.classifier(self.avgpool(x))  # [T, N, 512, H/32, W/32] → [T, N, 512·49] → [T, N, K]


def unit(conv: nn.Module, norm: nn.Module, neuron: nn.Module, dropout: nn.Module, x: Tensor) -> Tensor:
    """conv – norm – neuron – dropout: [T, N, C, H, W] → [T, N, C′, H, W]."""
    return dropout(norm_and_fire(norm, neuron, conv(x)))


spiking_vgg11_bn = partial(SpikingVGG, (1, 1, 2, 2, 2))
spiking_vgg13_bn = partial(SpikingVGG, (2, 2, 2, 2, 2))
spiking_vgg16_bn = partial(SpikingVGG, (2, 2, 3, 3, 3))
spiking_vgg19_bn = partial(SpikingVGG, (2, 2, 4, 4, 4))
