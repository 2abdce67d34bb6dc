"""How frames are cut into tiles and tiles shared among programs, for back end ``triton``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .dynamics import Inputs
from .triton_source import Steps, steps

MOST_PROGRAMS = (2**31 - 1, 65_535, 65_535)  # along each axis of a grid
LONGEST_CHUNK = 8  # steps whose values a program keeps in registers
PER_PROCESSOR = 4  # programs that take sums, for each of the GPU's multiprocessors
WITHOUT_GPU = 2  # multiprocessors of Triton's interpreter: enough for several programs
TERMS = 16  # columns of a program that makes terms of sums
CHANNELS = 64  # of a program that updates running statistics
PARTS = 8192  # numbers that such a program reads at once
Tensors = tuple[Tensor, ...]
Grid = tuple[int, int, int]


def cdiv(a: int, b: int) -> int:
    """a/b, rounded up. Triton's own, which kernels may call too, takes 2 µs on the host, and a layer asks 45 times."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The least power of 2 that is no less than n."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a program's tile, its warps, and how many registers a thread may take (None: all)."""

    rows: int
    columns: int
    warps: int
    registers: int | None = None

    def over(self, frame: Frame) -> Tile:
        """As many elements in other rows, if the frame has fewer columns."""
        columns = min(self.columns, power_of_2(frame.columns))
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
        size = x.shape[1:].numel()
        if channels:
            return cls(size // max(x.shape[2], 1), x.shape[2], size, False)
        return cls(1, 1, size, True)

    def tiles(self, tile: Tile) -> tuple[int, int]:
        """How many tiles it takes: along its columns (or none), along its rows."""
        if self.flat:
            return 1, cdiv(self.size, tile.rows * tile.columns)
        return cdiv(self.columns, tile.columns), cdiv(self.rows, tile.rows)

    def grid(self, tile: Tile, programs: int) -> Grid:
        """The grid of so many programs along the rows, of as many columns of them as it takes.

        Programs of a flat frame lie along axis 0; else columns do, and rows along axes 1 and 2.
        """
        if self.flat:
            return programs, 1, 1
        layers = max(1, cdiv(programs, MOST_PROGRAMS[1]))  # an empty frame has no programs
        return self.tiles(tile)[0], cdiv(programs, layers), layers


def launch(kernel: Any, grid: Grid, *args: Any, **constants: Any) -> None:
    """Start a kernel on the GPU of its first tensor, whichever is current.

    Raises:
        ValueError: if a GPU has no such grid.
    """
    if grid[0] > MOST_PROGRAMS[0] or grid[1] > MOST_PROGRAMS[1] or grid[2] > MOST_PROGRAMS[2]:
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
    wanted = cdiv(PER_PROCESSOR * processors(device), max(columns, 1))
    each = cdiv(tiles, max(1, min(wanted, most)))
    return (cdiv(tiles, each) if each else 0), each


def chunk_length(T: int) -> int:
    """Steps in a chunk: T is cut evenly into as few chunks of at most ``LONGEST_CHUNK`` as it takes."""
    return cdiv(T, cdiv(T, LONGEST_CHUNK))


class Call:
    """What the calls of a neuron on x share: its functions, its frame, and the arguments about them."""

    def __init__(self, inputs: Inputs):
        dynamics, x, table, _, norm = inputs
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
        each_step = len(self.norm) + len(of.timed)  # sums of it
        values = K * (of.saved + each_step) + len(of.fixed)
        if self.constants["TABLE"][1] > 1:  # parameters are kept for each column
            values += 2 * (len(of.fixed) + len(of.timed))
        if values > MANY or (each_step and self.constants["T"] > K):
            return CROWDED.over(self.frame)
        tile = BACKWARD[False]
        if self.surrogate == "sigmoid" or K == LONGEST_CHUNK:  # 128 registers would be a few too few
            tile = replace(tile, registers=None)
        return tile.over(self.frame)


def in_rows(terms: Tensor) -> Tensor:
    """Terms [T, C] with C fastest; the rows of one that is expanded stay one."""
    return terms if terms.stride(1) == 1 or terms.shape[1] == 1 else terms.contiguous()


def terms_grid(frame: Frame) -> Grid:
    return cdiv(frame.columns, TERMS), 1, 1


def terms(T: int, programs: int = 0) -> dict[str, int]:
    """How the kernels that make terms of sums are compiled."""
    steps_of = power_of_2(T)
    constants = {"STEPS": steps_of, "COLS": TERMS, "num_warps": 8}
    if programs:
        constants["PARTS"] = max(1, min(power_of_2(programs), PARTS // (steps_of * TERMS)))
    return constants
