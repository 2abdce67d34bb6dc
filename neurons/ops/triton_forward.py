# mypy: disable-error-code="assignment, operator, index, has-type, var-annotated"
"""The frame of a neuron's Triton kernel forward; :mod:`.triton_tiles` says how it is laid out."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_tiles import columns_of, current, load_all, load_steps, parameters, place, store_all, wide

LARGEST = tl.constexpr(3.4028234663852886e38)  # float32 holds no larger number


@triton.jit
def shown(s, states):
    """Spikes, NaN where a state behind them is not finite: a NaN potential does not fire by itself."""
    for i in tl.static_range(len(states)):
        s = tl.where(tl.abs(states[i]) <= LARGEST, s, float("nan"))
    return s


@triton.jit
def chunk_forward(
    x_ptr, s_ptr, table_ptr, norm, states, fixed, first, x_step, step, norm_step, mask, col, inside,
    STEP: tl.constexpr, TIMED: tl.constexpr, TABLE: tl.constexpr, SHOW: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Steps first … first + N − 1 of a tile, from the states before to those after."""
    xs = load_steps(x_ptr + first * x_step, x_step, mask, N)
    for j in tl.static_range(N):
        timed = parameters(table_ptr, first + j, col, inside, TIMED, TABLE[0], TABLE[1])
        s, states = STEP(current(xs[j], first + j, norm, norm_step, col, inside), states, fixed, timed)
        if SHOW and j == N - 1:
            s = shown(s, states)
        tl.store(s_ptr + (first + j) * step, s.to(s_ptr.dtype.element_ty), mask=mask)
    return states


@triton.jit
def forward_kernel(
    x_ptr, s_ptr, table_ptr, norm, before, after, kept, rows, columns, size, x_step, norm_step,
    START: tl.constexpr, STEP: tl.constexpr, FIXED: tl.constexpr, TIMED: tl.constexpr, TABLE: tl.constexpr,
    T: tl.constexpr, K: tl.constexpr, FLAT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    SHOW: tl.constexpr,
):  # fmt: skip
    """x [T, rows, columns] → spikes, the states after the last step, those before each chunk but the first.

    Args:
        norm: scale and shift [T, columns], or nothing. before, after: a frame of each state, or nothing.
        kept: frames [T / K − 1] of each state, or nothing.
        size: of a frame. x_step, norm_step: from step to step; 0 where all are the same.
        SHOW: the last spikes are NaN where a state after them is not finite.
        FIXED, TIMED: rows of the table of learned parameters. TABLE: how many steps and channels it has.
    """
    step, x_step, norm_step = wide(size), wide(x_step), wide(norm_step)
    tile = tl.program_id(0) if FLAT else tl.program_id(1) + tl.program_id(2) * tl.num_programs(1)
    col, inside = columns_of(columns, FLAT, COLS)
    base, local, mask = place(tile, rows, columns, size, col, inside, FLAT, ROWS, COLS)
    x_ptr += base + local
    s_ptr += base + local
    if len(before) > 0:
        states = load_all(before, base + local, mask)
    else:
        states = START(tl.zeros([ROWS, COLS], tl.float32))
    fixed = parameters(table_ptr, 0, col, inside, FIXED, TABLE[0], TABLE[1])
    if T == K:
        states = chunk_forward(
            x_ptr, s_ptr, table_ptr, norm, states, fixed, 0, x_step, step, norm_step, mask, col, inside,
            STEP, TIMED, TABLE, SHOW, T,
        )  # fmt: skip
    else:
        for k in range(T // K):
            store_all(kept, (k - 1) * step + base + local, states, mask & (k > 0))
            states = chunk_forward(
                x_ptr, s_ptr, table_ptr, norm, states, fixed, k * K, x_step, step, norm_step, mask, col, inside,
                STEP, TIMED, TABLE, SHOW and T % K == 0, K,
            )  # fmt: skip
        if T % K > 0:
            store_all(kept, (T // K - 1) * step + base + local, states, mask)
            states = chunk_forward(
                x_ptr, s_ptr, table_ptr, norm, states, fixed, T - T % K, x_step, step, norm_step, mask, col, inside,
                STEP, TIMED, TABLE, SHOW, T % K,
            )  # fmt: skip
    store_all(after, base + local, states, mask)
