"""The gradient through time, split by how far it has come: Eq. 10–14 and 20–24 of the paper, and Table 3's k.

∂L/∂c[t] is a sum over the steps t′ ≥ t at which a spike met the layers above (g_s[t′]), each carried back to t
through the states. A backward step is linear in what it carries, so a leading dimension keeps these apart: slot j of
step t is the part of ∂L/∂c[t] that comes from step t + j, its *lag*. Slot 0 is the spatial term, g_s[t]·H[t] in LIF;
slot j + 1 of step t − 1 is slot j of step t carried one step back. Dropping slots k, k + 1, … cuts BPTT after k steps.

The step back is the derived one (:mod:`.derive`), in torch: any neuron with a step, any device, any precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .derive import Derived, derive
from .dynamics import Dynamics, check_table, first_states, parameter_table
from .graph import Node, evaluate
from .reference import shown

Tensors = tuple[Tensor, ...]


def of_step(d: Derived, table: Tensor | None, t: int, dims: int) -> dict[Node, Tensor]:
    """The learned parameters at step t, in a shape that broadcasts with a frame [N, C, …] of ``dims`` dimensions."""
    if table is None:
        return {}
    rows = table[:, min(t, table.shape[1] - 1)]  # [P, C or 1]
    names = (each.name for each in d.dynamics.learned)
    values = (row.view(-1, *[1] * (dims - 2)) if len(row) > 1 else row[0] for row in rows)
    return dict(zip(d.inputs(*names), values, strict=True))


def keep_steps(x: Tensor, table: Tensor | None, states: Tensors, d: Derived) -> list[Tensors]:
    """What the way back needs of each step, T of […]."""
    states = first_states(d.dynamics, states, x[0])
    inputs, dtype, kept = d.inputs("c", *d.dynamics.state_names), torch.promote_types(x.dtype, torch.float32), []
    for t, c in enumerate(x.unbind()):
        now = dict(zip(inputs, (c.to(dtype), *states), strict=True))
        found = evaluate((*d.after, *d.saved), now | of_step(d, table, t, x.dim() - 1))
        states = tuple(found[: len(d.after)])
        kept.append(tuple(found[len(d.after) :]))
    return kept


def steps_back(
    kept: list[Tensors], g_spikes: Tensor, table: Tensor | None, d: Derived, lags: int
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """From the last step to the first: ∂L/∂c[t] by lag, [min(lags, T − t), …], and the same of what is learned."""
    names = d.dynamics.state_names
    inputs = d.inputs("g_s", *(f"g_{name}" for name in names))
    dtype = torch.promote_types(g_spikes.dtype, torch.float32)
    carried = [g_spikes.new_zeros(1, *g_spikes.shape[1:], dtype=dtype) for _ in names]  # slot 0: from no later step
    slots = 1
    for t in range(len(kept) - 1, -1, -1):
        g_s = g_spikes.new_zeros(slots, *g_spikes.shape[1:], dtype=dtype)
        g_s[0] = g_spikes[t]
        now = dict(zip(inputs, (g_s, *carried), strict=True)) | dict(zip(d.saved, kept[t], strict=True))
        g_c, *rest = evaluate(d.back, now | of_step(d, table, t, g_spikes.dim() - 1))
        g_before, g_learned = rest[: len(names)], rest[len(names) :]
        yield g_c.expand_as(g_s), g_learned
        carried = [one_step_later(g.expand_as(g_s), lags) for g in g_before]
        slots = min(slots + 1, lags)


def one_step_later(carried: Tensor, lags: int) -> Tensor:
    """What a step hands to the one before it, one lag further; slot 0 is for that step's own: [n, …] → [n + 1, …]."""
    return torch.cat([torch.zeros_like(carried[:1]), carried[: lags - 1]])


