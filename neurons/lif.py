"""LIF: the leaky integrate-and-fire neuron (Section 2 of the paper)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron


def lif_step(
    c: Tensor,
    u: Tensor,
    gamma: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    spike: Callable[[Tensor], Tensor],
    decay_input: bool = False,
    detach_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """u[t] = γ·u[t−1] + c[t];  s[t] = Θ(u[t] − V_th);  u[t] ← u[t] − V_th·s[t].

    With a hard reset the membrane leaks toward v_reset and a spike sets it there:
    u[t] = v_reset + γ·(u[t−1] − v_reset) + c[t];  u[t] ← (1 − s[t])·u[t] + v_reset·s[t].

    Args:
        c: input current [N, *]; u: membrane potential after the last reset [N, *].
        gamma: γ = 1 − 1/τ.
        decay_input: charge with c[t]/τ = (1 − γ)·c[t] instead of c[t], as much of the literature does.
        detach_reset: no gradient passes the s[t] of the reset.

    Returns:
        spikes s[t] and membrane potential after reset u[t], both [N, *]. Without ``detach_reset`` no part is detached.
    """
    if decay_input:
        c = (1 - gamma) * c
    u = gamma * u + c if v_reset is None else v_reset + gamma * (u - v_reset) + c
    s = spike(u - v_threshold)
    fired = s.detach() if detach_reset else s
    if v_reset is None:
        return s, u - v_threshold * fired
    # a spike resets u = +∞ like any other, and 0·∞ would be no number
    return s, (1 - fired) * u.clamp(max=1e18) + v_reset * fired


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire; arguments of :class:`SpikingNeuron`. State ``v`` = u."""

    step = staticmethod(lif_step)
    states = {"v": "v_reset"}
    options = ("tau", "v_threshold", "v_reset", "decay_input", "detach_reset")
    settings = ("gamma", "v_threshold", "v_reset", "decay_input", "detach_reset")
    has_lif_twin = True

    @property
    def gamma(self) -> float:
        """γ = 1 − 1/τ."""
        return 1 - 1 / self.tau
