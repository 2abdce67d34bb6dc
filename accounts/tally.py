"""Counts the values that pass the layers of a network."""

from __future__ import annotations

import torch
from torch import Tensor


class Tally:
    """Sums up the values that pass a layer, on their device (nothing synchronises until it is read)."""

    def __init__(self) -> None:
        self.values = 0
        self.nonzero: Tensor | int = 0
        self.binary: Tensor | bool = True
        self.is_static = True
        self.input_shape = self.output_shape = torch.Size()

    def add(self, x: Tensor) -> None:
        """Count x: [T, N, *], or [·, *] with T merged into the batch or step by step."""
        static = x.dim() == 5 and x.shape[0] > 1 and x.stride(0) == 0
        once, repeats = (x[0], x.shape[0]) if static else (x, 1)
        self.is_static &= static
        self.values += x.numel()
        self.nonzero = self.nonzero + repeats * once.count_nonzero()
        self.binary = self.binary & ((once == 0) | (once == 1)).all()

    @property
    def density(self) -> float:
        """Share of the values that are not zero."""
        return int(self.nonzero) / self.values

    @property
    def rate(self) -> float | None:
        """The density of binary values; None for real ones."""
        return self.density if bool(self.binary) else None
