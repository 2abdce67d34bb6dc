"""Back end ``triton``: how the kernels of :mod:`.triton_kernels` are laid over a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from .equations import moments
from .interface import Dynamics, States
from .triton_kernels import backward_kernel, combine_kernel, forward_kernel, statistics_kernel

SURROGATE_CODES = {"rectangle": 0, "triangle": 1, "sigmoid": 2}
STATISTICS_PROGRAMS = 128  # programs over the rows of a frame, for each tile of channels and step
WARPS = 4
LONGEST_CHUNK = 8  # steps whose states a program keeps in registers


@dataclass(frozen=True)
class Tiling:
    """How a frame is cut into programs: [rows, columns] of it, in tiles of [tile_rows, tile_columns].

    A thread owns two elements, so that a chunk of CLIF's states fits its registers (93 of them on sm_90 for
    T = 6, nothing spilled).
    """

    rows: int
    columns: int
    tile_rows: int
    tile_columns: int
    warps: int

    @property
    def grid(self) -> tuple[int, int]:
        return triton.cdiv(self.rows, self.tile_rows), triton.cdiv(self.columns, self.tile_columns)


def elementwise(x: Tensor) -> Tiling:
    """All elements of a frame as one row, in memory order."""
    return Tiling(1, x[0].numel(), 1, 256, warps=WARPS)


def channelwise(x: Tensor) -> Tiling:
    """A channels_last frame as [N·H·W, C]: a tile's columns are channels, its sums go over the rows."""
    return Tiling(x[0].numel() // x.shape[2], x.shape[2], 16, 32, warps=8)


def chunk_length(T: int) -> int:
    """Steps in a chunk: T is cut evenly into as few chunks of at most ``LONGEST_CHUNK`` as it takes."""
    return triton.cdiv(T, triton.cdiv(T, LONGEST_CHUNK))


class TritonKernel:
    """One kernel forward, one backward; see :class:`.sequence.Kernel` for the arguments."""

    def forward(
        self, x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, last: bool, train: bool
    ) -> tuple[Tensor, States, States]:
        last_states = tuple(room_for_state(x) for _ in range(1 + dynamics.clif)) if last else ()
        spikes, saved = self._forward(x, gamma, states, last_states, dynamics, train, elementwise(x), None, None)
        return spikes, last_states, saved

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
        g_states = tuple(room_for_state(x) for _ in states)
        g_x, g_gamma = self._backward(
            x, gamma, states, saved, g_spikes, g_last, g_states, dynamics, elementwise(x), None, None, None, None
        )
        return g_x, g_gamma, g_states

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each (t, c) of x [T, N, C, H, W], float32 [T, C]."""
        tiling = channelwise(x)
        tiles = triton.cdiv(tiling.grid[0], STATISTICS_PROGRAMS)  # of a program, one below the other
        programs = triton.cdiv(tiling.grid[0], tiles)
        parts = torch.empty(2, programs, x.shape[0], tiling.columns, device=x.device)
        with on_device(x):
            statistics_kernel[(programs, tiling.grid[1], x.shape[0])](
                x, *parts, x.shape[0], tiling.rows, tiling.columns, x.stride(0), tiles,
                ROWS=tiling.tile_rows, COLS=tiling.tile_columns, num_warps=WARPS,
            )  # fmt: skip
        return moments(parts.sum(1), x)

    def norm_forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, gamma: Tensor | None, dynamics: Dynamics, train: bool
    ) -> tuple[Tensor, States]:
        """The norm's a and b [T, C] with the neuron behind it: → spikes like x, and what to save besides x."""
        return self._forward(x, gamma, (), (), dynamics, train, channelwise(x), scale.contiguous(), shift.contiguous())

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
        tiling = channelwise(x)
        # each row of tiles leaves its part, and the parts are added in a fixed order: atomics would not be
        parts = torch.zeros(2, tiling.grid[0], x.shape[0], tiling.columns, device=x.device)
        g_y, g_gamma = self._backward(
            x, gamma, (), saved, g_spikes, (), (), dynamics, tiling, scale.contiguous(), shift.contiguous(), *parts
        )
        sum_g, sum_gx = parts.sum(1)  # [2, tiles, T, C] → two of [T, C]
        return g_y, sum_g, sum_gx, g_gamma

    def combine(self, g_y: Tensor, x: Tensor, scale: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """∂L/∂x = a·g_y + A·x + B, in g_y's place where the types allow it."""
        tiling = channelwise(x)
        g_x = g_y if g_y.dtype == x.dtype else torch.empty_like(g_y, dtype=x.dtype)
        with on_device(x):
            combine_kernel[tiling.grid](
                g_y, x, g_x, scale.contiguous(), A.contiguous(), B.contiguous(),
                x.shape[0], tiling.rows, tiling.columns, x.stride(0),
                ROWS=tiling.tile_rows, COLS=tiling.tile_columns, num_warps=tiling.warps,
            )  # fmt: skip
        return g_x

    def _forward(self, x, gamma, states, last_states, dynamics, train, tiling, scale, shift) -> tuple[Tensor, States]:
        T, K = x.shape[0], chunk_length(x.shape[0])
        saved = tuple(room_for_chunks(x, K) for _ in range(1 + dynamics.clif)) if train and K < T else ()
        spikes = torch.empty_strided(x.shape, (x[0].numel(), *x.stride()[1:]), dtype=x.dtype, device=x.device)
        with on_device(x):
            forward_kernel[tiling.grid](
                x, spikes, *pair(states), *pair(last_states), *pair(saved), scale, shift, gamma,
                T, tiling.rows, tiling.columns, x.stride(0),
                dynamics.tau, dynamics.v_threshold, dynamics.v_reset or 0.0,
                LAST=bool(last_states), CHUNKED=bool(saved), num_warps=tiling.warps,
                **constants(dynamics, gamma, states, K, tiling, scale),
            )  # fmt: skip
        return spikes, saved

    def _backward(
        self, x, gamma, states, saved, g_spikes, g_last, g_states, dynamics, tiling, scale, shift, sum_g, sum_gx
    ) -> tuple[Tensor, Tensor | None]:
        g_x = torch.empty_like(g_spikes, dtype=x.dtype)
        g_gamma = None if gamma is None else torch.zeros(tiling.grid, device=x.device)
        with on_device(x):
            backward_kernel[tiling.grid](
                x, g_spikes, g_x, *pair(states), *pair(g_last), *pair(g_states), g_gamma, *pair(saved),
                scale, shift, sum_g, sum_gx, gamma, x.shape[0], tiling.rows, tiling.columns, x.stride(0),
                dynamics.tau, dynamics.v_threshold, dynamics.v_reset or 0.0, dynamics.alpha,
                LAST=bool(g_last), CHUNKED=bool(saved), SURROGATE=SURROGATE_CODES[dynamics.surrogate],
                num_warps=tiling.warps,
                **constants(dynamics, gamma, states, chunk_length(x.shape[0]), tiling, scale),
            )  # fmt: skip
        return g_x, None if g_gamma is None else g_gamma.sum().to(gamma.dtype)


def constants(
    dynamics: Dynamics, gamma: Tensor | None, states: States, K: int, tiling: Tiling, scale: Tensor | None
) -> dict[str, int | bool]:
    """What both kernels are compiled for."""
    return {
        "CLIF": dynamics.clif,
        "HARD": dynamics.v_reset is not None,
        "NORM": scale is not None,
        "LEARN": gamma is not None,
        "FRESH": not states,
        "K": K,
        "ROWS": tiling.tile_rows,
        "COLS": tiling.tile_columns,
    }


def room_for_state(x: Tensor) -> Tensor:
    """Room for a state: a frame of x in float32."""
    return torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32, device=x.device)


def room_for_chunks(x: Tensor, K: int) -> Tensor:
    """Room for a state at the start of each chunk, [T / K, M]."""
    return torch.empty(triton.cdiv(x.shape[0], K), x[0].numel(), dtype=torch.float32, device=x.device)


def pair(states: States) -> tuple[Tensor | None, Tensor | None]:
    """(v, m), with None for what there is not."""
    v, m = (*states, None, None)[:2]
    return v, m


def on_device(x: Tensor) -> torch.cuda.device_of:
    """Launch on x's GPU, whichever is current (and nowhere in particular under Triton's interpreter)."""
    return torch.cuda.device_of(x)
