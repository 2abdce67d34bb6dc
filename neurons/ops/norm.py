"""Batch norm and the neuron behind it: normalise, charge and fire as one node of the graph.

x is [T, N, C, H, W]; the statistics are of each (t, c), [T, C], or with T merged into the batch of each c, [1, C]. One
pass reads them; one more normalises, y = a·x + b with a = weight/√(var + ε) and b = bias − mean·a, and fires. x and the
statistics are all that is kept: the backward computes y again, then with the n values behind each,
x̂ = (x − mean)/√(var + ε) and sums over them

    ∂L/∂x = a·(g_y − Σ g_y/n − x̂·Σ(g_y·x̂)/n),  ∂L/∂weight = Σ_t Σ g_y·x̂,  ∂L/∂bias = Σ_t Σ g_y.

Where several processes share a batch, n, mean, var and the sums of ∂L/∂x go over all of it: two small sums over the
processes, one each way. Those of ∂L/∂weight and ∂L/∂bias stay local, like every gradient of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .dynamics import Inputs

SumOverRanks = Callable[[Tensor], None]
"""Adds a tensor up over all processes that share a batch, in place."""


class Norm(NamedTuple):
    """A batch norm by the statistics of its own batch.

    Args:
        weight, bias: [C]. eps: ε.
        merged: T belongs to the batch, and a statistic to a channel alone.
        sum_over_ranks: where x is a share of the batch; None for one process.
    """

    weight: Tensor
    bias: Tensor
    eps: float
    merged: bool = False
    sum_over_ranks: SumOverRanks | None = None


RANKS: dict[str, SumOverRanks] = {}  # by name: an operator's arguments are tensors, numbers and strings


def name_of(sum_over_ranks: SumOverRanks | None) -> str:
    """A name under which :data:`RANKS` holds it; empty for one process."""
    if sum_over_ranks is None:
        return ""
    name = str(id(sum_over_ranks))
    RANKS[name] = sum_over_ranks  # which keeps it, and so its id
    return name


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each (t, c) of x [T, N, C, H, W]: float32 or better, [T, C]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, dim=(1, 3, 4), correction=0)
    return mean, var


def moments(sums: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each (t, c), float32 [T, C], from sums over it.

    Args:
        sums: Σ (x − x₀) and Σ (x − x₀)², [2, T, C], with x₀ the first value of each (t, c): it keeps the squares
            small, so that their difference loses nothing. x: [T, N, C, H, W].
    """
    mean, square = sums.double() / (x[0].numel() // x.shape[2])
    var = (square - mean * mean).clamp(min=0)
    return (mean + x[:, 0, :, 0, 0]).float(), var.float()


def over_steps(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [1, C] of all T steps, from those of each [T, C]; in float64, as :func:`over_ranks`."""
    wide = mean.double()
    whole = wide.mean(0, keepdim=True)
    within = var.double() + (wide - whole).square()
    return whole.to(mean.dtype), within.mean(0, keepdim=True).to(var.dtype)


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


class Running(NamedTuple):
    """A batch norm's running statistics.

    Args:
        mean, var: of all steps, [C]. mean_t, var_t: of each step, [T, C], or None. steps: how many were seen, int64 [].
    """

    mean: Tensor
    var: Tensor
    mean_t: Tensor | None
    var_t: Tensor | None
    steps: Tensor


class OfBatch(NamedTuple):
    """What a batch adds.

    Args:
        mean, var: of each step, [T, C]. correction: var · correction is the unbiased variance. momentum: k.
    """

    mean: Tensor
    var: Tensor
    correction: float
    momentum: float


class NormKernels:
    """A batch norm's two directions, made of a back end's kernels: ``statistics``, ``forward``, ``backward``,
    ``combine`` (see :class:`.backends.Kernels`). A back end that does more at once overrides them."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    statistics: Callable[..., Any]
    combine: Callable[..., Any]

    def norm_forward(
        self, inputs: Inputs, norm: Norm, train: bool
    ) -> tuple[Tensor, Tensor, Tensor, int | Tensor, tuple[Tensor, ...]]:
        """→ spikes, mean and biased variance [T, C] ([1, C] if merged), the n behind each, what to save besides."""
        x = inputs.x
        mean, var = self.statistics(x)
        of_share = x[0].numel() // x.shape[2]
        if norm.merged:
            (mean, var), of_share = over_steps(mean, var), of_share * x.shape[0]
        n: int | Tensor = of_share
        if norm.sum_over_ranks is not None:
            mean, var, n = over_ranks(mean, var, of_share, norm.sum_over_ranks)
        terms = scale_and_shift(mean, var, norm.weight, norm.bias, norm.eps)
        inputs = inputs._replace(norm=tuple(term.expand(x.shape[0], -1) for term in terms))
        spikes, _, saved = self.forward(inputs, False, train)
        return spikes, mean, var, n, saved

    def norm_backward(
        self,
        inputs: Inputs,
        norm: Norm,
        mean: Tensor,
        var: Tensor,
        n: int | Tensor,
        saved: tuple[Tensor, ...],
        g_s: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """→ gradients of x, weight, bias and the table of learned parameters."""
        x, T = inputs.x, inputs.x.shape[0]
        scale, shift = scale_and_shift(mean, var, norm.weight, norm.bias, norm.eps)
        inputs = inputs._replace(norm=(scale.expand(T, -1), shift.expand(T, -1)))
        g_y, g_table, _, (sum_g, sum_gx) = self.backward(inputs, saved, g_s, ())
        if mean.shape[0] < T:  # merged
            sum_g, sum_gx = sum_g.sum(0, keepdim=True), sum_gx.sum(0, keepdim=True)
        A, B, sum_gxhat = input_gradient_terms(sum_g, sum_gx, mean, var, scale, norm.eps, n, norm.sum_over_ranks)
        g_x = self.combine(g_y, x, *(term.expand(T, -1) for term in (scale, A, B)))
        return g_x, sum_gxhat.sum(0).to(norm.weight.dtype), sum_g.sum(0).to(norm.bias.dtype), g_table


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


def per_channel(terms: Tensor) -> Tensor:
    """[T, C] → [T, 1, C, 1, 1]."""
    return terms[:, None, :, None, None]
