"""ILIF: CLIF with an inhibitory current that follows its own spikes (IJCAI 2025, arXiv 2505.10371)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron


def ilif_step(
    c: Tensor,
    u: Tensor,
    m: Tensor,
    i: Tensor,
    tau: float,
    v_threshold: float,
    decay: float,
    spike: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u[t] = γ·u[t−1] + c[t] − max(i[t], 0);  s[t] = Θ(u[t] − V_th);  u[t] ← u[t] − V_th·s[t];
    m[t] = m[t−1] + s[t]·u[t];  u[t] ← u[t] − s[t]·σ(m[t]);  i[t+1] = k·(i[t] + c[t]·s[t]),  with γ = 1 − 1/τ.

    Args:
        c: input current [N, *]; u: membrane potential after the last reset [N, *].
        m: inhibition of the membrane [N, *]; i: inhibitory current [N, *]. decay: its k.

    Returns:
        s[t], u[t], m[t], i[t+1], all [N, *].
    """
    u = (1 - 1 / tau) * u + c - i.relu()
    s = spike(u - v_threshold)
    u = u - v_threshold * s
    m = m + s * u
    return s, u - s * m.sigmoid(), m, decay * (i + c * s)


class ILIF(SpikingNeuron):
    """Inhibitory LIF; arguments of :class:`SpikingNeuron`, but for the reset, which is soft.

    States ``v`` = u, ``m`` and ``i``, all 0 at the start. Written from a description of the published code, and not
    compared with it.
    """

    step = staticmethod(ilif_step)
    states = {"v": 0.0, "m": 0.0, "i": 0.0}
    options = ("tau", "v_threshold")
    settings = ("tau", "v_threshold", "decay")
    decay = 0.03
