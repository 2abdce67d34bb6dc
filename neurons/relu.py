"""ReLU in a neuron's place: the ANN baseline, meant for T = 1."""

from __future__ import annotations

from spikingjelly.activation_based.base import StepModule
from torch import Tensor, nn


class ReLU(nn.ReLU, StepModule):
    """max(x, 0) on [T, N, *] or [N, *] alike; it has no state, threshold or time constant."""

    def __init__(self, step_mode: str = "m"):
        super().__init__()
        self.step_mode = step_mode

    @classmethod
    def takes(cls, option: str) -> bool:
        """Whether an option of ``build_neuron`` means something to it."""
        return option == "step_mode"

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()
