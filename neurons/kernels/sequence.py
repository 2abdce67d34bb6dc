"""A neuron over a whole sequence as one autograd node, whatever computes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from ..surrogate import SURROGATES

BACKENDS = ("auto", "torch", "compile", "triton")


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


class FireSequence(torch.autograd.Function):
    """Input current [T, …] → spikes [T, …] and, if asked for, the last states […]."""

    @staticmethod
    def forward(ctx: Any, x, gamma, dynamics, kernel, last, *states):
        x = x if is_dense(x[0]) else x.contiguous()
        states = tuple(laid_out_like(x[0], state) for state in states)
        ctx.dynamics, ctx.kernel, ctx.last, ctx.count = dynamics, kernel, last, len(states)
        spikes, last_states, saved = kernel.forward(x, gamma, states, dynamics, last, any(ctx.needs_input_grad))
        ctx.save_for_backward(x, gamma, *states, *saved)
        return (spikes, *last_states) if last else spikes

    @staticmethod
    def backward(ctx: Any, g_spikes, *g_last):
        x, gamma, *rest = ctx.saved_tensors
        states, saved = tuple(rest[: ctx.count]), tuple(rest[ctx.count :])
        g_spikes = torch.stack([laid_out_like(x[0], g) for g in g_spikes]) if not same_layout(g_spikes, x) else g_spikes
        g_last = tuple(laid_out_like(x[0], g) for g in g_last)
        g_x, g_gamma, g_states = ctx.kernel.backward(x, gamma, states, saved, g_spikes, g_last, ctx.dynamics)
        return g_x, g_gamma, None, None, None, *g_states


def fire_sequence(
    x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, *, backend: str, last: bool
) -> tuple[Tensor, States]:
    """Input current [T, …] → spikes [T, …] and the last states […] (none unless ``last``).

    Args:
        gamma: PLIF's learned γ, a scalar; None for γ = 1 − 1/τ.
        states: states before the first step […], or none to start afresh.
    """
    out = FireSequence.apply(x, gamma, dynamics, load_kernel(backend), last, *states)
    return (out[0], tuple(out[1:])) if last else (out, ())


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


def choose_backend(backend: str, x: Tensor, surrogate: Any) -> str:
    """The back end that computes this input: what was asked for, or with ``auto`` the fastest that can:
    Triton on CUDA, fire.c on a CPU with a C compiler, torch for the rest (float64, other devices).

    Raises:
        ValueError: if what was asked for cannot compute it. Nothing is switched silently.
    """
    fits = x.dtype in (torch.float32, torch.float16, torch.bfloat16) and surrogate in SURROGATES
    there = {"cuda": "triton", "cpu": "compile"}.get(x.device.type)
    if backend == "auto":
        return there if there is not None and fits and installed(there) else "torch"
    if backend == "torch":
        return "torch"
    if not fits:
        raise ValueError(
            f"backend {backend} has float32, float16 and bfloat16 and the surrogates {', '.join(SURROGATES)}"
        )
    if backend == "compile" and x.device.type != "cpu":
        raise ValueError(f"backend compile is for the CPU, and the input is on {x.device}")
    if backend == "triton" and x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"backend triton is for CUDA, and the input is on {x.device}")
    if not installed(backend):
        needs = "Triton" if backend == "triton" else "a C compiler (cc, gcc or clang) that can compile fire.c"
        raise ValueError(f"backend {backend} wants {needs}; take backend torch without one")
    return backend


@cache
def installed(backend: str) -> bool:
    """Whether what a back end is made of is on this machine: Triton, or a C compiler that compiles fire.c."""
    if backend == "triton":
        return find_spec("triton") is not None
    from .cpu_build import library

    try:
        library()
    except (RuntimeError, OSError):  # no compiler, one that fails, or what it made cannot be loaded
        return False
    return True


@cache
def load_kernel(backend: str) -> Kernel:
    """The kernels of a back end, imported when first asked for."""
    if backend == "triton":
        from .triton_launch import TritonKernel

        return TritonKernel()
    if backend == "compile":
        from .cpu_launch import CompiledKernel

        return CompiledKernel()
    from .torch_launch import TorchKernel

    return TorchKernel()
