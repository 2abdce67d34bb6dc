"""Batch norm per time step and the neuron behind it: normalise, charge and fire as one node of the graph.

x is [T, N, C, H, W]; the statistics are of each (t, c), [T, C]. One pass reads them; one more normalises,
y = a·x + b with a = weight/√(var + ε) and b = bias − mean·a, and fires. x and the statistics are all that is
kept: the backward computes y again, then with n = N·H·W, x̂ = (x − mean)/√(var + ε) and sums over each (t, c)

    ∂L/∂x = a·(g_y − Σ g_y/n − x̂·Σ(g_y·x̂)/n),  ∂L/∂weight = Σ_t Σ g_y·x̂,  ∂L/∂bias = Σ_t Σ g_y.

Where several processes share a batch, n, mean, var and the sums of ∂L/∂x go over all of it: two small sums over the
processes, one each way. Those of ∂L/∂weight and ∂L/∂bias stay local, like every gradient of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .backends import load_kernel
from .interface import Dynamics, check_gamma, same_layout


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each (t, c) of x [T, N, C, H, W]: float32 or better, [T, C]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, dim=(1, 3, 4), correction=0)
    return mean, var


SumOverRanks = Callable[[Tensor], None]
"""Adds a tensor up over all processes that share a batch, in place."""


def over_ranks(mean: Tensor, var: Tensor, n: int, sum_over_ranks: SumOverRanks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [T, C] of the whole batch, and its n, from those of this process's share of it.

    In float64: the mean's square is subtracted from a sum that holds it.
    """
    of_share, wide = mean.double(), var.double()
    sums = torch.stack([torch.ones_like(wide), of_share, wide + of_share.square()]) * n  # [3, T, C]
    sum_over_ranks(sums)
    total = sums[0, 0, 0]
    _, whole, square = sums / total
    return whole.to(mean.dtype), (square - whole.square()).clamp(min=0).to(var.dtype), total


