"""The gradient through time, split by how far it has come: Eq. 10–14 and 20–24 of the paper, and Table 3's k.

∂L/∂u[t] is a sum over the steps t′ ≥ t at which a spike met the layers above (g_s[t′]), each carried back to t
through the states. A backward step is linear in what it carries, so a leading dimension keeps these apart: slot j of
step t is the part of ∂L/∂u[t] that comes from step t + j, its *lag*. Slot 0 is the spatial term g_s[t]·H[t]; slot
j + 1 of step t − 1 is slot j of step t carried one step back. Dropping slots k, k + 1, … is BPTT cut after k steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..surrogate import SURROGATES
from .equations import clif_states, clif_step_backward, lif_states, lif_step_backward
from .interface import (
    Dynamics,
    States,
    check_gamma,
    check_states,
    flat,
    is_dense,
    laid_out_like,
    same_layout,
    unflat,
)
from .torch_launch import TorchKernel, decay, initial_states


def lif_lags(
    us: list[Tensor], gamma: float | Tensor, g_spikes: Tensor, dynamics: Dynamics, lags: int
) -> Iterator[Tensor]:
    """LIF's ∂L/∂u[t] by lag, from the last step to the first: each [min(lags, T − t), …].

    Args:
        us: u[t] of each step, T of […]. g_spikes: ∂L/∂s from the layers above [T, …].
        lags: how many are kept.
    """
    d = dynamics
    g_v = g_spikes.new_zeros(1, *us[0].shape, dtype=us[0].dtype)  # slot 0: nothing comes from later steps
    for u, g in zip(reversed(us), reversed(g_spikes.unbind()), strict=True):
        h = SURROGATES[d.surrogate](u - d.v_threshold, d.alpha)
        g_u = lif_step_backward(u, h, in_slot_0(g, g_v), g_v, d.v_threshold, d.v_reset)
        yield g_u
        g_v = one_step_later(gamma * g_u, lags)


def clif_lags(
    us: list[Tensor], ms: list[Tensor], g_spikes: Tensor, dynamics: Dynamics, lags: int, through_m: bool
) -> Iterator[Tensor]:
    """CLIF's ∂L/∂u[t] by lag, as :func:`lif_lags` has it.

    Args:
        ms: m[−1 … T−1], T + 1 of […].
        through_m: False leaves out every path that passes m on its way: what remains is carried by u alone, as in
            LIF (the paper's M1), and the difference is what m carries (M2).
    """
    d = dynamics
    g_v = g_spikes.new_zeros(1, *us[0].shape, dtype=us[0].dtype)
    g_m = g_v
    for t in range(len(us) - 1, -1, -1):
        h, g_s = SURROGATES[d.surrogate](us[t] - d.v_threshold, d.alpha), in_slot_0(g_spikes[t], g_v)
        if through_m:
            g_u, g_m = clif_step_backward(us[t], ms[t], ms[t + 1], h, g_s, g_v, g_m, d.tau, d.v_threshold)
            g_m = one_step_later(g_m, lags)
        else:
            g_u = g_v + (g_s - g_v * (d.v_threshold + torch.sigmoid(ms[t + 1]))) * h
        yield g_u
        g_v = one_step_later((1 - 1 / d.tau) * g_u, lags)


def in_slot_0(g: Tensor, slots: Tensor) -> Tensor:
    """g […] in slot 0, zero in the others: like ``slots`` [lags, …]."""
    spatial = torch.zeros_like(slots)
    spatial[0] = g
    return spatial


def one_step_later(carried: Tensor, lags: int) -> Tensor:
    """What a step hands to the one before it, one lag further; slot 0 is for that step's own: [n, …] → [n + 1, …]."""
    return torch.cat([torch.zeros_like(carried[:1]), carried[: lags - 1]])


def lags_of(
    x: Tensor,
    g_spikes: Tensor,
    dynamics: Dynamics,
    gamma: Tensor | None = None,
    *,
    lags: int | None = None,
    through_m: bool = True,
) -> Iterator[Tensor]:
    """∂L/∂u[t] by lag of a sequence that starts afresh, from the last step to the first: each [min(lags, T − t), …].

    Args:
        x: input current [T, …]. g_spikes: ∂L/∂s from the layers above [T, …].
        gamma: PLIF's learned γ, a scalar; None for γ = 1 − 1/τ.
        lags: how many are kept; None keeps all T.
        through_m: see :func:`clif_lags`; other neurons have no m.
    """
    d, lags = dynamics, lags or x.shape[0]
    v, m = initial_states(x, (), d)
    if d.clif:
        us, ms = clif_states(x, v, m, d.tau, d.v_threshold)
        return clif_lags(us, ms, g_spikes, d, lags, through_m)
    us, _ = lif_states(x, v, decay(gamma, v, d), d.v_threshold, d.v_reset)
    return lif_lags(us, decay(gamma, v, d), g_spikes, d, lags)


def gradient_by_lag(
    x: Tensor,
    g_spikes: Tensor,
    dynamics: Dynamics,
    gamma: Tensor | None = None,
    *,
    lags: int | None = None,
    through_m: bool = True,
) -> Tensor:
    """∂L/∂u by lag, all steps at once: [lags, T, …]; slot (j, t) comes from step t + j, and is 0 where there is none.

    Its sum over the lags is autograd's ∂L/∂c. Arguments of :func:`lags_of`, which needs less memory.
    """
    lags = lags or x.shape[0]
    steps = list(lags_of(x, g_spikes, dynamics, gamma, lags=lags, through_m=through_m))[::-1]
    whole = steps[0].new_zeros(lags, *x.shape)
    for t, g_u in enumerate(steps):
        whole[: len(g_u), t] = g_u
    return whole


class WindowedSequence(torch.autograd.Function):
    """Input current [T, …] → spikes [T, …] and, if asked for, the last states […]; lags of ``window`` and more cut."""

    @staticmethod
    def forward(ctx: Any, x, gamma, dynamics, window, last, *states):
        x = x if is_dense(x[0]) else x.contiguous()
        states = tuple(laid_out_like(x[0], state) for state in states)
        ctx.save_for_backward(x, gamma, *states)
        ctx.dynamics, ctx.window = dynamics, window
        spikes, ends, _ = TorchKernel().forward(x, gamma, states, dynamics, last, True)
        ctx.mark_non_differentiable(*ends)
        return (spikes, *ends) if last else spikes

    @staticmethod
    def backward(ctx: Any, g_spikes, *g_last):
        x, gamma, *states = ctx.saved_tensors
        d, rest = ctx.dynamics, ctx.dynamics.v_reset or 0.0
        g_spikes = torch.stack([laid_out_like(x[0], g) for g in g_spikes]) if not same_layout(g_spikes, x) else g_spikes
        v, m = initial_states(x, tuple(states), d)
        before: list[Tensor] = []
        if d.clif:
            us, ms = clif_states(flat(x), v, m, d.tau, d.v_threshold)
            lags = clif_lags(us, ms, flat(g_spikes), d, ctx.window, through_m=True)
        else:
            us, before = lif_states(flat(x), v, decay(gamma, v, d), d.v_threshold, d.v_reset)
            lags = lif_lags(us, decay(gamma, v, d), flat(g_spikes), d, ctx.window)
        g_us = [g_u.sum(0) for g_u in lags][::-1]
        g_gamma = None
        if ctx.needs_input_grad[1]:
            parts = [(g_u * (v_before - rest)).sum() for g_u, v_before in zip(g_us, before, strict=True)]
            g_gamma = torch.stack(parts).sum().to(gamma.dtype)
        g_x = torch.stack([g_u.to(x.dtype) for g_u in g_us])
        return unflat(g_x, x), g_gamma, None, None, None, *[None] * len(states)


def fire_windowed(
    x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, *, window: int, last: bool
) -> tuple[Tensor, States]:
    """:func:`.sequence.fire_sequence`, with gradients through time cut after ``window`` steps (Table 3's k).

    A spike's gradient reaches the ``window`` steps that end with its own: 1 is the spatial gradient alone. None passes
    through the states, from one call to the next. It refuses what :func:`.sequence.fire_sequence` refuses.
    """
    check_gamma(x, gamma)
    if states:
        check_states(x[0], dict(zip(dynamics.states, states, strict=True)))
    out = WindowedSequence.apply(x, gamma, dynamics, window, last, *states)
    return (out[0], tuple(out[1:])) if last else (out, ())
