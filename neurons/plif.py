"""PLIF: LIF with a learnable time constant (Fang et al., ICCV 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .base import SpikingNeuron
from .defaults import TAU
from .kernels import Dynamics
from .lif import lif_step


class PLIF(SpikingNeuron):
    """LIF whose leak is learned, one scalar ``w`` per layer: 1/τ = σ(w), w₀ = −ln(τ − 1).

    Arguments of :class:`neurons.LIF`; ``tau`` is the initial τ. State ``v`` = u. As its paper has it:
    ``v_reset=0.0, decay_input=True, detach_reset=True, surrogate="atan"``.
    """

    def __init__(
        self,
        tau: float = TAU,
        v_threshold: float = 1.0,
        v_reset: float | None = None,
        surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
        alpha: float = 1.0,
        step_mode: str = "m",
        backend: str = "auto",
        keep_state: bool = True,
        bptt_k: int | None = None,
        decay_input: bool = False,
        detach_reset: bool = False,
    ):
        self.decay_input, self.detach_reset = decay_input, detach_reset
        super().__init__(tau, v_threshold, v_reset, surrogate, alpha, step_mode, backend, keep_state, bptt_k)
        self.w = nn.Parameter(torch.tensor(-math.log(self.tau - 1)))

    def learned_gamma(self) -> Tensor:
        """γ = 1 − 1/τ = 1 − σ(w), a scalar."""
        return 1 - self.w.sigmoid()

    def dynamics(self) -> Dynamics | None:
        return None if self.decay_input or self.detach_reset else self.dynamics_of(clif=False)

    def step(self, c: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        return lif_step(
            c,
            u,
            self.learned_gamma(),
            self.v_threshold,
            self.v_reset,
            self.spike,
            decay_input=self.decay_input,
            detach_reset=self.detach_reset,
        )
