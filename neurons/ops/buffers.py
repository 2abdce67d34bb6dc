"""Room for large outputs on the CPU, used again: the system's memory costs as much to get as a kernel to run.

malloc hands blocks of tens of megabytes back to the system when they are freed, and every page of the next one is a
fault and a zeroing. What is lent here goes to the next output of the same size instead.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from threading import RLock

import numpy as np
import torch
from torch import Tensor

SMALLEST = 1 << 20  # bytes; malloc keeps smaller blocks itself
ALIGNMENT = 64  # bytes: a cache line, and a vector


class Lent(np.ndarray):
    """Memory behind a tensor; it goes when the last tensor on it does."""


class Buffers:
    """Blocks of memory, lent to tensors. It never holds more than twice of what was lent at once."""

    def __init__(self) -> None:
        self.free: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # by size in bytes
        self.most_lent = self.held = 0  # bytes
        self.lock = RLock()

    @property
    def lent(self) -> int:
        """Bytes behind living tensors."""
        return self.held - sum(size * len(blocks) for size, blocks in self.free.items())

    def empty_strided(self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor on the CPU, dense in some order of its dimensions, as ``torch.empty_strided``."""
        size = dtype.itemsize * int(np.prod(shape))
        if size < SMALLEST:
            return torch.empty_strided(shape, stride, dtype=dtype, device="cpu")
        memory = self.lend(size)
        storage = torch.frombuffer(memory, dtype=dtype).untyped_storage()  # which keeps memory until it goes
        return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, shape, stride)

    def lend(self, size: int) -> Lent:
        """Memory of so many bytes; it comes back by itself."""
        with self.lock:
            blocks = self.free[size]
            self.most_lent = max(self.most_lent, self.lent + size)
            block = blocks.pop() if blocks else self.new(size)
        memory = block.view(Lent)
        weakref.finalize(memory, blocks.append, block).atexit = False  # at any moment, so that it waits for no lock
        return memory

    def release(self) -> None:
        """Let go of all free blocks: what is not lent goes back to the system."""
        with self.lock:
            for blocks in self.free.values():
                while blocks:
                    self.held -= blocks.pop().nbytes

    def new(self, size: int) -> np.ndarray:
        """Another block; free ones of other sizes go where that would be too much."""
        for blocks in self.free.values():
            while blocks and self.held + size > 2 * self.most_lent:
                self.held -= blocks.pop().nbytes
        self.held += size
        raw = np.empty(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + size]


BUFFERS = Buffers()
