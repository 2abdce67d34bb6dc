"""The nodes of a graph that fused kernels compute: forward, what is kept for the gradient, backward.

``run_…`` calls a back end's kernels on dynamics. :class:`Fire` and :class:`NormFire` are autograd's nodes around that;
:mod:`.operators` registers the same as operators of torch, whose dynamics are spelt as text. They can be differentiated
once; the reference more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor

from .backends import load_kernels
from .dynamics import Inputs, spell
from .layout import empty_frames, empty_state, laid_out_like
from .norm import RANKS, Norm

NAMESPACE = __package__.partition(".")[0]  # neurons here, clif_neurons where it is installed
OPERATORS = getattr(torch.ops, NAMESPACE)


def run_fire(x, table, states, scale, shift, dynamics, backend, last, train):
    """→ spikes; the last states, if asked for; what the back end saves for the gradient."""
    inputs = Inputs(dynamics, x, table, tuple(states), None if scale is None else (scale, shift))
    spikes, ends, saved = load_kernels(backend).forward(inputs, last, train)
    return [spikes, *ends, *saved]


def run_fire_backward(x, table, states, saved, scale, shift, g_spikes, g_last, dynamics, backend):
    """→ gradients of x; the states, if there are any; the table, scale and shift, if there are such."""
    kernels = load_kernels(backend)
    inputs = Inputs(dynamics, x, table, tuple(states), None if scale is None else (scale, shift))
    g_spikes, g_last = frames_like(x, g_spikes), tuple(laid_out_like(x[0], g.float()) for g in g_last)
    g_c, g_table, g_states, sums = kernels.backward(inputs, tuple(saved), g_spikes, g_last)
    of_table = () if table is None else (g_table,)
    if scale is None:
        return [g_c, *g_states, *of_table]
    assert sums is not None
    sum_g, sum_gx = sums
    zero = torch.zeros_like(scale)
    g_x = kernels.combine(g_c, x, scale, zero, zero)
    return [g_x, *g_states, *of_table, sum_gx.clone(), sum_g.clone()]  # not two views of one


def run_norm_fire(x, weight, bias, table, eps, merged, ranks, dynamics, backend, train):
    """→ spikes; mean and biased variance [T, C] ([1, C] if merged); n; what the back end saves for the gradient."""
    norm = Norm(weight, bias, eps, merged, RANKS.get(ranks))
    spikes, mean, var, n, saved = load_kernels(backend).norm_forward(Inputs(dynamics, x, table), norm, train)
    n = n if isinstance(n, Tensor) else torch.full((), float(n), dtype=torch.float64, device=x.device)
    return [spikes, mean, var, n, *saved]


def run_norm_fire_backward(x, weight, bias, mean, var, n, table, saved, g_spikes, eps, ranks, dynamics, backend):
    """→ gradients of x, weight, bias, and the table, if there is one."""
    norm = Norm(weight, bias, eps, len(mean) < len(x), RANKS.get(ranks))
    g_x, g_weight, g_bias, g_table = load_kernels(backend).norm_backward(
        Inputs(dynamics, x, table), norm, mean, var, n, tuple(saved), frames_like(x, g_spikes)
    )
    return [g_x, g_weight, g_bias, *(() if g_table is None else (g_table,))]


def frames_like(x: Tensor, g: Tensor) -> Tensor:
    """A gradient [T, …] in x's dtype and the layout of its frames, one after the other."""
    if g.dtype == x.dtype and g.stride() == (x.shape[1:].numel(), *x.stride()[1:]):
        return g
    return empty_frames(x).copy_(g)


def as_it_lay(x: Tensor, frame: tuple[int, ...]) -> Tensor:
    """A saved sequence with the strides that its frames had on the way forward, which kernels count on.

    A hook on saved tensors (``save_on_cpu`` into pinned memory, say) may hand back a copy in another layout.
    """
    if x.stride()[1:] == frame:
        return x
    return torch.empty_strided(x.shape, (x.shape[1:].numel(), *frame), dtype=x.dtype, device=x.device).copy_(x)


def refuse_batches(backend: str, grads: Sequence[Tensor | None]) -> None:
    """Refuse gradients that torch.vmap holds together, as ``is_grads_batched`` and a vectorised Jacobian do.

    Raises:
        RuntimeError: if one is such: it has no memory that a kernel could read.
    """
    if torch.compiler.is_compiling():
        return
    if any(g is not None and (is_batchedtensor(g) or is_legacy_batchedtensor(g)) for g in grads):
        raise RuntimeError(f"backend {backend} takes no gradients in batches (vmap); take the reference")