def scale_and_shift(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """a and b [T, C] of y = a·x + b."""
    scale = weight * (var + eps).rsqrt()
    return scale, bias - mean * scale


def input_gradient_terms(
    sum_g: Tensor,
    sum_gx: Tensor,
    mean: Tensor,
    var: Tensor,
    scale: Tensor,
    eps: float,
    n: int | Tensor,
    sum_over_ranks: SumOverRanks | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A, B with ∂L/∂x = a·g_y + A·x + B, and this process's Σ g_y·x̂; all [T, C], from its Σ g_y and Σ g_y·x."""
    rstd = (var + eps).rsqrt()
    own_gxhat = sum_gxhat = (sum_gx - mean * sum_g) * rstd
    if sum_over_ranks is not None:
        sums = torch.stack([sum_g, sum_gxhat])  # [2, T, C]
        sum_over_ranks(sums)
        sum_g, sum_gxhat = sums
    A = -scale * rstd * sum_gxhat / n
    return A, -scale * sum_g / n - A * mean, own_gxhat


class NormFireSequence(torch.autograd.Function):
    """x [T, N, C, H, W] → spikes of the neuron behind the norm, and the statistics mean and var [T, C]."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, eps, gamma, dynamics, kernel, sum_over_ranks):
        x = x if x[0].is_contiguous(memory_format=torch.channels_last) else channels_last(x)
        mean, var = kernel.statistics(x)
        n = x[0].numel() // x.shape[2]
        if sum_over_ranks is not None:
            mean, var, n = over_ranks(mean, var, n, sum_over_ranks)
        scale, shift = scale_and_shift(mean, var, weight, bias, eps)
        spikes, saved = kernel.norm_forward(x, scale, shift, gamma, dynamics, any(ctx.needs_input_grad))
        ctx.save_for_backward(x, weight, bias, mean, var, gamma, *saved)
        ctx.eps, ctx.dynamics, ctx.kernel, ctx.n, ctx.sum_over_ranks = eps, dynamics, kernel, n, sum_over_ranks
        ctx.mark_non_differentiable(*(of_batch for of_batch in (mean, var, n) if isinstance(of_batch, Tensor)))
        return spikes, mean, var, n

    @staticmethod
    def backward(ctx: Any, g_spikes, _mean, _var, _n):
        x, weight, bias, mean, var, gamma, *saved = ctx.saved_tensors
        scale, shift = scale_and_shift(mean, var, weight, bias, ctx.eps)
        g_spikes = g_spikes if same_layout(g_spikes, x) else channels_last(g_spikes)
        g_y, sum_g, sum_gx, g_gamma = ctx.kernel.norm_backward(
            x, scale, shift, gamma, tuple(saved), g_spikes, ctx.dynamics
        )
        A, B, sum_gxhat = input_gradient_terms(sum_g, sum_gx, mean, var, scale, ctx.eps, ctx.n, ctx.sum_over_ranks)
        g_x = ctx.kernel.combine(g_y, x, scale, A, B)
        return g_x, sum_gxhat.sum(0).to(weight.dtype), sum_g.sum(0).to(bias.dtype), None, g_gamma, None, None, None


def norm_and_fire(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    gamma: Tensor | None,
    dynamics: Dynamics,
    backend: str,
    sum_over_ranks: SumOverRanks | None = None,
) -> tuple[Tensor, Tensor, Tensor, int | Tensor]:
    """Batch norm per step and the neuron behind it, from a fresh state.

    Args:
        x: [T, N, C, H, W]. weight, bias: the norm's, [C]. eps: its ε.
        gamma, dynamics, backend: see :func:`neurons.kernels.fire_sequence`.
        sum_over_ranks: where x is a share of the batch; its statistics are then the whole batch's.

    Returns:
        spikes like x, the mean and biased variance of each (t, c), [T, C], and the n values behind each.

    Raises:
        ValueError: if weight and bias are not [C] on x's device, or γ no scalar there.
    """
    check_gamma(x, gamma)
    check_norm(x, weight, bias)
    return NormFireSequence.apply(x, weight, bias, eps, gamma, dynamics, load_kernel(backend), sum_over_ranks)


class NormSequence(torch.autograd.Function):
    """x [T, N, C, H, W], a share of a batch → x normalised per step by the statistics of the whole, and these."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, eps, sum_over_ranks):
        mean, var, n = over_ranks(*statistics(x), x[0].numel() // x.shape[2], sum_over_ranks)
        scale, shift = scale_and_shift(mean, var, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, var, n)
        ctx.eps, ctx.sum_over_ranks = eps, sum_over_ranks
        ctx.mark_non_differentiable(mean, var, n)
        return (x * per_channel(scale) + per_channel(shift)).to(x.dtype), mean, var, n

    @staticmethod
    def backward(ctx: Any, g_y, _mean, _var, _n):
        x, weight, bias, mean, var, n = ctx.saved_tensors
        scale, _ = scale_and_shift(mean, var, weight, bias, ctx.eps)
        g_y, wide = g_y.to(mean.dtype), x.to(mean.dtype)
        sum_g, sum_gx = g_y.sum((1, 3, 4)), (g_y * wide).sum((1, 3, 4))
        A, B, sum_gxhat = input_gradient_terms(sum_g, sum_gx, mean, var, scale, ctx.eps, n, ctx.sum_over_ranks)
        g_x = per_channel(scale) * g_y + per_channel(A) * wide + per_channel(B)
        return g_x.to(x.dtype), sum_gxhat.sum(0).to(weight.dtype), sum_g.sum(0).to(bias.dtype), None, None


def norm_over_ranks(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, sum_over_ranks: SumOverRanks
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch norm per step of a batch that several processes share, without the neuron.

    Args:
        x: [T, N, C, H, W], this process's share. weight, bias: the norm's, [C]. eps: its ε.

    Returns:
        y like x, and mean, biased variance [T, C] and n of the whole batch.
    """
    check_norm(x, weight, bias)
    return NormSequence.apply(x, weight, bias, eps, sum_over_ranks)


def check_norm(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Refuse a norm of other channels than those of x [T, N, C, H, W]: one of a single channel would broadcast.

    Raises:
        ValueError: naming both.
    """
    for name, term in (("weight", weight), ("bias", bias)):
        if term.shape != x.shape[2:3] or term.device != x.device:
            raise ValueError(
                f"the norm's {name} is {list(term.shape)} on {term.device}, and the input has {x.shape[2]} channels "
                f"on {x.device}"
            )


def per_channel(terms: Tensor) -> Tensor:
    """[T, C] → [T, 1, C, 1, 1]."""
    return terms[:, None, :, None, None]


def channels_last(x: Tensor) -> Tensor:
    """[T, N, C, H, W] with frames in channels_last order."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
