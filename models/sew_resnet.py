"""SEW-ResNet (Fang et al., NeurIPS 2021): residual blocks that add spikes to spikes, by SpikingJelly's names."""

from __future__ import annotations

from functools import partial

from spikingjelly.activation_based import layer
from torch import Tensor, nn

from .layers import Conv2d, Parts, SpikingNetwork, conv3x3, init_conv_kaiming, norm_and_fire

WIDTHS = (64, 128, 256, 512)


class SEWBlock(nn.Module):
    """conv3×3 – norm – neuron – conv3×3 – norm – neuron, plus the input's spikes (ADD): sums of spikes, 0, 1, 2 …

    Where the block changes the shape, its input goes through conv1×1 – norm – neuron.

    [T, N, in_channels, H, W] → [T, N, channels, H/stride, W/stride].
    """

    def __init__(self, parts: Parts, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1, self.sn1 = parts.norm(channels), parts.neuron()
        self.conv2 = conv3x3(channels, channels)
        self.bn2, self.sn2 = parts.norm(channels), parts.neuron()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            conv = Conv2d(in_channels, channels, 1, stride, bias=False, step_mode="m")
            self.downsample, self.downsample_sn = nn.Sequential(conv, parts.norm(channels)), parts.neuron()

    def forward(self, x: Tensor) -> Tensor:
        y = norm_and_fire(self.bn1, self.sn1, self.conv1(x))
        y = norm_and_fire(self.bn2, self.sn2, self.conv2(y))
        if self.downsample is not None:
            conv, norm = self.downsample
            x = norm_and_fire(norm, self.downsample_sn, conv(x))
        return y + x


class SEWResNet(SpikingNetwork):
    """3×3 stem – norm – neuron, four stages of blocks, mean over H and W, dropout, linear: the form for small images.

    Args:
        depths: blocks in each of the four stages.
        parts: how to make neurons, norms and dropouts.
        num_classes: K. in_channels: C. input_size: H = W, any.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        parts: Parts,
        num_classes: int,
        in_channels: int,
        input_size: int,
    ):
        super().__init__()
        self.conv1 = conv3x3(in_channels, WIDTHS[0])
        self.bn1, self.sn1 = parts.norm(WIDTHS[0]), parts.neuron()
        channels, stages = WIDTHS[0], []
        for i, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True)):
            strides = [2 if i > 0 and j == 0 else 1 for j in range(depth)]
            blocks = [SEWBlock(parts, channels if j == 0 else width, width, stride) for j, stride in enumerate(strides)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = parts.dropout()
        self.fc = layer.Linear(channels, num_classes, step_mode="m")
        init_conv_kaiming(self)

    def run(self, x: Tensor) -> Tensor:
        x = norm_and_fire(self.bn1, self.sn1, self.conv1(x))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = self.through(block, x)
        return self.fc(self.dropout(x.mean((-2, -1))))  # [T, N, C, H, W] → [T, N, C] → [T, N, K]


sew_resnet18 = partial(SEWResNet, (2, 2, 2, 2))
