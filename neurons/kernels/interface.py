"""What a back end is to the rest: the neuron it computes, the calls it answers, the memory it is handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    @property
    def states(self) -> tuple[str, ...]:
        """The states' names, in the order that the kernels take them."""
        return ("v", "m") if self.clif else ("v",)


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


def check_states(frame: Tensor, states: Mapping[str, Tensor]) -> None:
    """Refuse states that are not of this input: the kernels address flat memory, and torch would broadcast.

    Args:
        frame: a time step of the input […]. states: each by its name; they are like ``frame``, in float32 or better.

    Raises:
        ValueError: naming the first state that differs.
    """
    dtype = torch.promote_types(frame.dtype, torch.float32)
    for name, state in states.items():
        if state.shape != frame.shape or state.dtype != dtype or state.device != frame.device:
            raise ValueError(
                f"state {name} is {described(state.shape, state.dtype, state.device)}, and a step of the input asks "
                f"for {described(frame.shape, dtype, frame.device)}: call functional.reset_net before such an input"
            )


def check_gamma(x: Tensor, gamma: Tensor | None) -> None:
    """Refuse a learned γ that is not one floating-point number on x's device.

    Raises:
        ValueError: saying what it is.
    """
    if gamma is not None and (gamma.dim() or not gamma.is_floating_point() or gamma.device != x.device):
        raise ValueError(
            f"gamma is {described(gamma.shape, gamma.dtype, gamma.device)}: it must be a floating-point scalar on "
            f"{x.device}, where the input is"
        )


def described(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> str:
    return f"{list(shape)} ({str(dtype).removeprefix('torch.')}, {device})"


def laid_out_like(frame: Tensor, y: Tensor) -> Tensor:
    """y […] in the memory layout of a dense frame […]: all that the kernels address is flat memory.

    Raises:
        ValueError: if it has another shape.
    """
    if y.shape != frame.shape:
        raise ValueError(f"a state or gradient {list(y.shape)} belongs to no frame {list(frame.shape)}")
    if y.stride() == frame.stride():
        return y
    return torch.empty_strided(frame.shape, frame.stride(), dtype=y.dtype, device=y.device).copy_(y)


def flat(x: Tensor) -> Tensor:
    """[T, …] with dense frames → [T, M], a view in memory order; a static sequence keeps its stride of 0."""
    return x.as_strided((x.shape[0], x[0].numel()), (x.stride(0), 1))


def unflat(y: Tensor, x: Tensor) -> Tensor:
    """[T, M] contiguous → the shape of x and the memory layout of its frames."""
    return reshaped(y, x.shape, (x[0].numel(), *x.stride()[1:]))


def reshaped(y: Tensor, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    """The memory of y as another tensor, yet no view of y: autograd lets nobody change in place a view that a Function
    puts out, and the spikes of every back end may be changed."""
    return torch.empty(0, dtype=y.dtype, device=y.device).set_(y.untyped_storage(), y.storage_offset(), shape, stride)
