"""CLIF: the complementary leaky integrate-and-fire neuron (Section 4 of the paper)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron
from .defaults import TAU
from .kernels import Dynamics


def clif_step(
    c: Tensor,
    u: Tensor,
    m: Tensor,
    tau: float,
    v_threshold: float,
    spike: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """u[t] = γ·u[t−1] + c[t];  s[t] = Θ(u[t] − V_th);
    m[t] = m[t−1]·σ(u[t]/τ) + s[t];  u[t] ← u[t] − s[t]·(V_th + σ(m[t])),  with γ = 1 − 1/τ.

    Args:
        c: input current [N, *]; u: membrane potential after the last reset [N, *];
            m: complementary potential [N, *].

    Returns:
        spikes s[t], membrane potential after reset u[t], complementary potential m[t], all [N, *].
        No part of it is detached.
    """
    u = (1 - 1 / tau) * u + c
    s = spike(u - v_threshold)
    m = m * (u / tau).sigmoid() + s
    u = u - s * (v_threshold + m.sigmoid())
    return s, u, m


class CLIF(SpikingNeuron):
    """Complementary LIF; arguments of :class:`SpikingNeuron`, but for the reset: it is soft by definition.

    States ``v`` = u and ``m``, both 0 at the start.
    """

    def __init__(
        self,
        tau: float = TAU,
        v_threshold: float = 1.0,
        surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
        alpha: float = 1.0,
        step_mode: str = "m",
        backend: str = "auto",
        keep_state: bool = True,
        bptt_k: int | None = None,
    ):
        super().__init__(tau, v_threshold, None, surrogate, alpha, step_mode, backend, keep_state, bptt_k)
        self.register_memory("m", 0.0)

    def dynamics(self) -> Dynamics | None:
        return self.dynamics_of(clif=True)

    def step(self, c: Tensor, u: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        return clif_step(c, u, m, self.tau, self.v_threshold, self.spike)
