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
from .dynamics import Inputs, named
from .layout import empty_frames, empty_state
from .nodes import (
    NAMESPACE,
    fire_gradients,
    norm_fire_gradients,
    run_fire,
    run_fire_backward,
    run_norm_fire,
    run_norm_fire_backward,
)

ONCE = "fused neurons can be differentiated once; take backend reference for a second derivative"


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
    return [empty_frames(x), *ends, *(load_kernels(backend).saved_for(Inputs(named(dynamics), x)) if train else ())]


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
    ctx.frame = x.stride()[1:]
    ctx.states, ctx.outputs = len(states), 1 + (len(named(ctx.dynamics).states) if last else 0)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, table, scale, shift, *states, *output[ctx.outputs :])


def gradients_of_fire(ctx: Any, grads: list[Tensor | None]) -> tuple:
    return *fire_gradients(ctx, grads, fire_backward_op, ctx.dynamics), None, None, None, None


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
    return [
        empty_frames(x),
        mean,
        var,
        n,
        *(load_kernels(backend).saved_for(Inputs(named(dynamics), x)) if train else ()),
    ]


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
    ctx.frame = x.stride()[1:]
    _, mean, var, n, *saved = output
    ctx.save_for_backward(x, weight, bias, mean, var, n, table, *saved)


def gradients_of_norm_fire(ctx: Any, grads: list[Tensor]) -> tuple:
    gradients = norm_fire_gradients(ctx, grads[0], norm_fire_backward_op, ctx.dynamics)
    return *gradients, None, None, None, None, None, None


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
fire_op.register_autograd(gradients_of_fire, setup_context=save_fire)
norm_fire_op.register_autograd(gradients_of_norm_fire, setup_context=save_norm_fire)
for _op in (fire_backward_op, norm_fire_backward_op):
    _op.register_autograd(_refuse)
for _op in (fire_op, norm_fire_op, fire_backward_op, norm_fire_backward_op):
    _without_autocast(_op)
