"""The fused kernels as operators of torch: registered once, with shapes for fake tensors, gradients and autocast.

``fire`` takes a sequence to spikes, ``norm_fire`` normalises it first by its own statistics; ``fire_backward`` and
``norm_fire_backward`` are their gradients. An operator's arguments are tensors, numbers and strings: dynamics are spelt
(:func:`.dynamics.spell`), a back end is named. They can be differentiated once; the reference more often.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import load_kernels
from .dynamics import named, spell
from .layout import empty_frames, empty_state, laid_out_like, same_layout
from .norm import RANKS

NAMESPACE = __package__.partition(".")[0]  # neurons here, clif_neurons where it is installed
ONCE = "fused neurons can be differentiated once; take backend reference for a second derivative"
Tensors = tuple[Tensor, ...]


# ---- what the operators do, on dynamics


def run_fire(x, table, states, scale, shift, dynamics, backend, last, train):
    """→ spikes; the last states, if asked for; what the back end saves for the gradient."""
    norm = None if scale is None else (scale, shift)
    spikes, ends, saved = load_kernels(backend).forward(dynamics, x, table, tuple(states), norm, last, train)
    return [spikes, *ends, *saved]


def run_fire_backward(x, table, states, saved, scale, shift, g_spikes, g_last, dynamics, backend):
    """→ gradients of x; the states, if there are any; the table, scale and shift, if there are such."""
    kernels, norm = load_kernels(backend), None if scale is None else (scale, shift)
    g_spikes, g_last = frames_like(x, g_spikes), tuple(laid_out_like(x[0], g.float()) for g in g_last)
    g_c, g_table, g_states, sums = kernels.backward(
        dynamics, x, table, tuple(states), tuple(saved), norm, g_spikes, g_last
    )
    of_table = () if table is None else (g_table,)
    if norm is None:
        return [g_c, *g_states, *of_table]
    assert sums is not None
    sum_g, sum_gx = sums
    zero = torch.zeros_like(scale)
    g_x = kernels.combine(g_c, x, scale, zero, zero)
    return [g_x, *g_states, *of_table, sum_gx.clone(), sum_g.clone()]  # not two views of one


def run_norm_fire(x, weight, bias, table, eps, merged, ranks, dynamics, backend, train):
    """→ spikes; mean and biased variance [T, C] ([1, C] if merged); n; what the back end saves for the gradient."""
    spikes, mean, var, n, saved = load_kernels(backend).norm_forward(
        dynamics, x, weight, bias, table, eps, merged, RANKS.get(ranks), train
    )
    n = n if isinstance(n, Tensor) else torch.full((), float(n), dtype=torch.float64, device=x.device)
    return [spikes, mean, var, n, *saved]


def run_norm_fire_backward(x, weight, bias, mean, var, n, table, saved, g_spikes, eps, ranks, dynamics, backend):
    """→ gradients of x, weight, bias, and the table, if there is one."""
    g_x, g_weight, g_bias, g_table = load_kernels(backend).norm_backward(
        dynamics, x, weight, bias, mean, var, n, table, tuple(saved), frames_like(x, g_spikes), eps, RANKS.get(ranks)
    )
    return [g_x, g_weight, g_bias, *(() if g_table is None else (g_table,))]


def frames_like(x: Tensor, g: Tensor) -> Tensor:
    """A gradient [T, …] in x's dtype and the layout of its frames."""
    g = g.to(x.dtype)
    return g if same_layout(g, x) else empty_frames(x).copy_(g)


# ---- the operators


@torch.library.custom_op(
    f"{NAMESPACE}::fire",
    mutates_args=(),
    schema="(Tensor x, Tensor? table, Tensor[] states, Tensor? scale, Tensor? shift, str dynamics, str backend, "
    "bool last, bool train) -> Tensor[]",
)
def fire_op(x, table, states, scale, shift, dynamics, backend, last, train):
    return run_fire(x, table, states, scale, shift, named(dynamics), backend, last, train)


@fire_op.register_fake
def _(x, table, states, scale, shift, dynamics, backend, last, train):
    ends = [empty_state(x) for _ in named(dynamics).states] if last else []
    return [empty_frames(x), *ends, *(load_kernels(backend).saved_for(named(dynamics), x) if train else ())]


@torch.library.custom_op(
    f"{NAMESPACE}::fire_backward",
    mutates_args=(),
    schema="(Tensor x, Tensor? table, Tensor[] states, Tensor[] saved, Tensor? scale, Tensor? shift, Tensor g_spikes, "
    "Tensor[] g_last, str dynamics, str backend) -> Tensor[]",
)
def fire_backward_op(x, table, states, saved, scale, shift, g_spikes, g_last, dynamics, backend):
    return run_fire_backward(x, table, states, saved, scale, shift, g_spikes, g_last, named(dynamics), backend)


@fire_backward_op.register_fake
def _(x, table, states, saved, scale, shift, g_spikes, g_last, dynamics, backend):
    rest = (torch.empty_like(term) for term in (table, scale, shift) if term is not None)
    return [empty_frames(x), *(empty_state(x) for _ in states), *rest]


