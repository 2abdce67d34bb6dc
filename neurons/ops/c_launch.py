"""Back end ``c``: a derived neuron's C over threads, and its arguments."""

from __future__ import annotations

import ctypes
import math
import os
from typing import Any

import torch
from torch import Tensor

from .buffers import BUFFERS, SMALLEST
from .c_jobs import STARTED, Job, NormJob, Share, pool, torchs_threads
from .c_source import built, norm_library
from .dynamics import Inputs
from .layout import empty_state
from .norm import Norm, NormKernels, moments

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
SMALLEST_SHARE = 1 << 14  # elements × steps below which another thread costs more than it does
BLOCK = 128  # elements, as in frame.c
GRANULE = 64  # elements: no two threads write to one cache line
REGISTER = 16  # floats: the last read of a table may go so far beyond its end
# what C's pointers lead to, whatever torch's default type and device are
PLACE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
SUMS: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
Tensors = tuple[Tensor, ...]


def over_threads(
    code: ctypes.CDLL, work: str, job: Job | NormJob, granule: int, outputs: list[tuple[Any, ...]] | None = None
) -> int:
    """Call the library's ``work`` over shares of the frame's elements, a thread for each.

    The shares are the same for the same number of threads, so that sums over them are too.

    Args:
        granule: a share is a multiple of this many elements.
        outputs: room for each share's own outputs; there are as many shares as these, at most.
    """
    granules, threads = -(-job.size // granule), torch.get_num_threads()
    count = max(1, min(threads, granules, job.size * job.T // SMALLEST_SHARE))
    count = min(count, len(outputs)) if outputs is not None else count
    borders = [min(job.size, granules * i // count * granule) for i in range(count + 1)]
    room = [()] * count if outputs is None else outputs
    shares = (Share * count)(*(Share(*borders[i : i + 2], *room[i]) for i in range(count)))
    function, parallel = getattr(code, work), torchs_threads() if os.getpid() == STARTED else None
    if count == 1:
        failed = function(ctypes.byref(job), shares)
    elif parallel is not None:
        place = ctypes.cast(function, ctypes.c_void_p)
        failed = code.over_threads(parallel, place, ctypes.byref(job), shares, ctypes.c_int64(count), threads)
    else:
        team = pool(threads, os.getpid())
        failed = any(team.map(lambda share: function(ctypes.byref(job), ctypes.byref(share)), shares))
    if failed:
        raise MemoryError
    return count


class CKernels(NormKernels):
    """A neuron over a sequence, by C; see :class:`.backends.Kernels` for the arguments."""

    def forward(self, inputs: Inputs, last: bool, train: bool) -> tuple[Tensor, Tensors, Tensors]:
        call, x = Call(inputs), inputs.x
        spikes, ends = room_like(x), tuple(empty_state(x) for _ in inputs.dynamics.states) if last else ()
        over_threads(call.code, "fire_forward", call.job(out=spikes, state=inputs.states, last=ends), call.granule)
        return spikes, ends, ()

    def backward(
        self, inputs: Inputs, saved: Tensors, g_s: Tensor, g_last: Tensors
    ) -> tuple[Tensor, Tensor | None, Tensors, Tensors | None]:
        call = Call(inputs)
        g_c, g_table, g_states, sums = call.backward(g_s, g_last)
        if inputs.norm is None:
            return g_c, g_table, g_states, None
        return g_c, g_table, g_states, tuple(call.folded(sums.sum(0), inputs.x.shape[2]).float())

    def saved_for(self, inputs: Inputs) -> Tensors:
        """Nothing: the backward computes all states again from x."""
        return ()

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each (t, c) of x [T, N, C, H, W] in channels_last order, float32 [T, C]."""
        return moments(NormCall(x).sum_up().sum(0), x)

    def combine(self, g_y: Tensor, x: Tensor, scale: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """∂L/∂x = a·g_y + A·x + B, in g_y's place."""
        scale, A, B = (term.float().contiguous() for term in (scale, A, B))
        call = NormCall(x)
        call.point(scale=scale, A=A, B=B)
        return call.combined(g_y)

    def norm_forward(
        self, inputs: Inputs, norm: Norm, train: bool
    ) -> tuple[Tensor, Tensor, Tensor, int | Tensor, Tensors]:
        """By C alone, where no other process has a share of the batch."""
        if norm.sum_over_ranks is not None:
            return super().norm_forward(inputs, norm, train)
        x, (T, N, C, H, W) = inputs.x, inputs.x.shape
        mean, var = (torch.empty(1 if norm.merged else T, C, **PLACE) for _ in range(2))
        call, passes = Call(inputs, normed=True), NormCall(x)
        passes.charge(call, norm, mean, var)
        passes.sum_up()
        if norm_library().norm_moments(ctypes.byref(passes.job)):
            raise MemoryError
        spikes = room_like(x)
        over_threads(call.code, "fire_forward", call.job(out=spikes), call.granule)
        return spikes, mean, var, N * H * W * (T if norm.merged else 1), ()

    def norm_backward(
        self, inputs: Inputs, norm: Norm, mean: Tensor, var: Tensor, n: int | Tensor, saved: Tensors, g_s: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """By C alone, where no other process has a share of the batch."""
        if norm.sum_over_ranks is not None:
            return super().norm_backward(inputs, norm, mean, var, n, saved, g_s)
        T, _, C, *_ = inputs.x.shape
        call, passes = Call(inputs, normed=True), NormCall(inputs.x)
        passes.charge(call, norm, mean, var)
        norm_library().norm_scale(ctypes.byref(passes.job))
        g_y, g_table, _, sums = call.backward(g_s, ())
        A, B, g_weight, g_bias = (torch.empty(shape, **PLACE) for shape in ((T, C), (T, C), C, C))
        passes.point(sums=sums, A=A, B=B, g_weight=g_weight, g_bias=g_bias)
        norm_library().norm_gradients(ctypes.byref(passes.job))
        return passes.combined(g_y), g_weight.to(norm.weight.dtype), g_bias.to(norm.bias.dtype), g_table


class Call:
    """What the calls of a neuron on x share; it keeps the tensors alive that a job points to.

    Args:
        normed: the current is scale·x + shift, and C fills both in: ``inputs`` has none.
    """

    def __init__(self, inputs: Inputs, normed: bool = False):
        self.inputs, x, table = inputs, inputs.x, inputs.table
        self.code, self.constants, self.start = built(inputs.dynamics, x.dtype)
        normed = normed or inputs.norm is not None
        self.channels = x.shape[2] if normed or inputs.dynamics.per_channel else 0
        rows = BLOCK // self.channels if self.channels else 0
        self.width = max(rows, 1) * self.channels if self.channels else BLOCK
        self.granule = self.channels or GRANULE
        # not made at import: that may come while torch.compile has tensors without memory made
        self.table = torch.zeros(0, 1, 0, **PLACE) if table is None else self.wide(table.float())
        self.norm: Tensors = ()
        if normed:
            given = inputs.norm
            self.norm = tuple(self.columns(len(x)) if given is None else self.wide(given[i].float()) for i in range(2))

    def columns(self, *rows: int) -> Tensor:
        """Room for a table […, width], and behind the last row for a read that goes beyond it."""
        return torch.zeros(math.prod(rows) * self.width + REGISTER, **PLACE)[:-REGISTER].view(*rows, self.width)

    def wide(self, terms: Tensor) -> Tensor:
        """[…, C or 1] → […, width]: each row of channels as often as a block has it."""
        table, C = self.columns(*terms.shape[:-1]), terms.shape[-1]
        table.view(*terms.shape[:-1], self.width // C, C).copy_(terms[..., None, :])
        return table

    def folded(self, sums: Tensor, channels: int) -> Tensor:
        """[…, width] → […, channels]: what belongs to one channel, or to all, added up."""
        return sums.view(*sums.shape[:-1], -1, channels).sum(-2)

    def job(self, out: Tensor, g_s: Tensor | None = None, **frames: Tensors) -> Job:
        """The arguments; the tensors must outlive the call."""
        x = self.inputs.x
        job = Job(len(x), x[0].numel(), x.stride(0), self.channels, self.width, max(1, self.table.shape[1]))
        job.constants, job.start = ctypes.addressof(self.constants), ctypes.addressof(self.start)
        job.table, job.x, job.out = self.table.data_ptr(), x.data_ptr(), out.data_ptr()
        job.scale, job.shift = (term.data_ptr() for term in self.norm) if self.norm else (None, None)
        job.g_s = None if g_s is None else g_s.data_ptr()
        for name, states in frames.items():
            places = getattr(job, name)
            for k, state in enumerate(states):
                places[k] = state.data_ptr()
        return job

    def backward(self, g_s: Tensor, g_last: Tensors) -> tuple[Tensor, Tensor | None, Tensors, Tensor]:
        """→ g_c, g_table, g_states, and each thread's Σ g_c and Σ g_c·x [threads, 2, T, width] if there is a norm."""
        x, learned, states = self.inputs.x, self.inputs.table, self.inputs.states
        g_c, g_states = room_like(x), tuple(empty_state(x) for _ in states)
        job = self.job(out=g_c, g_s=g_s, state=states, g_last=g_last, g_state=g_states)
        threads, width = torch.get_num_threads(), self.width if self.norm else 0
        of_norm = torch.zeros(threads, 2, len(x), width, **SUMS)
        of_table = torch.zeros(threads, *self.table.shape, **SUMS)
        sums = [(pointer(a), pointer(b)) for a, b in zip(of_norm, of_table, strict=True)]
        over_threads(self.code, "fire_backward", job, self.granule, sums)
        g_table = None if learned is None else self.folded(of_table.sum(0), learned.shape[-1]).to(learned.dtype)
        return g_c, g_table, g_states, of_norm


class NormCall:
    """Batch norm's own passes over x; it keeps the tensors alive that its job points to."""

    def __init__(self, x: Tensor):
        T, C = x.shape[0], x.shape[2]
        self.x, self.kept = x, [x]
        self.job = NormJob(T, x[0].numel(), x.stride(0), C, C, T, 0, DTYPES[x.dtype], 0.0, x.data_ptr())

    def point(self, **tensors: Tensor) -> None:
        """Set pointers of the job; a name that it does not have is an AttributeError."""
        for name, tensor in tensors.items():
            self.kept.append(tensor)
            setattr(self.job, name, tensor.data_ptr())

    def charge(self, call: Call, norm: Norm, mean: Tensor, var: Tensor) -> None:
        """Point to ``call``'s scale and shift, which C fills in, and to mean and var, [T, C] or [1, C]."""
        scale, shift = call.norm
        weight, bias = norm.weight.float().contiguous(), norm.bias.float().contiguous()
        self.point(weight=weight, bias=bias, scale=scale, shift=shift, mean=mean.contiguous(), var=var.contiguous())
        job = self.job
        job.width, job.terms, job.shares, job.eps = call.width, len(mean), torch.get_num_threads(), norm.eps

    def sum_up(self) -> Tensor:
        """Σ (x − x₀) and Σ (x − x₀)² of each thread's share, [threads, 2, T, C]; see :func:`.norm.moments`."""
        sums = torch.zeros(torch.get_num_threads(), 2, len(self.x), self.x.shape[2], **SUMS)
        self.point(sums=sums)
        rooms = [(pointer(part),) for part in sums]
        over_threads(norm_library(), "norm_statistics", self.job, self.x.shape[2], rooms)
        return sums

    def combined(self, g_y: Tensor) -> Tensor:
        """∂L/∂x = scale·g_y + A·x + B, in g_y's place."""
        self.point(g_y=g_y, out=g_y)
        over_threads(norm_library(), "norm_combine", self.job, self.x.shape[2])
        return g_y


def room_like(x: Tensor) -> Tensor:
    """Room for a sequence with x's frames, one after the other: a lent block, where malloc would ask the system."""
    stride = (x[0].numel(), *x.stride()[1:])
    if x.numel() * x.element_size() < SMALLEST:
        return torch.empty_strided(x.shape, stride, dtype=x.dtype, device=x.device)
    return BUFFERS.empty_strided(x.shape, stride, x.dtype)


def pointer(tensor: Tensor) -> ctypes.c_void_p | None:
    """Where a tensor lies; NULL if it is empty."""
    return ctypes.c_void_p(tensor.data_ptr()) if tensor.numel() else None
