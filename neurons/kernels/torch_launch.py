"""Back ends ``torch`` and ``compile``: the equations as they stand, run by torch or through torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .equations import clif_backward, clif_forward, lif_backward, lif_forward
from .sequence import Dynamics, States, flat, unflat


@cache
def compiled(function: Callable) -> Callable:
    """torch.compile of one of the equations, for any number of elements; T is unrolled."""
    return torch.compile(function, dynamic=True, fullgraph=True)


class TorchKernel:
    """The equations over [T, M], M elements in memory order.

    Args:
        compile: through torch.compile, which fuses the loop over T; the first call of each T takes its time.
    """

    def __init__(self, compile: bool):
        self.compile = compile

    def _run(self, function: Callable) -> Callable:
        return compiled(function) if self.compile else function

    def forward(
        self, x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, last: bool, train: bool
    ) -> tuple[Tensor, States, States]:
        d = dynamics
        x_flat, *initial = self._inputs(x, states, d)
        if d.clif:
            spikes, *last_states = self._run(clif_forward)(x_flat, *initial, d.tau, d.v_threshold)
        else:
            spikes, *last_states = self._run(lif_forward)(
                x_flat, *initial, self._gamma(gamma, initial[0], d), d.v_threshold, d.v_reset
            )
        return unflat(spikes, x), tuple(frame(state, x) for state in last_states) if last else (), ()

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
        d = dynamics
        x_flat, *initial = self._inputs(x, states, d)
        ends = [flat(g[None])[0] for g in g_last] or [torch.zeros_like(v) for v in initial]
        g_gamma = None
        if d.clif:
            g_x, *g_states = self._run(clif_backward)(
                x_flat, *initial, flat(g_spikes), *ends, d.tau, d.v_threshold, d.surrogate, d.alpha
            )
        else:
            decay = self._gamma(gamma, initial[0], d)
            g_x, *g_states, g_gamma = self._run(lif_backward)(
                x_flat, *initial, decay, flat(g_spikes), *ends,
                d.v_threshold, d.v_reset, d.surrogate, d.alpha, gamma is not None,
            )  # fmt: skip
            g_gamma = None if gamma is None else g_gamma.to(gamma.dtype)
        return unflat(g_x, x), g_gamma, tuple(frame(g, x) for g in g_states) if states else ()

    def _inputs(self, x: Tensor, states: States, d: Dynamics) -> list[Tensor]:
        """x [T, M] and the states [M]; scalars, which broadcast, where the sequence starts afresh."""
        # a static sequence (stride 0 in time) would be one more graph to compile: there it is copied
        x_flat = flat(x).contiguous() if self.compile else flat(x)
        if states:
            return [x_flat, *(flat(state[None])[0] for state in states)]
        dtype = torch.promote_types(x.dtype, torch.float32)
        v = torch.full((), d.v_reset or 0.0, dtype=dtype, device=x.device)
        return [x_flat, v, torch.zeros_like(v)] if d.clif else [x_flat, v]

    @staticmethod
    def _gamma(gamma: Tensor | None, state: Tensor, d: Dynamics) -> float | Tensor:
        return 1 - 1 / d.tau if gamma is None else gamma.to(state.dtype)


def frame(y: Tensor, x: Tensor) -> Tensor:
    """[M] → the shape and memory layout of a frame of x."""
    return y.as_strided(x.shape[1:], x.stride()[1:])
