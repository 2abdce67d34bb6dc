"""A neuron over a whole sequence as one autograd node, whatever computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import load_kernel
from .interface import Dynamics, States, check_gamma, check_states, is_dense, laid_out_like, same_layout


class FireSequence(torch.autograd.Function):
    """Input current [T, …] → spikes [T, …] and, if asked for, the last states […]."""

    @staticmethod
    def forward(ctx: Any, x, gamma, dynamics, kernel, last, *states):
        x = x if is_dense(x[0]) else x.contiguous()
        states = tuple(laid_out_like(x[0], state) for state in states)
        ctx.dynamics, ctx.kernel, ctx.last, ctx.count = dynamics, kernel, last, len(states)
        spikes, last_states, saved = kernel.forward(x, gamma, states, dynamics, last, any(ctx.needs_input_grad))
        ctx.save_for_backward(x, gamma, *states, *saved)
        return (spikes, *last_states) if last else spikes

    @staticmethod
    def backward(ctx: Any, g_spikes, *g_last):
        x, gamma, *rest = ctx.saved_tensors
        states, saved = tuple(rest[: ctx.count]), tuple(rest[ctx.count :])
        g_spikes = torch.stack([laid_out_like(x[0], g) for g in g_spikes]) if not same_layout(g_spikes, x) else g_spikes
        g_last = tuple(laid_out_like(x[0], g) for g in g_last)
        g_x, g_gamma, g_states = ctx.kernel.backward(x, gamma, states, saved, g_spikes, g_last, ctx.dynamics)
        return g_x, g_gamma, None, None, None, *g_states


def fire_sequence(
    x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, *, backend: str, last: bool
) -> tuple[Tensor, States]:
    """Input current [T, …] → spikes [T, …] and the last states […] (none unless ``last``).

    Args:
        gamma: PLIF's learned γ, a scalar; None for γ = 1 − 1/τ.
        states: states before the first step […], or none to start afresh.

    Raises:
        ValueError: if a state is not like a frame of x, or γ no scalar on its device.
    """
    check_gamma(x, gamma)
    if states:
        check_states(x[0], dict(zip(dynamics.states, states, strict=True)))
    out = FireSequence.apply(x, gamma, dynamics, load_kernel(backend), last, *states)
    return (out[0], tuple(out[1:])) if last else (out, ())
