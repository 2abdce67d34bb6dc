"""Back end ``triton``: how the kernels of :mod:`.triton_frames` and :mod:`.triton_norm` are laid over tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from .dynamics import Dynamics
from .layout import empty_frames, empty_state
from .norm import NormKernels, SumOverRanks
from .triton_frames import backward_kernel, forward_kernel
from .triton_norm import combine_kernel, gradient_kernel, moments_kernel, scale_kernel, statistics_kernel
from .triton_source import Steps, steps

MOST_PROGRAMS = (2**31 - 1, 65_535, 65_535)  # along each axis of a grid
LONGEST_CHUNK = 8  # steps whose values a program keeps in registers
PER_PROCESSOR = 4  # programs that take sums, for each of the GPU's multiprocessors
WITHOUT_GPU = 2  # multiprocessors of Triton's interpreter: enough for several programs
TERMS = 16  # columns of a program that makes terms of sums
PARTS = 8192  # numbers that such a program reads at once
Tensors = tuple[Tensor, ...]
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a program's tile, its warps, and how many registers a thread may take (None: all)."""

    rows: int
    columns: int
    warps: int
    registers: int | None = None

    def over(self, frame: Frame) -> Tile:
        """As many elements in other rows, if the frame has fewer columns."""
        columns = min(self.columns, triton.next_power_of_2(frame.columns))
        return self if frame.flat else replace(self, rows=self.rows * self.columns // columns, columns=columns)

    @property
    def constants(self) -> dict[str, Any]:
        return {"ROWS": self.rows, "COLS": self.columns, "num_warps": self.warps, "maxnreg": self.registers}


FORWARD = {True: Tile(1, 256, 4), False: Tile(8, 64, 8)}  # by whether a frame is flat
BACKWARD = {True: Tile(1, 256, 4), False: Tile(4, 64, 4, 128)}  # two elements of a thread
CROWDED = Tile(2, 64, 4)  # one, where more values of each are kept than this
MANY = 40
STREAM = Tile(16, 64, 4)  # of statistics and of the norm's own gradient


@dataclass(frozen=True)
class Frame:
    """A frame as the kernels see it: [rows, columns] in memory, or ``flat``, its elements one after the other."""

    rows: int
    columns: int
    size: int
    flat: bool

    @classmethod
    def of(cls, x: Tensor, channels: bool) -> Frame:
        """A frame of x [T, …]; with ``channels`` of x [T, N, C, *] in channels_last order, a column a channel."""
        size = x[0].numel()
        if channels:
            return cls(size // max(x.shape[2], 1), x.shape[2], size, False)
        return cls(1, 1, size, True)

    def tiles(self, tile: Tile) -> tuple[int, int]:
        """How many tiles it takes: along its columns (or none), along its rows."""
        if self.flat:
            return 1, triton.cdiv(self.size, tile.rows * tile.columns)
        return triton.cdiv(self.columns, tile.columns), triton.cdiv(self.rows, tile.rows)

    def grid(self, tile: Tile, programs: int) -> Grid:
        """The grid of so many programs along the rows, of as many columns of them as it takes.

        Programs of a flat frame lie along axis 0; else columns do, and rows along axes 1 and 2.
        """
        if self.flat:
            return programs, 1, 1
        layers = triton.cdiv(programs, MOST_PROGRAMS[1])
        return self.tiles(tile)[0], triton.cdiv(programs, layers), layers


def launch(kernel: Any, grid: Grid, *args: Any, **constants: Any) -> None:
    """Start a kernel on the GPU of its first tensor, whichever is current.

    Raises:
        ValueError: if a GPU has no such grid.
    """
    if any(n > most for n, most in zip(grid, MOST_PROGRAMS, strict=True)):
        raise ValueError(f"{kernel.__name__} needs a grid of {grid}; a GPU has one of {MOST_PROGRAMS} at most")
    if 0 in grid:
        return
    with torch.cuda.device_of(args[0]):
        kernel[grid](*args, **constants)


@cache
def processors(device: torch.device) -> int:
    """The multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else WITHOUT_GPU


def shared_among(tiles: int, columns: int, device: torch.device, most: int = 1 << 30) -> tuple[int, int]:
    """Programs along the rows that share so many tiles, each in so many columns of tiles; and the tiles of each."""
    wanted = triton.cdiv(PER_PROCESSOR * processors(device), max(columns, 1))
    each = triton.cdiv(tiles, max(1, min(wanted, most)))
    return (triton.cdiv(tiles, each) if each else 0), each


def chunk_length(T: int) -> int:
    """Steps in a chunk: T is cut evenly into as few chunks of at most ``LONGEST_CHUNK`` as it takes."""
    return triton.cdiv(T, triton.cdiv(T, LONGEST_CHUNK))


class TritonKernels(NormKernels):
    """A neuron over a sequence, by Triton; see :class:`.backends.Kernels` for the arguments."""

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
        call = Call(dynamics, x, table, norm)
        frame = call.frame
        tile = FORWARD[frame.flat].over(frame)
        spikes, ends = empty_frames(x), tuple(empty_state(x) for _ in dynamics.states) if last else ()
        kept = self.saved_for(dynamics, x) if train else ()
        launch(
            forward_kernel, frame.grid(tile, frame.tiles(tile)[1]), x, spikes, table, call.norm, states, ends, kept,
            *call.sizes, START=call.steps.start, STEP=call.steps.step, **call.constants, **tile.constants,
        )  # fmt: skip
        return spikes, ends, kept

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
        g_c, g_states, parts, g_table = self._backward(dynamics, x, table, states, saved, norm, g_s, g_last)
        return g_c, g_table, g_states, None if parts is None else tuple(parts.sum(0))

    def _backward(
        self,
        dynamics: Dynamics,
        x: Tensor,
        table: Tensor | None,
        states: Tensors,
        saved: Tensors,
        norm: Tensors | None,
        g_s: Tensor,
        g_last: Tensors,
    ) -> tuple[Tensor, Tensors, Tensor | None, Tensor | None]:
        """→ g_c, g_states, each program's part of Σ g_c and Σ g_c·x [programs, 2, T, C], g_table."""
        call = Call(dynamics, x, table, norm)
        frame, tile = call.frame, call.backward_tile
        across, tiles = frame.tiles(tile)
        programs, each = shared_among(tiles, across, x.device) if norm or table is not None else (tiles, 1)
        g_c, g_states = empty_frames(x), tuple(empty_state(x) for _ in states)
        parts = None if norm is None else x.new_empty(programs, 2, x.shape[0], frame.columns, dtype=torch.float32)
        of_table = None
        if table is not None:
            slots = programs * (across if table.shape[2] == 1 else 1)
            of_table = x.new_empty(slots, *table.shape, dtype=torch.float32)
        launch(
            backward_kernel, frame.grid(tile, programs), x, g_s, g_c, table, call.norm, states, saved, g_last, g_states,
            parts, of_table, *call.sizes, each,
            START=call.steps.start, STEP_SAVING=call.steps.step_saving, STEP_BACK=call.steps.step_back,
            **call.constants, **tile.constants,
        )  # fmt: skip
        return g_c, g_states, parts, None if of_table is None else of_table.sum(0).to(table.dtype)

    def saved_for(self, dynamics: Dynamics, x: Tensor) -> Tensors:
        """The states before each chunk of time steps but the first, [T / K − 1, frame] each; nothing if T ≤ 8."""
        chunks = triton.cdiv(x.shape[0], chunk_length(x.shape[0]))
        if chunks == 1:
            return ()
        return tuple(x.new_empty(chunks - 1, x[0].numel(), dtype=torch.float32) for _ in dynamics.states)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each (t, c) of x [T, N, C, H, W] in channels_last order, float32 [T, C]."""
        mean, var = (x.new_empty(x.shape[0], x.shape[2], dtype=torch.float32) for _ in range(2))
        self._moments(x, mean, var, None, None, None, None, 0.0, merged=False)
        return mean, var

    def _moments(
        self,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        eps: float,
        merged: bool,
    ) -> None:
        """Write mean, var and, with a weight, the a and b of y = a·x + b of each (t, c), or of each c."""
        frame, T = Frame.of(x, True), x.shape[0]
        distinct = 1 if x.stride(0) == 0 else T  # frames
        tile = STREAM.over(frame)
        across, tiles = frame.tiles(tile)
        programs, each = shared_among(tiles, across * distinct, x.device, MOST_PROGRAMS[2])
        parts = x.new_empty(programs, 2, distinct, frame.columns, dtype=torch.float32)
        launch(
            statistics_kernel, (across, distinct, programs), x, parts, frame.rows, frame.columns, x.stride(0), each,
            **tile.constants,
        )  # fmt: skip
        launch(
            moments_kernel, terms_grid(frame), parts, x, weight, bias, mean, var, scale, shift,
            programs, T, distinct, frame.columns, x.stride(0), frame.rows, eps, MERGED=merged, **terms(T, programs),
        )  # fmt: skip

    def combine(self, g_y: Tensor, x: Tensor, scale: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """∂L/∂x = a·g_y + A·x + B, in g_y's place."""
        frame, T = Frame.of(x, True), x.shape[0]
        tile = STREAM.over(frame)
        across, tiles = frame.tiles(tile)
        programs, each = shared_among(tiles, across * T, x.device, MOST_PROGRAMS[2])
        factors = [in_rows(term) for term in (scale, A, B)]
        launch(
            combine_kernel, (across, T, programs), g_y, x, g_y, *factors, frame.rows, frame.columns, frame.size,
            x.stride(0), *(term.stride(0) for term in factors), each, **tile.constants,
        )  # fmt: skip
        return g_y

    def norm_forward(
        self,
        dynamics: Dynamics,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        table: Tensor | None,
        eps: float,
        merged: bool,
        sum_over_ranks: SumOverRanks | None,
        train: bool,
    ) -> tuple[Tensor, Tensor, Tensor, int | Tensor, Tensors]:
        """In three launches, where no other process has a share of the batch."""
        if sum_over_ranks is not None:
            return super().norm_forward(dynamics, x, weight, bias, table, eps, merged, sum_over_ranks, train)
        T, C = x.shape[0], x.shape[2]
        mean, var, scale, shift = (x.new_empty(1 if merged else T, C, dtype=torch.float32) for _ in range(4))
        self._moments(x, mean, var, weight, bias, scale, shift, eps, merged)
        spikes, _, saved = self.forward(dynamics, x, table, (), (scale.expand(T, C), shift.expand(T, C)), False, train)
        return spikes, mean, var, x[0].numel() // C * (T if merged else 1), saved

    def norm_backward(
        self,
        dynamics: Dynamics,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        n: int | Tensor,
        table: Tensor | None,
        saved: Tensors,
        g_s: Tensor,
        eps: float,
        sum_over_ranks: SumOverRanks | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """In four launches, where no other process has a share of the batch."""
        if sum_over_ranks is not None:
            return super().norm_backward(
                dynamics, x, weight, bias, mean, var, n, table, saved, g_s, eps, sum_over_ranks
            )
        frame, T = Frame.of(x, True), x.shape[0]
        terms_of = len(mean)  # T, or 1 if merged
        scale, shift, A, B = x.new_empty(4, *mean.shape, dtype=torch.float32).unbind()
        launch(
            scale_kernel, terms_grid(frame), mean, var, weight, bias, scale, shift, terms_of, frame.columns, eps,
            **terms(terms_of),
        )  # fmt: skip
        norm = (scale.expand(T, -1), shift.expand(T, -1))
        g_y, _, parts, g_table = self._backward(dynamics, x, table, (), saved, norm, g_s, ())
        assert parts is not None
        g_weight, g_bias = torch.empty_like(weight), torch.empty_like(bias)
        launch(
            gradient_kernel, terms_grid(frame), parts, mean, var, weight, A, B, g_weight, g_bias,
            len(parts), T, frame.columns, frame.rows * (T // terms_of), eps,
            MERGED=terms_of < T, **terms(T, len(parts)),
        )  # fmt: skip
        g_x = self.combine(g_y, x, *(term.expand(T, -1) for term in (scale, A, B)))
        return g_x, g_weight, g_bias, g_table


class Call:
    """What the calls of a neuron on x share: its functions, its frame, and the arguments about them."""

    def __init__(self, dynamics: Dynamics, x: Tensor, table: Tensor | None, norm: Tensors | None):
        T = x.shape[0]
        self.steps: Steps = steps(dynamics)
        self.surrogate = dynamics.surrogate
        self.frame = Frame.of(x, norm is not None or dynamics.per_channel)
        self.norm = () if norm is None else tuple(map(in_rows, norm))
        norm_step = self.norm[0].stride(0) if self.norm else 0
        self.sizes = (self.frame.rows, self.frame.columns, self.frame.size, x.stride(0), norm_step)
        self.constants: dict[str, Any] = {
            "FIXED": self.steps.fixed,
            "TIMED": self.steps.timed,
            "TABLE": (1, 1) if table is None else tuple(table.shape[1:]),
            "T": T,
            "K": chunk_length(T),
            "FLAT": self.frame.flat,
        }

    @property
    def backward_tile(self) -> Tile:
        """A tile whose values, of all steps of a chunk, fit the registers of its threads."""
        if self.frame.flat:
            return BACKWARD[True]
        K, of = self.constants["K"], self.steps
        sums = len(of.fixed) + K * (len(self.norm) + len(of.timed))
        parameters = 0 if self.constants["TABLE"][1] == 1 else 2 * (len(of.fixed) + len(of.timed))
        if K * of.saved + sums + parameters > MANY:
            return CROWDED.over(self.frame)
        tile = BACKWARD[False]
        if self.surrogate == "sigmoid":  # whose derivative needs registers of its own
            tile = replace(tile, registers=None)
        return tile.over(self.frame)


def in_rows(terms: Tensor) -> Tensor:
    """Terms [T, C] with C fastest; the rows of one that is expanded stay one."""
    return terms if terms.stride(1) == 1 or terms.shape[1] == 1 else terms.contiguous()


def terms_grid(frame: Frame) -> Grid:
    return triton.cdiv(frame.columns, TERMS), 1, 1


def terms(T: int, programs: int = 0) -> dict[str, int]:
    """How the kernels that make terms of sums are compiled."""
    steps_of = triton.next_power_of_2(T)
    constants = {"STEPS": steps_of, "COLS": TERMS, "num_warps": 8}
    if programs:
        constants["PARTS"] = max(1, min(triton.next_power_of_2(programs), PARTS // (steps_of * TERMS)))
    return constants
