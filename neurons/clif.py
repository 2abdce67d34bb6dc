"""CLIF: the complementary leaky integrate-and-fire neuron (Section 4 of the paper)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron


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
        c: input current [N, *]; u: membrane potential after the last reset [N, *].
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

    step = staticmethod(clif_step)
    states = {"v": 0.0, "m": 0.0}
    options = ("tau", "v_threshold")
    has_lif_twin = True
