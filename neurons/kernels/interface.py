"""What a back end is to the rest: the neuron it computes, the calls it answers, the memory it is handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dynamics:
    """What the kernels must know of a neuron.

    Args:
        clif: CLIF's equations; False for LIF's and PLIF's.
        tau, v_threshold, v_reset: as in :class:`neurons.SpikingNeuron`; γ = 1 − 1/τ unless it is learned.
        surrogate, alpha: a named surrogate and its width.
    """

    clif: bool
    tau: float
    v_threshold: float
    v_reset: float | None
    surrogate: str
    alpha: float


States = tuple[Tensor, ...]


class Kernel(Protocol):
    """What a back end offers. Tensors have time first; x may be float32, float16 or bfloat16, states are float32.

    All frames x[t], states and their gradients have one memory layout. ``states`` is empty for a sequence that
    starts afresh; ``last`` asks for the states after the last step; ``gamma`` is PLIF's learned γ, or None.
    """

    def forward(
        self, x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, last: bool, train: bool
    ) -> tuple[Tensor, States, States]:
        """→ spikes like x, last states (if asked for), and what to save for the backward besides x."""

    def backward(
        self,
        x: Tensor,
        gamma: Tensor | None,
        states: States,
        saved: States,
        g_spikes: Tensor,
        g_last: States,
        dynamics: Dynamics,
    ) -> tuple[Tensor, Tensor | None, States]:
        """→ g_x like x, g_γ (if γ is learned), gradients of the initial states (if there are any)."""


def is_dense(frame: Tensor) -> bool:
    """Whether a frame fills its memory without gaps or overlaps, in some order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(frame.stride(), frame.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def same_layout(y: Tensor, x: Tensor) -> bool:
    """Whether y's frames have the memory layout of x's and follow each other without a gap."""
    return y.stride()[1:] == x.stride()[1:] and y.stride(0) == x[0].numel()


def laid_out_like(frame: Tensor, y: Tensor) -> Tensor:
    """y […] in the memory layout of a dense frame […]: all that the kernels address is flat memory."""
    if y.stride() == frame.stride():
        return y
    return torch.empty_strided(frame.shape, frame.stride(), dtype=y.dtype, device=y.device).copy_(y)


def flat(x: Tensor) -> Tensor:
    """[T, …] with dense frames → [T, M], a view in memory order; a static sequence keeps its stride of 0."""
    return x.as_strided((x.shape[0], x[0].numel()), (x.stride(0), 1))


def unflat(y: Tensor, x: Tensor) -> Tensor:
    """[T, M] contiguous → the shape of x and the memory layout of its frames."""
    return y.as_strided(x.shape, (x[0].numel(), *x.stride()[1:]))
