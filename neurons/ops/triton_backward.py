# mypy: disable-error-code="assignment, operator, index, has-type, var-annotated"
"""The frame of a neuron's Triton kernel backward; :mod:`.triton_tiles` says how it is laid out.

Sums over elements (Σ g_c and Σ g_c·x of each (t, c) for the norm, gradients of learned parameters) are taken by
programs that go over many tiles each and leave one part each: they are added up in a fixed order. Where T ≤ K the
sums of every step stay in registers until the last tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_tiles import columns_of, current, load_all, load_steps, parameters, place, store_all, wide


@triton.jit
def zeros_of(N: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    values = ()
    for _ in tl.static_range(N):
        values = values + (tl.zeros([ROWS, COLS], tl.float32),)
    return values


@triton.jit
def plus(sums, values, mask, FIRST: tl.constexpr, N: tl.constexpr):
    """N values added to sums[FIRST:]; those of elements that do not exist are nothing.

    N is in its name for Triton 3.6, which takes tuples of 12 and 2 for tuples of 7 and 7.
    """
    added = ()
    for i in tl.static_range(N):
        added = added + (sums[FIRST + i] + tl.where(mask, values[i], 0.0),)
    return added


@triton.jit
def chunk_backward(
    x_ptr, g_ptr, out_ptr, table_ptr, norm, states, g_states, fixed, of_norm, of_fixed, of_timed,
    first, x_step, step, norm_step, mask, col, inside,
    STEP_SAVING: tl.constexpr, STEP_BACK: tl.constexpr, TIMED: tl.constexpr, TABLE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Steps first + N − 1 … first of a tile, from the gradients of the states after to those before; sums with them."""
    xs = load_steps(x_ptr + first * x_step, x_step, mask, N)
    gs = load_steps(g_ptr + first * step, step, mask, N)
    saved = ()
    for j in tl.static_range(N):
        timed = parameters(table_ptr, first + j, col, inside, TIMED, TABLE[0], TABLE[1])
        c = current(xs[j], first + j, norm, norm_step, col, inside)
        states, needed = STEP_SAVING(c, states, fixed, timed)
        saved = saved + (needed,)
    new_norm, new_timed = (), ()
    for j in tl.static_range(N - 1, -1, -1):
        timed = parameters(table_ptr, first + j, col, inside, TIMED, TABLE[0], TABLE[1])
        g_c, g_states, g_fixed, g_timed = STEP_BACK(saved[j], gs[j].to(tl.float32), g_states, fixed, timed)
        tl.store(out_ptr + (first + j) * step, g_c.to(out_ptr.dtype.element_ty), mask=mask)
        if len(norm) == 2:
            new_norm = plus(of_norm, (g_c, g_c * xs[j].to(tl.float32)), mask, 2 * j, 2) + new_norm
        of_fixed = plus(of_fixed, g_fixed, mask, 0, len(g_fixed))
        new_timed = plus(of_timed, g_timed, mask, len(TIMED) * j, len(TIMED)) + new_timed
    return g_states, new_norm, of_fixed, new_timed


@triton.jit
def leave(part_ptr, value, col, inside, earlier, CHANNELS: tl.constexpr):
    """Write a sum over a program's elements, of each channel or of all, added to what it left earlier."""
    total = tl.sum(value, 0)[None, :]
    if CHANNELS == 1:
        total = tl.sum(total, 1)[:, None]
        at, mask = part_ptr + tl.zeros([1, 1], tl.int32), tl.full([1, 1], 1, tl.int1)
    else:
        at, mask = part_ptr + col, inside
    if earlier is not None:
        total += tl.load(at, mask=mask & earlier, other=0.0)
    tl.store(at, total, mask=mask)


