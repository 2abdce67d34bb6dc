"""Back end ``c``: a derived neuron's C over threads, and its arguments."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from .buffers import BUFFERS
from .c_build import library
from .c_source import MOST_STATES, source
from .derive import derive
from .dynamics import Dynamics
from .layout import empty_state
from .norm import NormKernels, moments

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
SMALLEST_SHARE = 1 << 14  # elements × steps below which another thread costs more than it does
BLOCK = 128  # elements, as in frame.c
GRANULE = 64  # elements: no two threads write to one cache line
REGISTER = 16  # floats: the last read of a table may go so far beyond its end
NOTHING = torch.zeros(0, 1, 0)  # the table of a neuron that learns nothing
Tensors = tuple[Tensor, ...]


class Job(ctypes.Structure):
    """The arguments of frame.c; its field order is C's."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "size", "x_step", "channels", "width", "table_steps")),
        *((name, ctypes.c_void_p) for name in ("constants", "start", "table", "scale", "shift", "x", "g_s", "out")),
        *((name, ctypes.c_void_p * MOST_STATES) for name in ("state", "g_last", "last", "g_state")),
    )


class NormJob(ctypes.Structure):
    """The arguments of norm.c; its field order is C's."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "size", "x_step", "channels")),
        ("dtype", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("x", "g_y", "out", "scale", "A", "B")),
    )


@lru_cache(maxsize=4)
def pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: a fork has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="fire")


def over_threads(
    function: Callable, job: Job | NormJob, granule: int, outputs: list[tuple[Any, ...]] | None = None
) -> int:
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

    others = [pool(torch.get_num_threads(), os.getpid()).submit(share, i) for i in range(1, shares)]
    if share(0) + sum(other.result() for other in others):
        raise MemoryError
    return shares


@lru_cache(maxsize=1024)
def built(dynamics: Dynamics, dtype: torch.dtype) -> tuple[ctypes.CDLL, ctypes.Array, ctypes.Array]:
    """The library of a neuron, its constants and its states' starts."""
    made = source(derive(dynamics), str(dtype).removeprefix("torch.").upper())
    starts = [start for _, start in dynamics.states]
    constants, first = ((ctypes.c_float * (len(values) + 1))(*values) for values in (made.constants, starts))
    return library(made.text), constants, first


@cache
def norm_library() -> ctypes.CDLL:
    return library("\n".join((files(__package__) / name).read_text() for name in ("elements.h", "norm.c")))


class CKernels(NormKernels):
    """A neuron over a sequence, by C; see :class:`.backends.Kernels` for the arguments."""

    def forward(
        self,
        dynamics: Dynamics,
        x: Tensor,
        table: Tensor | None,
        states: Tensors,
        norm: Tensors | None,
        last: bool,
        train: bool,
    ) -> tuple[Tensor, Tensors, Tensors]:
        spikes, ends = room_like(x), tuple(empty_state(x) for _ in dynamics.states) if last else ()
        call = Call(dynamics, x, table, norm)
        job = call.job(out=spikes, state=states, last=ends)
        over_threads(call.code.fire_forward, job, call.granule)
        return spikes, ends, ()

    def backward(
        self,
        dynamics: Dynamics,
        x: Tensor,
        table: Tensor | None,
        states: Tensors,
        saved: Tensors,
        norm: Tensors | None,
        g_s: Tensor,
        g_last: Tensors,
    ) -> tuple[Tensor, Tensor | None, Tensors, Tensors | None]:
        g_c, g_states = room_like(x), tuple(empty_state(x) for _ in states)
        call = Call(dynamics, x, table, norm)
        job = call.job(out=g_c, g_s=g_s, state=states, g_last=g_last, g_state=g_states)
        threads = torch.get_num_threads()
        of_norm = torch.zeros(threads, 2, x.shape[0], call.width if norm is not None else 0, dtype=torch.float64)
        of_table = torch.zeros(threads, *call.table.shape, dtype=torch.float64)
        pairs = zip(of_norm, of_table, strict=True)
        over_threads(call.code.fire_backward, job, call.granule, [(pointer(a), pointer(b)) for a, b in pairs])
        g_table = None if table is None else call.folded(of_table.sum(0), table.shape[-1]).to(table.dtype)
        sums = None if norm is None else tuple(call.folded(of_norm.sum(0), x.shape[2]).float())
        return g_c, g_table, g_states, sums

    def saved_for(self, dynamics: Dynamics, x: Tensor) -> Tensors:
        """Nothing: the backward computes all states again from x."""
        return ()

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each (t, c) of x [T, N, C, H, W] in channels_last order, float32 [T, C]."""
        sums = torch.zeros(torch.get_num_threads(), 2, x.shape[0], x.shape[2], dtype=torch.float64)
        over_threads(norm_library().norm_statistics, norm_job(x), x.shape[2], [(pointer(part),) for part in sums])
        return moments(sums.sum(0), x)

    def combine(self, g_y: Tensor, x: Tensor, scale: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """∂L/∂x = a·g_y + A·x + B, in g_y's place."""
        terms = [term.float().contiguous() for term in (scale, A, B)]
        job = norm_job(x)
        job.g_y, job.out = g_y.data_ptr(), g_y.data_ptr()
        job.scale, job.A, job.B = (term.data_ptr() for term in terms)
        over_threads(norm_library().norm_combine, job, x.shape[2])
        return g_y


