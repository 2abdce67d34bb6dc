"""LIF: the leaky integrate-and-fire neuron (Section 2 of the paper)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron
from .kernels import Dynamics


def lif_step(
    c: Tensor,
    u: Tensor,
    gamma: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    spike: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """u[t] = γ·u[t−1] + c[t];  s[t] = Θ(u[t] − V_th);  u[t] ← u[t] − V_th·s[t].

    With a hard reset the membrane leaks toward v_reset and a spike sets it there:
    u[t] = v_reset + γ·(u[t−1] − v_reset) + c[t];  u[t] ← (1 − s[t])·u[t] + v_reset·s[t].

    Args:
        c: input current [N, *]; u: membrane potential after the last reset [N, *].
        gamma: γ = 1 − 1/τ.

    Returns:
        spikes s[t] and membrane potential after reset u[t], both [N, *]. No part of it is detached.
    """
    if v_reset is None:
        u = gamma * u + c
        s = spike(u - v_threshold)
        return s, u - v_threshold * s
    u = v_reset + gamma * (u - v_reset) + c
    s = spike(u - v_threshold)
    # a spike resets u = +∞ like any other, and 0·∞ would be no number
    return s, (1 - s) * u.clamp(max=1e18) + v_reset * s


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire; arguments of :class:`SpikingNeuron`. State ``v`` = u."""

    def dynamics(self) -> Dynamics | None:
        return self.dynamics_of(clif=False)

    def step(self, c: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        return lif_step(c, u, 1 - 1 / self.tau, self.v_threshold, self.v_reset, self.spike)