def save_fire(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    x, table, states, scale, shift, ctx.dynamics, ctx.backend, last, _ = inputs
    dynamics = named(ctx.dynamics) if isinstance(ctx.dynamics, str) else ctx.dynamics
    ctx.states, ctx.first = len(states), 1 + (len(dynamics.states) if last else 0)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, table, scale, shift, *states, *output[ctx.first :])


def fire_gradients(ctx: Any, grads: list[Tensor | None]) -> tuple:
    x, table, scale, shift, *rest = ctx.saved_tensors
    states, saved = rest[: ctx.states], rest[ctx.states :]
    g_spikes, *g_last = grads[: ctx.first]
    if all(g is None for g in g_last):
        g_last = []
    g_last = [empty_state(x).zero_() if g is None else g for g in g_last]
    g_spikes = torch.zeros_like(x) if g_spikes is None else g_spikes
    backward = chosen(ctx, fire_backward_op, run_fire_backward)
    out = backward(x, table, states, saved, scale, shift, g_spikes, g_last, ctx.dynamics, ctx.backend)
    g_x, g_states, rest = out[0], out[1 : 1 + ctx.states], out[1 + ctx.states :]
    g_table = None if table is None else rest.pop(0)
    g_scale, g_shift = (None, None) if scale is None else rest
    return g_x, g_table, g_states, g_scale, g_shift, None, None, None, None


@torch.library.custom_op(
    f"{NAMESPACE}::norm_fire",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor? table, float eps, bool merged, str ranks, str dynamics, "
    "str backend, bool train) -> Tensor[]",
)
def norm_fire_op(x, weight, bias, table, eps, merged, ranks, dynamics, backend, train):
    return run_norm_fire(x, weight, bias, table, eps, merged, ranks, named(dynamics), backend, train)


@norm_fire_op.register_fake
def _(x, weight, bias, table, eps, merged, ranks, dynamics, backend, train):
    steps = 1 if merged else x.shape[0]
    mean, var = (torch.empty(steps, x.shape[2], dtype=torch.float32, device=x.device) for _ in range(2))
    n = torch.empty((), dtype=torch.float64, device=x.device)
    return [empty_frames(x), mean, var, n, *(load_kernels(backend).saved_for(named(dynamics), x) if train else ())]


@torch.library.custom_op(
    f"{NAMESPACE}::norm_fire_backward",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor var, Tensor n, Tensor? table, Tensor[] saved, "
    "Tensor g_spikes, float eps, str ranks, str dynamics, str backend) -> Tensor[]",
)
def norm_fire_backward_op(x, weight, bias, mean, var, n, table, saved, g_spikes, eps, ranks, dynamics, backend):
    return run_norm_fire_backward(
        x, weight, bias, mean, var, n, table, saved, g_spikes, eps, ranks, named(dynamics), backend
    )


@norm_fire_backward_op.register_fake
def _(x, weight, bias, mean, var, n, table, saved, g_spikes, eps, ranks, dynamics, backend):
    rest = (torch.empty_like(term) for term in (weight, bias, table) if term is not None)
    return [empty_frames(x), *rest]


def save_norm_fire(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    x, weight, bias, table, ctx.eps, _, ctx.ranks, ctx.dynamics, ctx.backend, _ = inputs
    _, mean, var, n, *saved = output
    ctx.save_for_backward(x, weight, bias, mean, var, n, table, *saved)


def norm_fire_gradients(ctx: Any, grads: list[Tensor]) -> tuple:
    x, weight, bias, mean, var, n, table, *saved = ctx.saved_tensors
    backward = chosen(ctx, norm_fire_backward_op, run_norm_fire_backward)
    settings = (ctx.eps, ctx.ranks, ctx.dynamics, ctx.backend)
    out = backward(x, weight, bias, mean, var, n, table, saved, grads[0], *settings)
    g_table = out[3] if len(out) > 3 else None
    return *out[:3], g_table, None, None, None, None, None, None


def chosen(ctx: Any, op: Any, run: Any) -> Any:
    """The operator of a gradient, or what it does without the detour where nobody looks."""
    if isinstance(ctx.dynamics, str):
        return op
    if torch.is_grad_enabled():  # a second derivative is prepared, which the operator refuses when it comes
        ctx.dynamics = spell(ctx.declared, ctx.dynamics)
        return op
    return run


def _refuse(ctx: Any, grads: Any) -> None:
    raise RuntimeError(ONCE)


def _without_autocast(op: Any) -> None:
    """Under autocast an operator computes what it does without: its numbers are float32, whatever x is."""
    for device in ("CPU", "CUDA"):
        key = getattr(torch._C.DispatchKey, f"Autocast{device}")

        def plain(*args: Any, key: Any = key, device: str = device.lower()) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)), torch.autocast(device, enabled=False):
                return op._opoverload(*args)

        LIBRARY.impl(op._opoverload, plain, f"Autocast{device}")


LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
fire_op.register_autograd(fire_gradients, setup_context=save_fire)
norm_fire_op.register_autograd(norm_fire_gradients, setup_context=save_norm_fire)
for _op in (fire_backward_op, norm_fire_backward_op):
    _op.register_autograd(_refuse)
for _op in (fire_op, norm_fire_op, fire_backward_op, norm_fire_backward_op):
    _without_autocast(_op)
