"""Pre-activation spiking ResNets (He et al. 2016, with neurons in ReLU's place).

Neurons are called ``relu1`` … and registered last, as in the published code: a neuron's weights are found by name,
and an optimiser's state by position.
"""

from __future__ import annotations

from functools import partial

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from .layers import Conv2d, Parts, SpikingNetwork, conv3x3, init_conv_kaiming, norm_and_fire


class BasicBlock(nn.Module):
    """norm – neuron – conv3×3 – norm – neuron – dropout – conv3×3; the shortcut carries the first neuron's spikes.

    [T, N, in_channels, H, W] → [T, N, channels, H/stride, W/stride].
    """

    expansion = 1

    def __init__(self, parts: Parts, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = parts.norm(in_channels)
        self.conv1 = Conv2d(in_channels, channels, 3, stride, 1, step_mode="m")
        self.bn2 = parts.norm(channels)
        self.dropout = parts.dropout()
        self.conv2 = Conv2d(channels, channels, 3, 1, 1, step_mode="m")
        self.shortcut = shortcut(in_channels, channels, stride)
        self.relu1, self.relu2 = parts.neuron(), parts.neuron()

    def forward(self, x: Tensor) -> Tensor:
        spike = norm_and_fire(self.bn1, self.relu1, x)
        y = self.conv1(spike)
        y = self.conv2(self.dropout(norm_and_fire(self.bn2, self.relu2, y)))
        return y + self.shortcut(spike)


class Bottleneck(nn.Module):
    """norm – neuron – conv1×1 – norm – neuron – conv3×3 – norm – neuron – dropout – conv1×1 (4 × channels).

    The first convolution carries the stride, as in the published code (torchvision's ResNets stride in the second).

    [T, N, in_channels, H, W] → [T, N, 4·channels, H/stride, W/stride].
    """

    expansion = 4

    def __init__(self, parts: Parts, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = self.expansion * channels
        self.bn1 = parts.norm(in_channels)
        self.conv1 = Conv2d(in_channels, channels, 1, stride, step_mode="m")
        self.bn2 = parts.norm(channels)
        self.conv2 = Conv2d(channels, channels, 3, 1, 1, step_mode="m")
        self.bn3 = parts.norm(channels)
        self.dropout = parts.dropout()
        self.conv3 = Conv2d(channels, out_channels, 1, step_mode="m")
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.relu1, self.relu2, self.relu3 = parts.neuron(), parts.neuron(), parts.neuron()

    def forward(self, x: Tensor) -> Tensor:
        spike = norm_and_fire(self.bn1, self.relu1, x)
        y = self.conv1(spike)
        y = self.conv2(norm_and_fire(self.bn2, self.relu2, y))
        y = self.conv3(self.dropout(norm_and_fire(self.bn3, self.relu3, y)))
        return y + self.shortcut(spike)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A strided 1×1 convolution where the block changes the shape, else the identity."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return Conv2d(in_channels, out_channels, 1, stride, step_mode="m")


class SpikingResNet(SpikingNetwork):
    """3×3 stem, four stages of blocks, norm – neuron – 4×4 average pool – flatten – dropout – linear.

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        depths: blocks in each of the four stages.
        parts: how to make neurons, norms and dropouts.
        num_classes: K. in_channels: C. input_size: H = W, at least 25.

    Raises:
        ValueError: if the input is too small for three halvings and the 4×4 pool.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        parts: Parts,
        num_classes: int,
        in_channels: int,
        input_size: int,
    ):
        super().__init__()
        last_size = -(-input_size // 8)  # three strided stages, each rounding up
        if last_size < 4:
            raise ValueError(f"a spiking ResNet needs frames of 25×25 or more, not {input_size}×{input_size}")
        self.conv1 = conv3x3(in_channels, 64)
        channels = 64
        stages = []
        for i, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True)):
            stage = []
            for j in range(depth):
                stage.append(block(parts, channels, width, stride=2 if i > 0 and j == 0 else 1))
                channels = width * block.expansion
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn1 = parts.norm(channels)
        self.pool = layer.AvgPool2d(4, step_mode="m")
        self.flatten = layer.Flatten(step_mode="m")
        self.dropout = parts.dropout()
        self.linear = layer.Linear(channels * (last_size // 4) ** 2, num_classes, step_mode="m")
        self.relu1 = parts.neuron()
        init_conv_kaiming(self)
        nn.init.zeros_(self.linear.bias)

    def run(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = self.through(block, x)
        x = norm_and_fire(self.bn1, self.relu1, x)
        x = self.flatten(self.pool(x))  # [T, N, C, H, W] → [T, N, C·H/4·W/4]
        return self.linear(self.dropout(x))


spiking_resnet18 = partial(SpikingResNet, BasicBlock, (2, 2, 2, 2))
spiking_resnet34 = partial(SpikingResNet, BasicBlock, (3, 4, 6, 3))
spiking_resnet50 = partial(SpikingResNet, Bottleneck, (3, 4, 6, 3))
spiking_resnet101 = partial(SpikingResNet, Bottleneck, (3, 4, 23, 3))
spiking_resnet152 = partial(SpikingResNet, Bottleneck, (3, 8, 36, 3))
