"""Where a spike is made: a step function forward, a surrogate for its derivative backward.

Every surrogate integrates to 1, peaks at 1/α and has a width α (``alpha``); x = u − V_th:

=========  =========================================
rectangle  1/α where abs(x) ≤ α/2, else 0 (the paper's choice, α = 1)
triangle   (1 − abs(x)/α)/α where abs(x) ≤ α, else 0
sigmoid    σ′(4x/α)·4/α
atan       1/(α·(1 + (πx/α)²))
=========  =========================================

SpikingJelly writes these with the inverse of a width: its Rect and PiecewiseQuadratic take 1/α, its Sigmoid 4/α, its
ATan 2/α (so that its defaults, Sigmoid(4) and ATan(2), are those at α = 1). At α = 1 the first three are the published
code's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Derivative = Callable[[Tensor, float], Tensor]


def rectangle(x: Tensor, alpha: float) -> Tensor:
    return (x.abs() <= alpha / 2).to(x.dtype) / alpha


def triangle(x: Tensor, alpha: float) -> Tensor:
    return (1 - x.abs() / alpha).clamp(min=0) / alpha


def sigmoid(x: Tensor, alpha: float) -> Tensor:
    y = torch.sigmoid(4 / alpha * x)
    return y * (1 - y) * (4 / alpha)


def atan(x: Tensor, alpha: float) -> Tensor:
    return 1 / (alpha * (1 + (math.pi / alpha * x).square()))


SURROGATES: dict[str, Derivative] = {
    "rectangle": rectangle,
    "triangle": triangle,
    "sigmoid": sigmoid,
    "atan": atan,
}


class Spike(torch.autograd.Function):
    """Θ(x): 1 where x ≥ 0, else 0; backward multiplies by ``derivative(x, alpha)``."""

    @staticmethod
    def forward(ctx, x: Tensor, derivative: Derivative, alpha: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative, ctx.alpha = derivative, alpha
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad_spike: Tensor):
        (x,) = ctx.saved_tensors
        return grad_spike * ctx.derivative(x, ctx.alpha), None, None


def spike_function(surrogate: str, alpha: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The spike function x ↦ Θ(x) with the named surrogate derivative of width ``alpha``.

    Raises:
        ValueError: if the surrogate is unknown or ``alpha`` ≤ 0.
    """
    if surrogate not in SURROGATES:
        raise ValueError(f"unknown surrogate {surrogate!r}; known: {', '.join(SURROGATES)}")
    if not alpha > 0:
        raise ValueError(f"the surrogate's width must be > 0, not {alpha}")
    derivative = SURROGATES[surrogate]
    return lambda x: Spike.apply(x, derivative, alpha)
