"""Sequences through the fused kernels: by torch's operators, or by an autograd node that does the same directly.

An operator of torch.library costs a quarter of a millisecond a call, more than a small layer does. Where nobody looks
at operators (no compiler, no fake tensors) the node takes its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .dynamics import Dynamics, check_table, first_states, spell
from .layout import channels_last, is_dense, laid_out_like
from .norm import SumOverRanks, check_norm, name_of
from .operators import (
    fire_gradients,
    fire_op,
    norm_fire_gradients,
    norm_fire_op,
    run_fire,
    run_norm_fire,
    save_fire,
    save_norm_fire,
)

Tensors = tuple[Tensor, ...]


class FireNow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, declared, dynamics, backend, last, x, table, scale, shift, *states):
        inputs = (x, table, states, scale, shift, dynamics, backend, last, any(ctx.needs_input_grad))
        out = run_fire(*inputs)
        ctx.declared = declared
        save_fire(ctx, inputs, out)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads):
        g_x, g_table, g_states, g_scale, g_shift, *_ = fire_gradients(ctx, list(grads))
        return None, None, None, None, g_x, g_table, g_scale, g_shift, *g_states


class NormFireNow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, declared, dynamics, backend, eps, merged, ranks, x, weight, bias, table):
        inputs = (x, weight, bias, table, eps, merged, ranks, dynamics, backend, any(ctx.needs_input_grad))
        out = run_norm_fire(*inputs)
        ctx.declared = declared
        save_norm_fire(ctx, inputs, out)
        ctx.mark_non_differentiable(*out[1:])
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads):
        g_x, g_weight, g_bias, g_table, *_ = norm_fire_gradients(ctx, list(grads))
        return None, None, None, None, None, None, g_x, g_weight, g_bias, g_table


def is_watched(x: Tensor) -> bool:
    """Whether somebody looks at operators: a compiler, an export, fake tensors, a dispatch mode."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or is_in_torch_dispatch_mode()


def prepared(x: Tensor, dynamics: Dynamics, norm: bool) -> Tensor:
    """x [T, …] in a layout that kernels take: dense frames, channels last where channels differ."""
    if norm or dynamics.per_channel:
        return channels_last(x)
    return x if is_dense(x[0]) else x.contiguous()


def fire(
    x: Tensor,
    table: Tensor | None,
    states: Tensors,
    dynamics: Dynamics,
    name: str,
    backend: str,
    last: bool,
    norm: Tensors | None = None,
) -> tuple[Tensor, Tensors]:
    """Input current [T, …] → spikes [T, …] and the last states […] (none unless ``last``).

    Args:
        table: the learned parameters (:func:`.dynamics.parameter_table`), or None.
        states: states before the first step […], or none to start afresh.
        name: the declared neuron's, see :func:`.dynamics.declare`.
        backend: ``"c"`` or ``"triton"``.
        norm: scale and shift [T, C] that x [T, N, C, *] is normalised with on its way in.
    """
    check_table(table, x)
    x = prepared(x, dynamics, norm is not None)
    states = first_states(dynamics, states, x[0]) if states else ()
    states = tuple(laid_out_like(x[0], state) for state in states)
    scale, shift = norm or (None, None)
    if norm is not None:
        check_norm(x, norm[0][0], norm[1][0])
    if is_watched(x):
        train = torch.is_grad_enabled()
        out = fire_op(x, table, list(states), scale, shift, spell(name, dynamics), backend, last, train)
    else:
        out = FireNow.apply(name, dynamics, backend, last, x, table, scale, shift, *states)
    return out[0], tuple(out[1 : 1 + len(dynamics.states)]) if last else ()


def norm_and_fire(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    table: Tensor | None,
    dynamics: Dynamics,
    name: str,
    backend: str,
    merged: bool = False,
    sum_over_ranks: SumOverRanks | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch norm by the batch's own statistics and the neuron behind it, from a fresh state.

    Args:
        x: [T, N, C, H, W]. weight, bias: the norm's, [C]. eps: its ε.
        table, dynamics, name, backend: see :func:`fire`.
        merged: T belongs to the batch, and a statistic to a channel alone.
        sum_over_ranks: where x is a share of the batch; its statistics are then the whole batch's.

    Returns:
        spikes like x, the mean and biased variance of each (t, c), [T, C] ([1, C] if merged), and the n behind each.
    """
    check_table(table, x)
    check_norm(x, weight, bias)
    ranks, x = name_of(sum_over_ranks), prepared(x, dynamics, True)
    if is_watched(x):
        spelt, train = spell(name, dynamics), torch.is_grad_enabled()
        out = norm_fire_op(x, weight, bias, table, eps, merged, ranks, spelt, backend, train)
    else:
        out = NormFireNow.apply(name, dynamics, backend, eps, merged, ranks, x, weight, bias, table)
    spikes, mean, var, n, *_ = out
    return spikes, mean, var, n
