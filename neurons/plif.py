"""PLIF: LIF with a learnable time constant (Fang et al., ICCV 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from .base import SpikingNeuron
from .lif import lif_step
from .ops import Learned


def plif_step(
    c: Tensor,
    u: Tensor,
    w: Tensor,
    v_threshold: float,
    v_reset: float | None,
    spike: Callable[[Tensor], Tensor],
    decay_input: bool = False,
    detach_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`.lif.lif_step` with 1/τ = σ(w)."""
    return lif_step(c, u, 1 - w.sigmoid(), v_threshold, v_reset, spike, decay_input, detach_reset)


class PLIF(SpikingNeuron):
    """LIF whose leak is learned, ``w``: 1/τ = σ(w), w₀ = −ln(τ − 1), a scalar or one for each of ``channels``.

    Arguments of :class:`SpikingNeuron`; ``tau`` is the initial τ. State ``v`` = u.
    """

    step = staticmethod(plif_step)
    states = {"v": "v_reset"}
    learned = (Learned("w", lambda neuron: -math.log(neuron.tau - 1), per_channel=True),)
    options = ("tau", "v_threshold", "v_reset", "decay_input", "detach_reset")
    settings = ("v_threshold", "v_reset", "decay_input", "detach_reset")
    has_lif_twin = True
