"""GLIF: the gated LIF (Yao et al., NeurIPS 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .base import SpikingNeuron
from .ops import Learned

THRESHOLD, DECAY, CONDUCTANCE = 0.5, 0.25, 0.5  # what the paper starts from


def glif_step(
    c: Tensor,
    u: Tensor,
    s: Tensor,
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    tau: Tensor,
    v_threshold: Tensor,
    linear_decay: Tensor,
    v_subreset: Tensor,
    conduct: Tensor,
    spike: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 5–10 of its paper; a, b, c′, τ, V_th, l, r, g are σ of what is learned, g for each step:

    u[t] = (1 − a·(1 − τ))·u[t−1]·(1 − c′·s[t−1]) − (1 − a)·l + (1 − b·(1 − g[t]))·c[t] − (1 − c′)·r·s[t−1];
    s[t] = Θ(u[t] − V_th).

    Args:
        c: input current [N, *]; u, s: membrane potential and spikes of the last step [N, *]. The reset acts a step
            later.

    Returns:
        spikes s[t], u[t], and s[t] again, the next step's state, all [N, *].
    """
    a, b, hard, theta = alpha.sigmoid(), beta.sigmoid(), gamma.sigmoid(), v_threshold.sigmoid()
    kept = (1 - a * (1 - tau.sigmoid())) * u * (1 - hard * s)
    lost = (1 - a) * linear_decay.sigmoid() + (1 - hard) * v_subreset.sigmoid() * s
    u = kept - lost + (1 - b * (1 - conduct.sigmoid())) * c
    s = spike(u - theta)
    return s, u, s


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def gate(neuron: SpikingNeuron) -> Tensor:
    """A gate starts near ½: σ of a number drawn from ±0.1."""
    return torch.empty(()).uniform_(-0.1, 0.1)


class GLIF(SpikingNeuron):
    """LIF with learned gates between exponential and linear leak, constant and per-step input, soft and hard reset.

    One set of weights per layer, or per channel if ``channels`` is given. Leak, threshold and reset are learned from
    the paper's start (decay 0.25, threshold 0.5): a τ or V_th from outside means nothing to it. It learns a conductance
    for each step, and so takes whole sequences of T steps only. States ``v`` = u and ``fired``, the last spikes.
    """

    step = staticmethod(glif_step)
    states = {"v": 0.0, "fired": 0.0}
    learned = (
        Learned("alpha", gate, per_channel=True),
        Learned("beta", gate, per_channel=True),
        Learned("gamma", gate, per_channel=True),
        Learned("tau", logit(DECAY), per_channel=True),
        Learned("v_threshold", logit(THRESHOLD), per_channel=True),
        Learned("linear_decay", lambda neuron: logit(THRESHOLD / (2 * neuron.T)), per_channel=True),
        Learned("v_subreset", logit(THRESHOLD), per_channel=True),
        Learned("conduct", logit(CONDUCTANCE), per_step=True, per_channel=True),
    )