# ---- a neuron


class Fire(torch.autograd.Function):
    """Input current [T, …] → spikes [T, …]; the last states […], if asked for; what the back end saves."""

    @staticmethod
    def forward(ctx: Any, declared, dynamics, backend, last, x, table, scale, shift, *states):
        train = any(ctx.needs_input_grad)
        out = run_fire(x, table, states, scale, shift, dynamics, backend, last, train)
        ctx.declared, ctx.dynamics, ctx.backend, ctx.states = declared, dynamics, backend, len(states)
        ctx.outputs, ctx.frame = 1 + (len(dynamics.states) if last else 0), x.stride()[1:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, table, scale, shift, *states, *out[ctx.outputs :])
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads):
        run, dynamics = run_fire_backward, ctx.dynamics
        if torch.is_grad_enabled():  # a second derivative is prepared, which the operator refuses when it comes
            run, dynamics = OPERATORS.fire_backward, spell(ctx.declared, ctx.dynamics)
        g_x, g_table, g_states, g_scale, g_shift = fire_gradients(ctx, grads, run, dynamics)
        return None, None, None, None, g_x, g_table, g_scale, g_shift, *g_states


def fire_gradients(ctx: Any, grads: Any, run: Any, dynamics: Any) -> tuple:
    """→ g_x, g_table, g_states, g_scale, g_shift, by the gradient ``run`` of the outputs' gradients ``grads``."""
    x, table, scale, shift, *rest = ctx.saved_tensors
    refuse_batches(ctx.backend, grads)
    x = as_it_lay(x, ctx.frame)
    states, saved = rest[: ctx.states], rest[ctx.states :]
    g_spikes, *g_last = grads[: ctx.outputs]
    if all(g is None for g in g_last):
        g_last = []
    g_last = [empty_state(x).zero_() if g is None else g for g in g_last]
    g_spikes = torch.zeros_like(x) if g_spikes is None else g_spikes
    g_x, *rest = run(x, table, states, saved, scale, shift, g_spikes, g_last, dynamics, ctx.backend)
    g_states, rest = rest[: ctx.states], rest[ctx.states :]
    g_table = None if table is None else rest.pop(0)
    g_scale, g_shift = (None, None) if scale is None else rest
    return g_x, g_table, g_states, g_scale, g_shift


# ---- batch norm and a neuron


class NormFire(torch.autograd.Function):
    """x [T, N, C, H, W] → spikes; mean and biased variance [T, C] ([1, C] if merged); n; what the back end saves."""

    @staticmethod
    def forward(ctx: Any, declared, dynamics, backend, eps, merged, ranks, x, weight, bias, table):
        train = any(ctx.needs_input_grad)
        out = run_norm_fire(x, weight, bias, table, eps, merged, ranks, dynamics, backend, train)
        ctx.declared, ctx.dynamics, ctx.backend, ctx.eps, ctx.ranks = declared, dynamics, backend, eps, ranks
        ctx.frame, (_, mean, var, n, *saved) = x.stride()[1:], out
        ctx.save_for_backward(x, weight, bias, mean, var, n, table, *saved)
        ctx.mark_non_differentiable(*out[1:])
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, g_spikes, *_):
        run, dynamics = run_norm_fire_backward, ctx.dynamics
        if torch.is_grad_enabled():
            run, dynamics = OPERATORS.norm_fire_backward, spell(ctx.declared, ctx.dynamics)
        g_x, g_weight, g_bias, g_table = norm_fire_gradients(ctx, g_spikes, run, dynamics)
        return None, None, None, None, None, None, g_x, g_weight, g_bias, g_table


def norm_fire_gradients(ctx: Any, g_spikes: Tensor, run: Any, dynamics: Any) -> tuple:
    """→ g_x, g_weight, g_bias, g_table, by the gradient ``run``."""
    x, weight, bias, mean, var, n, table, *saved = ctx.saved_tensors
    refuse_batches(ctx.backend, (g_spikes,))
    x = as_it_lay(x, ctx.frame)
    settings = (ctx.eps, ctx.ranks, dynamics, ctx.backend)
    g_x, g_weight, g_bias, *rest = run(x, weight, bias, mean, var, n, table, saved, g_spikes, *settings)
    return g_x, g_weight, g_bias, rest[0] if rest else None
