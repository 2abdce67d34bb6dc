"""The network that PLIF was published with on Fashion-MNIST (Fang et al., ICCV 2021), by its published names."""

from __future__ import annotations

from functools import partial

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from neurons import ops

from .layers import Parts, SpikingNetwork, check_steps, conv3x3, norm_and_fire

HIDDEN, VOTERS = 2048, 10  # at the published width of 128; output neurons to a class


class PLIFNet(SpikingNetwork):
    """conv3×3 – norm, once for a static image; then each step
    N – max-pool 2 – conv3×3 – norm – N – max-pool 2 – flatten – dropout – linear – N – dropout – linear – N – vote.

    N is a neuron layer, the last one included: a logit is the mean of a class's ten output spikes. No layer has a bias
    but the norms. Its paper trains it with ``drop_rate=0.5`` and :func:`utils.loss.rate_mse`.

    Args:
        parts: how to make neurons, norms and dropouts.
        num_classes: K. in_channels: C. input_size: H = W, at least 4.
        width: channels; the hidden layer has 16 neurons to each.

    Raises:
        ValueError: if the input is too small for two halvings.
    """

    def __init__(self, parts: Parts, num_classes: int, in_channels: int, input_size: int, width: int = 128):
        super().__init__()
        if input_size < 4:
            raise ValueError(f"this network needs frames of 4×4 or more, not {input_size}×{input_size}")
        self.static_conv = nn.Sequential(conv3x3(in_channels, width), parts.norm(width))
        self.conv = nn.Sequential(
            *(parts.neuron(), layer.MaxPool2d(2, step_mode="m")),
            *(conv3x3(width, width), parts.norm(width)),
            *(parts.neuron(), layer.MaxPool2d(2, step_mode="m")),
        )
        hidden = HIDDEN * width // 128
        self.fc = nn.Sequential(
            *(layer.Flatten(step_mode="m"), parts.dropout()),
            *(layer.Linear(width * (input_size // 4) ** 2, hidden, bias=False, step_mode="m"), parts.neuron()),
            parts.dropout(),
            *(layer.Linear(hidden, VOTERS * num_classes, bias=False, step_mode="m"), parts.neuron()),
        )

    def forward(self, x_seq: Tensor) -> Tensor:
        """Input [T, N, C, H, W] → logits [T, N, K], multiples of 1/10."""
        check_steps(x_seq)  # the first layers run before those that the base sees to
        self.reset_states()
        norm = self.static_conv[1]
        if ops.is_still(x_seq) and norm.is_scale_and_shift:  # one update of the running statistics, not T; not TEBN's T
            image = x_seq[:1] if self.step_mode == "m" else x_seq[0]
            x_seq = self.static_conv(image).expand(x_seq.shape[0], -1, *[-1] * 3)
        elif self.step_mode == "m":
            x_seq = self.static_conv(x_seq)
        else:
            x_seq = torch.stack([self.static_conv(x) for x in x_seq])
        return super().forward(x_seq)

    def run(self, x: Tensor) -> Tensor:
        x = self.fc(self.through(self.convolve, x))  # [T, N, C, H, W] → [T, N, 10·K]
        return x.unflatten(-1, (-1, VOTERS)).mean(-1)  # [T, N, 10·K] → [T, N, K]

    def convolve(self, x: Tensor) -> Tensor:
        """The layers ``conv``: [T, N, C, H, W] → [T, N, C, H/4, W/4]."""
        neuron, pool, conv, norm, second_neuron, second_pool = self.conv
        x = conv(pool(neuron(x)))
        return second_pool(norm_and_fire(norm, second_neuron, x))


plif_fashion = PLIFNet
plif_fashion_32 = partial(PLIFNet, width=32)