@triton.jit
def leave_steps(
    norm_part_ptr, table_part_ptr, of_norm, of_timed, columns, first, col, inside, earlier,
    TIMED: tl.constexpr, TABLE: tl.constexpr, T: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Write the sums of N steps: of the norm [2, T, columns], of learned parameters of each step [P, *TABLE]."""
    for j in tl.static_range(N):
        if len(of_norm) > 0:
            for i in tl.static_range(2):
                leave(norm_part_ptr + (i * T + first + j) * columns, of_norm[2 * j + i], col, inside, earlier, 0)
        for i in tl.static_range(len(TIMED)):
            at = table_part_ptr + (TIMED[i] * TABLE[0] + first + j) * TABLE[1]
            leave(at, of_timed[len(TIMED) * j + i], col, inside, earlier, TABLE[1])


@triton.jit
def leave_fixed(
    table_part_ptr, of_fixed, col, inside, FIXED: tl.constexpr, TABLE: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Write the sums over all steps [P, *TABLE]: of the first one, which all steps read."""
    STEPS: tl.constexpr = TABLE[0]
    for i in tl.static_range(len(FIXED)):
        for t in tl.static_range(STEPS):
            at = table_part_ptr + (FIXED[i] * TABLE[0] + t) * TABLE[1]
            value = of_fixed[i] if t == 0 else tl.zeros([ROWS, COLS], tl.float32)
            leave(at, value, col, inside, None, TABLE[1])


@triton.jit
def chunk_of_many(
    x_ptr, g_ptr, out_ptr, table_ptr, norm_part_ptr, table_part_ptr, norm, states, g_states, fixed, of_fixed,
    columns, first, x_step, step, norm_step, mask, col, inside, earlier,
    STEP_SAVING: tl.constexpr, STEP_BACK: tl.constexpr, TIMED: tl.constexpr, TABLE: tl.constexpr,
    T: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """A chunk backward whose sums of each step are written at once: those of all T would not fit the registers."""
    g_states, of_norm, of_fixed, of_timed = chunk_backward(
        x_ptr, g_ptr, out_ptr, table_ptr, norm, states, g_states, fixed,
        zeros_of(len(norm) * N, ROWS, COLS), of_fixed, zeros_of(len(TIMED) * N, ROWS, COLS),
        first, x_step, step, norm_step, mask, col, inside, STEP_SAVING, STEP_BACK, TIMED, TABLE, N,
    )  # fmt: skip
    leave_steps(
        norm_part_ptr, table_part_ptr, of_norm, of_timed, columns, first, col, inside, earlier, TIMED, TABLE, T, N
    )  # fmt: skip
    return g_states, of_fixed


@triton.jit
def states_at(k, start, kept, step, at, mask):
    """The states before chunk k: those of the start, or what the forward left behind."""
    states = ()
    for i in tl.static_range(len(kept)):
        there = tl.load(kept[i] + (k - 1) * step + at, mask=mask & (k > 0), other=0.0)
        states = states + (tl.where(k > 0, there, start[i]),)
    return states


@triton.jit
def backward_kernel(
    x_ptr, g_ptr, out_ptr, table_ptr, norm, before, kept, g_after, g_before, norm_part_ptr, table_part_ptr,
    rows, columns, size, x_step, norm_step, tiles,
    START: tl.constexpr, STEP_SAVING: tl.constexpr, STEP_BACK: tl.constexpr,
    FIXED: tl.constexpr, TIMED: tl.constexpr, TABLE: tl.constexpr,
    T: tl.constexpr, K: tl.constexpr, FLAT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """x, ∂L/∂s → ∂L/∂c and sums of it; arguments as in :func:`forward_kernel`.

    Args:
        g_after, g_before: gradients of the states after the last step and before the first, or nothing.
        norm_part_ptr: [programs, 2, T, columns]. table_part_ptr: [programs, P, *TABLE].
        tiles: of each program.
    """
    step, x_step, norm_step = wide(size), wide(x_step), wide(norm_step)
    program = tl.program_id(0) if FLAT else tl.program_id(1) + tl.program_id(2) * tl.num_programs(1)
    col, inside = columns_of(columns, FLAT, COLS)
    fixed = parameters(table_ptr, 0, col, inside, FIXED, TABLE[0], TABLE[1])
    of_fixed = zeros_of(len(FIXED), ROWS, COLS)
    of_norm = zeros_of(len(norm) * T if T == K else 0, ROWS, COLS)
    of_timed = zeros_of(len(TIMED) * T if T == K else 0, ROWS, COLS)
    if len(norm) > 0:
        norm_part_ptr += wide(program) * (2 * T) * columns
    if len(FIXED) + len(TIMED) > 0:
        slot = program if FLAT or TABLE[1] > 1 else program * tl.num_programs(0) + tl.program_id(0)
        table_part_ptr += wide(slot) * ((len(FIXED) + len(TIMED)) * TABLE[0] * TABLE[1])
    for tile in range(tiles):
        base, local, mask = place(program * tiles + tile, rows, columns, size, col, inside, FLAT, ROWS, COLS)
        at = base + local
        states = load_all(before, at, mask) if len(before) > 0 else START(tl.zeros([ROWS, COLS], tl.float32))
        g_states = load_all(g_after, at, mask) if len(g_after) > 0 else zeros_of(len(states), ROWS, COLS)
        if T == K:
            g_states, of_norm, of_fixed, of_timed = chunk_backward(
                x_ptr + at, g_ptr + at, out_ptr + at, table_ptr, norm, states, g_states, fixed,
                of_norm, of_fixed, of_timed, 0, x_step, step, norm_step, mask, col, inside,
                STEP_SAVING, STEP_BACK, TIMED, TABLE, T,
            )  # fmt: skip
        else:
            if T % K > 0:
                g_states, of_fixed = chunk_of_many(
                    x_ptr + at, g_ptr + at, out_ptr + at, table_ptr, norm_part_ptr, table_part_ptr, norm,
                    states_at(T // K, states, kept, step, at, mask), g_states, fixed, of_fixed,
                    columns, T - T % K, x_step, step, norm_step, mask, col, inside, tile > 0,
                    STEP_SAVING, STEP_BACK, TIMED, TABLE, T, T % K, ROWS, COLS,
                )  # fmt: skip
            for i in range(T // K):
                k = T // K - 1 - i
                g_states, of_fixed = chunk_of_many(
                    x_ptr + at, g_ptr + at, out_ptr + at, table_ptr, norm_part_ptr, table_part_ptr, norm,
                    states_at(k, states, kept, step, at, mask), g_states, fixed, of_fixed,
                    columns, k * K, x_step, step, norm_step, mask, col, inside, tile > 0,
                    STEP_SAVING, STEP_BACK, TIMED, TABLE, T, K, ROWS, COLS,
                )  # fmt: skip
            tl.debug_barrier()  # before the next tile adds to what these threads have left
        store_all(g_before, at, g_states, mask)
    if T == K:
        leave_steps(
            norm_part_ptr, table_part_ptr, of_norm, of_timed, columns, 0, col, inside, None, TIMED, TABLE, T, T
        )  # fmt: skip
    leave_fixed(table_part_ptr, of_fixed, col, inside, FIXED, TABLE, ROWS, COLS)
