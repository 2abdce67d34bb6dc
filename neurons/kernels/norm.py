"""Batch norm per time step and the neuron behind it: normalise, charge and fire as one node of the graph.

x is [T, N, C, H, W]; the statistics are of each (t, c), [T, C]. One pass reads them; one more normalises,
y = a·x + b with a = weight/√(var + ε) and b = bias − mean·a, and fires. x and the statistics are all that is
kept: the backward computes y again, then with n = N·H·W, x̂ = (x − mean)/√(var + ε) and sums over each (t, c)

    ∂L/∂x = a·(g_y − Σ g_y/n − x̂·Σ(g_y·x̂)/n),  ∂L/∂weight = Σ_t Σ g_y·x̂,  ∂L/∂bias = Σ_t Σ g_y.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import load_kernel
from .interface import Dynamics, same_layout


def scale_and_shift(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """a and b [T, C] of y = a·x + b."""
    scale = weight * (var + eps).rsqrt()
    return scale, bias - mean * scale


def input_gradient_terms(
    sum_g: Tensor, sum_gx: Tensor, mean: Tensor, var: Tensor, scale: Tensor, eps: float, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A, B with ∂L/∂x = a·g_y + A·x + B, and Σ g_y·x̂; all [T, C], from Σ g_y and Σ g_y·x."""
    rstd = (var + eps).rsqrt()
    sum_gxhat = (sum_gx - mean * sum_g) * rstd
    A = -scale * rstd * sum_gxhat / n
    return A, -scale * sum_g / n - A * mean, sum_gxhat


class NormFireSequence(torch.autograd.Function):
    """x [T, N, C, H, W] → spikes of the neuron behind the norm, and the statistics mean and var [T, C]."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, eps, gamma, dynamics, kernel):
        x = x if x[0].is_contiguous(memory_format=torch.channels_last) else channels_last(x)
        mean, var = kernel.statistics(x)
        scale, shift = scale_and_shift(mean, var, weight, bias, eps)
        spikes, saved = kernel.norm_forward(x, scale, shift, gamma, dynamics, any(ctx.needs_input_grad))
        ctx.save_for_backward(x, weight, bias, mean, var, gamma, *saved)
        ctx.eps, ctx.dynamics, ctx.kernel = eps, dynamics, kernel
        ctx.mark_non_differentiable(mean, var)
        return spikes, mean, var

    @staticmethod
    def backward(ctx: Any, g_spikes, _mean, _var):
        x, weight, bias, mean, var, gamma, *saved = ctx.saved_tensors
        scale, shift = scale_and_shift(mean, var, weight, bias, ctx.eps)
        g_spikes = g_spikes if same_layout(g_spikes, x) else channels_last(g_spikes)
        g_y, sum_g, sum_gx, g_gamma = ctx.kernel.norm_backward(
            x, scale, shift, gamma, tuple(saved), g_spikes, ctx.dynamics
        )
        n = x[0].numel() // x.shape[2]
        A, B, sum_gxhat = input_gradient_terms(sum_g, sum_gx, mean, var, scale, ctx.eps, n)
        g_x = ctx.kernel.combine(g_y, x, scale, A, B)
        return g_x, sum_gxhat.sum(0).to(weight.dtype), sum_g.sum(0).to(bias.dtype), None, g_gamma, None, None


def norm_and_fire(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, gamma: Tensor | None, dynamics: Dynamics, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm per step and the neuron behind it, from a fresh state.

    Args:
        x: [T, N, C, H, W]. weight, bias: the norm's, [C]. eps: its ε.
        gamma, dynamics, backend: see :func:`neurons.kernels.fire_sequence`.

    Returns:
        spikes like x, and the mean and biased variance of each (t, c), [T, C].
    """
    return NormFireSequence.apply(x, weight, bias, eps, gamma, dynamics, load_kernel(backend))


def channels_last(x: Tensor) -> Tensor:
    """[T, N, C, H, W] with frames in channels_last order."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
