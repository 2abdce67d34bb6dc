"""Batch norms of other papers on spiking networks: tdBN and TEBN, both with statistics merged over T."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .batch_norm import BatchNorm2d


class ThresholdDependentBatchNorm2d(BatchNorm2d):
    """tdBN (Zheng et al., AAAI 2021): α·V_th·(x − μ)/σ + β, μ and σ of a channel over T, N, H and W.

    α·V_th is what the learned weight starts at. With V_th = 1 and α = 1 that is merged batch norm, and so it is in
    every network here: α = 1/√2 is for a sum of two norms in front of one neuron (its paper's residual blocks).

    Args:
        num_features: C. v_threshold: V_th of the neuron behind it. alpha: α.
    """

    def __init__(self, num_features: int, v_threshold: float = 1.0, alpha: float = 1.0):
        super().__init__(num_features, merged=True)
        nn.init.constant_(self.weight, alpha * v_threshold)


class TemporalEffectiveBatchNorm2d(BatchNorm2d):
    """TEBN (Duan et al., NeurIPS 2022): p[t]·(γ·(x[t] − μ)/σ + β), μ and σ of a channel over T, N, H and W.

    Args:
        num_features: C. T: time steps; p [T], ``scale`` as SpikingJelly names it, is learned and starts at 1.

    Raises:
        ValueError: if ``T`` is missing, or a sequence of another length comes in.
    """

    is_scale_and_shift = False  # p[t] comes on top

    def __init__(self, num_features: int, T: int | None):
        if T is None:
            raise ValueError("tebn has a factor for each time step: it needs T")
        super().__init__(num_features, merged=True)
        self.scale = nn.Parameter(torch.ones(T))

    def forward(self, x: Tensor) -> Tensor:
        T = len(self.scale)
        if self.step_mode == "s":
            t = self.t  # the base counts it on
            if t >= T:
                raise ValueError(f"tebn was built for T = {T}, and this is step {t + 1}")
            return super().forward(x) * self.scale[t]
        if x.shape[0] != T:
            raise ValueError(f"tebn was built for T = {T}, and the sequence has {x.shape[0]} steps")
        return super().forward(x) * self.scale.view(-1, 1, 1, 1, 1)  # [T] → [T, 1, 1, 1, 1]


# (T) → (C) → norm
NORMS: dict[str, Callable[[int | None], Callable[[int], BatchNorm2d]]] = {
    "per_step": lambda T: partial(BatchNorm2d, merged=False),
    "merged": lambda T: partial(BatchNorm2d, merged=True),
    "tdbn": lambda T: ThresholdDependentBatchNorm2d,
    "tebn": lambda T: partial(TemporalEffectiveBatchNorm2d, T=T),
}
BATCH_NORMS = tuple(NORMS)