def lags_of(
    x: Tensor,
    g_spikes: Tensor,
    dynamics: Dynamics,
    learned: Tensors = (),
    *,
    lags: int | None = None,
    cut: tuple[str, ...] = (),
) -> Iterator[Tensor]:
    """∂L/∂c[t] by lag of a sequence that starts from zero, from the last step to the first: each [min(lags, T − t), …].

    Args:
        x: input current [T, …]. g_spikes: ∂L/∂s from the layers above [T, …].
        learned: the learned parameters.
        lags: how many are kept; None keeps all T.
        cut: states that no gradient passes. With CLIF's m cut, what remains is carried by u alone, as in LIF (the
            paper's M1), and the difference is what m carries (M2).
    """
    d, table = derive(dynamics, cut), parameter_table(dynamics, learned)
    kept = keep_steps(x, table, (), d)
    for g_c, _ in steps_back(kept, g_spikes, table, d, lags or x.shape[0]):
        yield g_c


def gradient_by_lag(
    x: Tensor,
    g_spikes: Tensor,
    dynamics: Dynamics,
    learned: Tensors = (),
    *,
    lags: int | None = None,
    cut: tuple[str, ...] = (),
) -> Tensor:
    """∂L/∂c by lag, all steps at once: [lags, T, …]; slot (j, t) comes from step t + j, and is 0 where there is none.

    Its sum over the lags is autograd's ∂L/∂c. Arguments of :func:`lags_of`, which needs less memory.
    """
    lags = lags or x.shape[0]
    steps = list(lags_of(x, g_spikes, dynamics, learned, lags=lags, cut=cut))[::-1]
    whole = steps[0].new_zeros(lags, *x.shape)
    for t, g_c in enumerate(steps):
        whole[: len(g_c), t] = g_c
    return whole


class WindowedSequence(torch.autograd.Function):
    """Input current [T, …] → spikes [T, …] and the last states […]; lags of ``window`` and more cut."""

    @staticmethod
    def forward(ctx: Any, x, table, dynamics, window, *states):
        ctx.save_for_backward(x, table, *states)
        ctx.dynamics, ctx.window = dynamics, window
        ends = first_states(dynamics, states, x[0])
        spikes, d, dtype = [], derive(dynamics), torch.promote_types(x.dtype, torch.float32)
        for t, c in enumerate(x.unbind()):
            s, *ends = dynamics.advance(c.to(dtype), *ends, *of_step(d, table, t, x.dim() - 1).values())
            spikes.append(s.to(x.dtype))
        ctx.mark_non_differentiable(*ends)
        return torch.stack(shown(spikes, ends)), *ends

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_spikes, *_):
        x, table, *states = ctx.saved_tensors
        d = derive(ctx.dynamics)
        kept = keep_steps(x, table, tuple(states), d)
        g_x, g_table = [], None if table is None else torch.zeros_like(table)
        steps = zip(range(len(kept) - 1, -1, -1), steps_back(kept, g_spikes, table, d, ctx.window), strict=True)
        for t, (g_c, g_learned) in steps:
            g_x.append(g_c.sum(0).to(x.dtype))
            for k, g in enumerate(g_learned):
                assert g_table is not None
                g_table[k, min(t, table.shape[1] - 1)] += summed(g.expand_as(g_c), table.shape[2])
        return torch.stack(g_x[::-1]), g_table, None, None, *[None] * len(states)


def summed(g: Tensor, channels: int) -> Tensor:
    """[slots, N, C, …] → [C], or the sum over all for one channel."""
    return g.sum().view(1) if channels == 1 else g.sum([i for i in range(g.dim()) if i != 2])


def fire_windowed(
    x: Tensor, table: Tensor | None, states: Tensors, dynamics: Dynamics, window: int
) -> tuple[Tensor, Tensors]:
    """Input current [T, …] → spikes [T, …], the last states […]; gradients through time are cut after ``window`` steps.

    A spike's gradient reaches the ``window`` steps that end with its own (Table 3's k): 1 is the spatial part alone.
    None passes through the states, from one call to the next. Other arguments as in :func:`.sequence.fire`.
    """
    check_table(table, x)
    spikes, *ends = WindowedSequence.apply(x, table, dynamics, window, *states)
    return spikes, tuple(ends)
