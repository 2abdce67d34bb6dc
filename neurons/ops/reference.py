"""The reference: a neuron's step unrolled over time under autograd; any device, any precision, twice differentiable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .dynamics import Dynamics, first_states, per_element


def unrolled(
    x: Tensor, learned: tuple[Tensor, ...], states: tuple[Tensor, ...], dynamics: Dynamics
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Input current [T, N, *] → spikes [T, N, *] and the last states [N, *].

    Args:
        learned: the learned parameters, in the step's order.
        states: states before the first step [N, *], or none to start from zero.
    """
    states = first_states(dynamics, states, x[0])
    dtype, dims = torch.promote_types(x.dtype, torch.float32), x.dim() - 1
    spikes = []
    for t, c in enumerate(x.unbind()):
        now = (per_element(each, value, t, dims) for each, value in zip(dynamics.learned, learned, strict=True))
        s, *rest = dynamics.advance(c.to(dtype), *states, *now)
        states = tuple(rest)
        spikes.append(s.to(x.dtype))
    return torch.stack(shown(spikes, states)), owned(states, c)


def owned(states: Sequence[Tensor], *others: Tensor) -> tuple[Tensor, ...]:
    """States that are none of the others: spikes or an input that somebody changes in place would change them."""
    return tuple(state.clone() if any(state is other for other in others) else state for state in states)


def shown(spikes: list[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """The spikes of T steps [N, *], NaN in the last one where a state after it is not finite.

    A NaN potential does not fire, and nothing above would know of it.
    """
    *before, last = spikes
    for state in states:
        last = torch.where(state.isfinite(), last, math.nan)
    return [*before, last]
