# mypy: disable-error-code="assignment, operator, index, has-type, var-annotated"
"""A neuron over a whole sequence on CUDA: one kernel forward, one backward, states in registers.

The forward moves two tensors (x in, spikes out), the backward three (x and ∂L/∂s in, ∂L/∂x out): it computes the states
again instead of reading them. The frames, :mod:`.triton_forward` and :mod:`.triton_backward`, hold
whatever is the same for all neurons; ``START``, ``STEP``,
``STEP_SAVING`` and ``STEP_BACK`` are a neuron's own functions (:class:`.triton_source.Steps`).

A frame of the sequence is [rows, columns]. With ``FLAT`` it is its elements in memory order, COLS to a row (the last
row is shorter). Else it is channels_last, a column a channel: then x may be normalised on its way in,
c = scale[t, c]·x + shift[t, c], and learned parameters may differ from channel to channel.

A program owns a tile of ROWS × COLS elements. It knows T when it is compiled. Up to K = 8 steps stay in registers, and
all that they read is asked for at once; where T is longer the forward leaves the states before each chunk of K steps
behind (``kept``), so the cost stays linear in T.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wide(number):
    """An integer with 64 bits: a sequence may have more than 2³¹ elements."""
    return tl.full((), 1, tl.int64) * number


@triton.jit
def columns_of(columns, FLAT: tl.constexpr, COLS: tl.constexpr):
    """A program's columns [1, COLS], and which of them exist."""
    col = tl.arange(0, COLS)[None, :]
    if FLAT:
        return col, col < COLS
    else:
        col += tl.program_id(0) * COLS
        return col, col < columns


@triton.jit
def place(tile, rows, columns, size, col, inside, FLAT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Where a tile's first row begins, where its elements lie from there, and which of them exist."""
    row, first = tl.arange(0, ROWS)[:, None], wide(tile) * ROWS
    if FLAT:
        local = row * COLS + col
        return first * COLS, local, local < size - first * COLS
    else:
        return first * columns, row * columns + col, (row < rows - first) & inside


@triton.jit
def load_all(ptrs, at, mask):
    values = ()
    for i in tl.static_range(len(ptrs)):
        values = values + (tl.load(ptrs[i] + at, mask=mask, other=0.0),)
    return values


@triton.jit
def store_all(ptrs, at, values, mask):
    for i in tl.static_range(len(ptrs)):
        tl.store(ptrs[i] + at, values[i], mask=mask)


@triton.jit
def load_steps(ptr, step, mask, N: tl.constexpr):
    """N steps of a tile, all asked for before the first is used."""
    values = ()
    for j in tl.static_range(N):
        values = values + (tl.load(ptr + j * step, mask=mask, other=0.0),)
    return values


@triton.jit
def parameters(table_ptr, t, col, inside, ROWS_OF: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Rows ROWS_OF of the table of learned parameters [P, STEPS, CHANNELS], at step t."""
    values = ()
    for i in tl.static_range(len(ROWS_OF)):
        at = table_ptr + (ROWS_OF[i] * STEPS + t) * CHANNELS
        if CHANNELS == 1:
            values = values + (tl.load(at),)
        else:
            values = values + (tl.load(at + col, mask=inside, other=0.0),)
    return values


@triton.jit
def current(x, t, norm, norm_step, col, inside):
    """The input current of a step: x, normalised if there is a norm."""
    c = x.to(tl.float32)
    if len(norm) == 2:
        scale = tl.load(norm[0] + t * norm_step + col, mask=inside, other=0.0)
        shift = tl.load(norm[1] + t * norm_step + col, mask=inside, other=0.0)
        c = c * scale + shift
    return c
