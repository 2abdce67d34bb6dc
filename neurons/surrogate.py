"""Where a spike is made: a step function forward, a surrogate for its derivative backward.

Every surrogate integrates to 1 and has a width α (``alpha``); x = u − V_th:

=========  ==================================================================
rectangle  1/α where abs(x) ≤ α/2, else 0 (the paper's choice, α = 1)
triangle   (1 − abs(x)/α)/α where abs(x) ≤ α, else 0
sigmoid    σ′(4x/α)·4/α
atan       1/(α·(1 + (πx/α)²))
=========  ==================================================================

At α = 1 all peak at 1. SpikingJelly writes these with the inverse of a width: its Rect and PiecewiseQuadratic take 1/α,
its Sigmoid 4/α, its ATan 2/α (so that its default, ATan(2), is ``atan`` at α = 1). At α = 1 the first three are the
published code's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .names import unknown

Derivative = Callable[[Tensor, float], Tensor]
SURROGATE, ALPHA = "rectangle", 1.0  # the paper's, the defaults of neurons, networks and settings


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

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, derivative: Derivative, alpha: float) -> Tensor:
        return (x >= 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Derivative, float], output: Tensor) -> None:
        x, ctx.derivative, ctx.alpha = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad_spike: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad_spike * ctx.derivative(x, ctx.alpha), None, None


def heaviside(x: Tensor, surrogate: str, alpha: float) -> Tensor:
    """Θ(x) with the named surrogate derivative of width ``alpha``."""
    return Spike.apply(x, SURROGATES[surrogate], alpha)


def spike_function(surrogate: str, alpha: float = ALPHA) -> Callable[[Tensor], Tensor]:
    """The spike function x ↦ Θ(x) with the named surrogate derivative of width ``alpha``.

    Raises:
        ValueError: if the surrogate is unknown, or ``alpha`` ≤ 0 or infinite.
    """
    if surrogate not in SURROGATES:
        raise ValueError(unknown("surrogate", surrogate, SURROGATES))
    if not 0 < alpha < math.inf:
        raise ValueError(f"the surrogate's width must be > 0 and finite, not {alpha}")
    return partial(heaviside, surrogate=surrogate, alpha=alpha)
