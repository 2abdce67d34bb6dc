"""Back end ``triton``: how the kernels of :mod:`.triton_kernels` are laid over a tensor."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .sequence import Dynamics, States
from .triton_kernels import backward_kernel, forward_kernel

SURROGATE_CODES = {"rectangle": 0, "triangle": 1, "sigmoid": 2}
LONGEST_CHUNK = 8  # steps whose states a program keeps in registers
WARPS = 4
TILE = 256  # elements of a program: two a thread, so that a chunk of CLIF's states fits its registers


def chunk_length(T: int) -> int:
    """Steps in a chunk: T is cut evenly into as few chunks of at most ``LONGEST_CHUNK`` as it takes."""
    chunks = triton.cdiv(T, LONGEST_CHUNK)
    return triton.cdiv(T, chunks)


class TritonKernel:
    """One kernel forward, one backward, over [T, 1, M]: M elements of a frame in memory order."""

    def forward(
        self, x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, last: bool, train: bool
    ) -> tuple[Tensor, States, States]:
        T, M = x.shape[0], x[0].numel()
        K = chunk_length(T)
        chunked = train and K < T
        spikes = torch.empty_strided(x.shape, (M, *x.stride()[1:]), dtype=x.dtype, device=x.device)
        last_states = tuple(self._state(x) for _ in range(1 + dynamics.clif)) if last else ()
        saved = tuple(self._chunk_states(x, K) for _ in range(1 + dynamics.clif)) if chunked else ()
        v, m = pad(states)
        v_last, m_last = pad(last_states)
        chunk_v, chunk_m = pad(saved)
        if M and T:
            with on_device(x):
                forward_kernel[(1, triton.cdiv(M, TILE))](
                    x, spikes, v, m, v_last, m_last, chunk_v, chunk_m, None, None, gamma, T, 1, M, x.stride(0),
                    dynamics.tau, dynamics.v_threshold, dynamics.v_reset or 0.0,
                    LAST=last, CHUNKED=chunked, num_warps=WARPS, **self._constants(dynamics, gamma, states, K),
                )  # fmt: skip
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
        T, M = x.shape[0], x[0].numel()
        K = chunk_length(T)
        g_x = torch.empty_like(g_spikes, dtype=x.dtype)
        g_states = tuple(self._state(x) for _ in states)
        grid = (1, triton.cdiv(M, TILE))
        g_gamma = None if gamma is None else torch.zeros(grid[1], device=x.device)
        v, m = pad(states)
        gv_last, gm_last = pad(g_last)
        gv, gm = pad(g_states)
        chunk_v, chunk_m = pad(saved)
        if M and T:
            with on_device(x):
                backward_kernel[grid](
                    x, g_spikes, g_x, v, m, gv_last, gm_last, gv, gm, g_gamma, chunk_v, chunk_m, None, None, None,
                    None, gamma, T, 1, M, x.stride(0),
                    dynamics.tau, dynamics.v_threshold, dynamics.v_reset or 0.0, dynamics.alpha,
                    LAST=bool(g_last), CHUNKED=bool(saved), SURROGATE=SURROGATE_CODES[dynamics.surrogate],
                    num_warps=WARPS, **self._constants(dynamics, gamma, states, K),
                )  # fmt: skip
        return g_x, None if gamma is None else g_gamma.sum().to(gamma.dtype), g_states

    @staticmethod
    def _constants(dynamics: Dynamics, gamma: Tensor | None, states: States, K: int) -> dict[str, int | bool]:
        return {
            "CLIF": dynamics.clif,
            "HARD": dynamics.v_reset is not None,
            "NORM": False,
            "LEARN": gamma is not None,
            "FRESH": not states,
            "K": K,
            "ROWS": 1,
            "COLS": TILE,
        }

    @staticmethod
    def _state(x: Tensor) -> Tensor:
        """Room for a state: a frame of x in float32."""
        return torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32, device=x.device)

    @staticmethod
    def _chunk_states(x: Tensor, K: int) -> Tensor:
        """Room for a state at the start of each chunk, [T / K, M]."""
        return torch.empty(triton.cdiv(x.shape[0], K), x[0].numel(), dtype=torch.float32, device=x.device)


def pad(states: States) -> tuple[Tensor | None, Tensor | None]:
    """(v, m), with None for what there is not."""
    v, m = (*states, None, None)[:2]
    return v, m


def on_device(x: Tensor) -> torch.cuda.device:
    """Launch on x's GPU, whichever is current (and nowhere in particular under Triton's interpreter)."""
    return torch.cuda.device_of(x)
