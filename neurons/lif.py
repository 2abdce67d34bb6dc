"""LIF: the leaky integrate-and-fire neuron (Section 2 of the paper)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron
from .defaults import TAU
from .kernels import Dynamics


def lif_step(
    c: Tensor,
    u: Tensor,
    gamma: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    spike: Callable[[Tensor], Tensor],
    *,
    decay_input: bool = False,
    detach_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """u[t] = γ·u[t−1] + c[t];  s[t] = Θ(u[t] − V_th);  u[t] ← u[t] − V_th·s[t].

    With a hard reset the membrane leaks toward v_reset and a spike sets it there:
    u[t] = v_reset + γ·(u[t−1] − v_reset) + c[t];  u[t] ← (1 − s[t])·u[t] + v_reset·s[t].

    Args:
        c: input current [N, *]; u: membrane potential after the last reset [N, *].
        gamma: γ = 1 − 1/τ.
        decay_input: (1 − γ)·c[t] = c[t]/τ in c[t]'s place.
        detach_reset: no gradient through the reset's s[t].

    Returns:
        spikes s[t] and membrane potential after reset u[t], both [N, *]. Nothing is detached unless asked for.
    """
    if decay_input:
        c = (1 - gamma) * c
    u = gamma * u + c if v_reset is None else v_reset + gamma * (u - v_reset) + c
    s = spike(u - v_threshold)
    fired = s.detach() if detach_reset else s
    return s, u - v_threshold * fired if v_reset is None else (1 - fired) * u + v_reset * fired


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire; arguments of :class:`SpikingNeuron`. State ``v`` = u.

    Args:
        decay_input, detach_reset: the other convention of the literature, SpikingJelly's ``LIFNode`` (with
            ``v_reset=0.0``): see :func:`lif_step`. The kernels don't know it: its steps run under autograd.
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

    def dynamics(self) -> Dynamics | None:
        return None if self.decay_input or self.detach_reset else self.dynamics_of(clif=False)

    def step(self, c: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        return lif_step(
            c,
            u,
            1 - 1 / self.tau,
            self.v_threshold,
            self.v_reset,
            self.spike,
            decay_input=self.decay_input,
            detach_reset=self.detach_reset,
        )
