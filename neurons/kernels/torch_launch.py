"""Back end ``torch``: the equations as they stand, on any device and in any precision."""

from __future__ import annotations

import torch
from torch import Tensor

from .equations import clif_backward, clif_forward, lif_backward, lif_forward
from .interface import Dynamics, States, flat, reshaped, unflat


class TorchKernel:
    """The equations over [T, M], M elements in memory order; see :class:`.sequence.Kernel` for the arguments."""

    def forward(
        self, x: Tensor, gamma: Tensor | None, states: States, dynamics: Dynamics, last: bool, train: bool
    ) -> tuple[Tensor, States, States]:
        d = dynamics
        v, m = initial_states(x, states, d)
        if d.clif:
            spikes, *last_states = clif_forward(flat(x), v, m, d.tau, d.v_threshold)
        else:
            spikes, *last_states = lif_forward(flat(x), v, decay(gamma, v, d), d.v_threshold, d.v_reset)
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
        v, m = initial_states(x, states, d)
        ends = [flat(g[None])[0] for g in g_last] or [torch.zeros_like(v), torch.zeros_like(m)]
        g_gamma = None
        if d.clif:
            g_x, *g_states = clif_backward(
                flat(x), v, m, flat(g_spikes), ends[0], ends[1], d.tau, d.v_threshold, d.surrogate, d.alpha
            )
        else:
            g_x, g_v, g_gamma = lif_backward(
                flat(x), v, decay(gamma, v, d), flat(g_spikes), ends[0],
                d.v_threshold, d.v_reset, d.surrogate, d.alpha, gamma is not None,
            )  # fmt: skip
            g_states = [g_v]
        g_gamma = None if gamma is None or g_gamma is None else g_gamma.to(gamma.dtype)
        return unflat(g_x, x), g_gamma, tuple(frame(g, x) for g in g_states) if states else ()


def initial_states(x: Tensor, states: States, d: Dynamics) -> tuple[Tensor, Tensor]:
    """v and m [M], float32 or better; scalars, which broadcast, where the sequence starts afresh. LIF's m is 0."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    zero = torch.zeros((), dtype=dtype, device=x.device)
    if not states:
        return torch.full_like(zero, d.v_reset or 0.0), zero
    v, m = (*(flat(state[None])[0] for state in states), zero)[:2]
    return v, m


def decay(gamma: Tensor | None, v: Tensor, d: Dynamics) -> float | Tensor:
    """γ, learned or fixed."""
    return 1 - 1 / d.tau if gamma is None else gamma.to(v.dtype)


def frame(y: Tensor, x: Tensor) -> Tensor:
    """[M] → the shape and memory layout of a frame of x."""
    return reshaped(y, x.shape[1:], x.stride()[1:])
