"""KLIF: LIF with a learned slope (Jiang & Zhang 2023, arXiv 2302.09238)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron
from .ops import Learned


def klif_step(
    c: Tensor, v: Tensor, k: Tensor, tau: float, v_threshold: float, spike: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """f[t] = ReLU(k·(γ·v[t−1] + c[t]));  s[t] = Θ(f[t] − V_th);  v[t] = f[t] − V_th·s[t],  with γ = 1 − 1/τ.

    Args:
        c: input current [N, *]; v: membrane potential after the last reset [N, *]; k: the slope.

    Returns:
        spikes s[t] and v[t], both [N, *].
    """
    f = (k * ((1 - 1 / tau) * v + c)).relu()
    s = spike(f - v_threshold)
    return s, f - v_threshold * s


class KLIF(SpikingNeuron):
    """LIF behind a ReLU of learned slope ``k``, 1 at the start: a scalar, or one for each of ``channels``.

    Charge and reset are those of LIF here (SpikingJelly's own defaults weigh the input by 1/τ and reset to 0), so that
    k is all that differs. Arguments of :class:`SpikingNeuron`; the reset is soft. State ``v``.
    """

    step = staticmethod(klif_step)
    states = {"v": 0.0}
    learned = (Learned("k", 1.0, per_channel=True),)
    options = ("tau", "v_threshold")
