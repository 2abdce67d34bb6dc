"""Back end ``compile``: fire.c over threads, and its arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .buffers import BUFFERS
from .cpu_build import library
from .equations import moments
from .interface import Dynamics, States

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
SURROGATE_CODES = {"rectangle": 0, "triangle": 1, "sigmoid": 2}
SMALLEST_SHARE = 1 << 14  # elements × steps below which another thread costs more than it does


class Job(ctypes.Structure):
    """The arguments of fire.c; its field order is C's."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "size", "x_step", "channels")),
        *((name, ctypes.c_int32) for name in ("dtype", "clif", "hard", "surrogate")),
        *((name, ctypes.c_float) for name in ("gamma", "tau", "theta", "v_reset", "alpha")),
        *((name, ctypes.c_void_p) for name in ("x", "g_s", "out", "v", "m", "g_v_last", "g_m_last")),
        *((name, ctypes.c_void_p) for name in ("v_last", "m_last", "g_v", "g_m", "scale", "shift", "A", "B")),
    )


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fire")


def over_threads(function: Callable, job: Job, granule: int, outputs: list[tuple[Any, ...]] | None = None) -> int:
    """Call function(job, first, last, *outputs of that share) over shares of the frame's elements.

    The shares are the same for the same number of threads, so that sums over them are too.

    Args:
        granule: a share is a multiple of this many elements.
        outputs: room for each share's own outputs; there are as many shares as these, at most.
    """
    granules = -(-job.size // granule)
    shares = max(1, min(torch.get_num_threads(), granules, job.size * job.T // SMALLEST_SHARE))
    shares = min(shares, len(outputs)) if outputs is not None else shares
    borders = [min(job.size, granules * i // shares * granule) for i in range(shares + 1)]

    def share(i: int) -> int:
        return function(ctypes.byref(job), *map(ctypes.c_int64, borders[i : i + 2]), *(outputs[i] if outputs else ()))

    others = [pool(torch.get_num_threads()).submit(share, i) for i in range(1, shares)]
    if share(0) + sum(other.result() for other in others):
        raise MemoryError
    return shares


class CompiledKernel:
    """The functions of fire.c; see :class:`.sequence.Kernel` for the arguments."""

    def forward(
        self, x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, last: bool, train: bool
    ) -> tuple[Tensor, States, States]:
        spikes = room_like(x)
        states = tuple(state.float() for state in states)
        last_states = tuple(room_for_state(x) for _ in range(1 + dynamics.clif)) if last else ()
        job = job_of(x, gamma, dynamics, out=spikes, v_m=states, last=last_states)
        over_threads(library().fire_forward, job, 64)
        return spikes, last_states, ()

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
        g_x, g_states = room_like(x), tuple(room_for_state(x) for _ in states)
        states, g_last = tuple(s.float() for s in states), tuple(g.float() for g in g_last)
        g_spikes = g_spikes.to(x.dtype)
        job = job_of(x, gamma, dynamics, out=g_x, g_s=g_spikes, v_m=states, g_last=g_last, g_states=g_states)
        g_gamma = torch.zeros(torch.get_num_threads(), dtype=torch.float64)
        outputs = [(None, pointer(g) if gamma is not None else None) for g in g_gamma]
        over_threads(library().fire_backward, job, 64, outputs)
        return g_x, None if gamma is None else g_gamma.sum().to(gamma.dtype), g_states

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each (t, c) of x [T, N, C, H, W] in channels_last order, float32 [T, C]."""
        T, C = x.shape[0], x.shape[2]
        sums = torch.zeros(torch.get_num_threads(), 2, T, C, dtype=torch.float64)
        job = Job(T=T, size=x[0].numel(), x_step=x.stride(0), channels=C, dtype=DTYPES[x.dtype], x=x.data_ptr())
        over_threads(library().norm_statistics, job, C, [(pointer(part),) for part in sums])
        return moments(sums.sum(0), x)

    def norm_forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, gamma: Tensor | None, dynamics: Dynamics, train: bool
    ) -> tuple[Tensor, States]:
        """The norm's a and b [T, C] with the neuron behind it: → spikes like x, nothing to save besides."""
        spikes = room_like(x)
        norm = (scale.contiguous(), shift.contiguous())
        over_threads(library().fire_forward, job_of(x, gamma, dynamics, out=spikes, norm=norm), x.shape[2])
        return spikes, ()

    def norm_backward(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        gamma: Tensor | None,
        saved: States,
        g_spikes: Tensor,
        dynamics: Dynamics,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """→ g_y like x, Σ g_y and Σ g_y·x of each (t, c) [T, C], g_γ (if γ is learned)."""
        g_y, g_spikes = room_like(x), g_spikes.to(x.dtype)
        norm = (scale.contiguous(), shift.contiguous())
        job = job_of(x, gamma, dynamics, out=g_y, g_s=g_spikes, norm=norm)
        threads = torch.get_num_threads()
        sums = torch.zeros(threads, 2, x.shape[0], x.shape[2], dtype=torch.float64)
        g_gamma = torch.zeros(threads, dtype=torch.float64)
        outputs = [
            (pointer(part), pointer(g) if gamma is not None else None) for part, g in zip(sums, g_gamma, strict=True)
        ]
        over_threads(library().fire_backward, job, x.shape[2], outputs)
        sum_g, sum_gx = sums.sum(0).float()
        return g_y, sum_g, sum_gx, None if gamma is None else g_gamma.sum().to(gamma.dtype)

    def combine(self, g_y: Tensor, x: Tensor, scale: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """∂L/∂x = a·g_y + A·x + B, in g_y's place."""
        terms = [term.contiguous() for term in (scale, A, B)]
        job = Job(T=x.shape[0], size=x[0].numel(), x_step=x.stride(0), channels=x.shape[2], dtype=DTYPES[x.dtype])
        job.x, job.g_s, job.out = x.data_ptr(), g_y.data_ptr(), g_y.data_ptr()
        job.scale, job.A, job.B = (term.data_ptr() for term in terms)
        over_threads(library().norm_combine, job, x.shape[2])
        return g_y


def job_of(
    x: Tensor,
    gamma: Tensor | None,
    dynamics: Dynamics,
    *,
    out: Tensor,
    g_s: Tensor | None = None,
    v_m: States = (),
    last: States = (),
    g_last: States = (),
    g_states: States = (),
    norm: States = (),
) -> Job:
    """The arguments for a neuron on x; the tensors must outlive the call."""
    d = dynamics
    job = Job(
        T=x.shape[0],
        size=x[0].numel(),
        x_step=x.stride(0),
        channels=x.shape[2] if norm else 0,
        dtype=DTYPES[x.dtype],
        clif=d.clif,
        hard=d.v_reset is not None,
        surrogate=SURROGATE_CODES[d.surrogate],
        gamma=1 - 1 / d.tau if gamma is None else gamma.item(),
        tau=d.tau,
        theta=d.v_threshold,
        v_reset=d.v_reset or 0.0,
        alpha=d.alpha,
    )
    places = {
        ("x", "g_s", "out"): (x, g_s, out),
        ("v", "m"): v_m,
        ("v_last", "m_last"): last,
        ("g_v_last", "g_m_last"): g_last,
        ("g_v", "g_m"): g_states,
        ("scale", "shift"): norm,
    }
    for names, tensors in places.items():
        for name, tensor in zip(names, tensors, strict=False):  # LIF has no m
            setattr(job, name, None if tensor is None else tensor.data_ptr())
    return job


def room_like(x: Tensor) -> Tensor:
    """Room for a sequence with x's frames, one after the other."""
    return BUFFERS.empty_strided(x.shape, (x[0].numel(), *x.stride()[1:]), x.dtype)


def room_for_state(x: Tensor) -> Tensor:
    """Room for a state: a frame of x in float32."""
    return torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32)


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