class Call:
    """What the calls of a neuron on x share; it keeps the tables alive that a job points to."""

    def __init__(self, dynamics: Dynamics, x: Tensor, table: Tensor | None, norm: Tensors | None):
        self.code, self.constants, self.start = built(dynamics, x.dtype)
        self.x = x
        self.channels = x.shape[2] if norm is not None or dynamics.per_channel else 0
        rows = BLOCK // self.channels if self.channels else 0
        self.width = max(rows, 1) * self.channels if self.channels else BLOCK
        self.granule = self.channels or GRANULE
        self.table = NOTHING if table is None else self.wide(table.float())
        self.norm = None if norm is None else tuple(self.wide(term.float()) for term in norm)

    def wide(self, terms: Tensor) -> Tensor:
        """[…, C or 1] → […, width]: each row of channels as often as a block has it, and room behind the last."""
        repeats = self.width // terms.shape[-1]
        room = torch.zeros(terms[..., 0].numel() * self.width + REGISTER)
        inside = room[:-REGISTER].view(*terms.shape[:-1], self.width)
        inside.view(*terms.shape[:-1], repeats, terms.shape[-1]).copy_(terms[..., None, :])
        return inside

    def folded(self, sums: Tensor, channels: int) -> Tensor:
        """[…, width] → […, channels]: what belongs to one channel, or to all, added up."""
        return sums.view(*sums.shape[:-1], -1, channels).sum(-2)

    def job(self, out: Tensor, g_s: Tensor | None = None, **frames: Tensors) -> Job:
        """The arguments; the tensors must outlive the call."""
        x = self.x
        job = Job(x.shape[0], x[0].numel(), x.stride(0), self.channels, self.width, max(1, self.table.shape[1]))
        scale, shift = self.norm or (None, None)
        job.constants, job.start = ctypes.addressof(self.constants), ctypes.addressof(self.start)
        tensors = {"table": self.table, "scale": scale, "shift": shift}
        for name, tensor in {**tensors, "x": x, "g_s": g_s, "out": out}.items():
            setattr(job, name, None if tensor is None else tensor.data_ptr())
        for name, states in frames.items():
            places = getattr(job, name)
            for k, state in enumerate(states):
                places[k] = state.data_ptr()
        return job


def norm_job(x: Tensor) -> NormJob:
    job = NormJob(x.shape[0], x[0].numel(), x.stride(0), x.shape[2], DTYPES[x.dtype])
    job.x = x.data_ptr()
    return job


def room_like(x: Tensor) -> Tensor:
    """Room for a sequence with x's frames, one after the other."""
    return BUFFERS.empty_strided(x.shape, (x[0].numel(), *x.stride()[1:]), x.dtype)


def pointer(tensor: Tensor) -> ctypes.c_void_p | None:
    """Where a tensor lies; NULL if it is empty."""
    return ctypes.c_void_p(tensor.data_ptr()) if tensor.numel() else None
