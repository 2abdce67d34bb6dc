# mypy: disable-error-code="assignment, operator, index, has-type, var-annotated"
"""A neuron over a whole sequence on CUDA: one kernel forward, one backward, states in registers.

The forward moves two tensors (x in, spikes out), the backward three (x and ∂L/∂s in, ∂L/∂x out): it computes the states
again instead of reading them. These frames hold whatever is the same for all neurons; ``START``, ``STEP``,
``STEP_SAVING`` and ``STEP_BACK`` are a neuron's own functions (:class:`.triton_source.Steps`).

A frame of the sequence is [rows, columns]. With ``FLAT`` it is its elements in memory order, COLS to a row (the last row
is shorter). Else it is channels_last, a column a channel: then x may be normalised on its way in,
c = scale[t, c]·x + shift[t, c], and learned parameters may differ from channel to channel.

A program owns a tile of ROWS × COLS elements. It knows T when it is compiled. Up to K = 8 steps stay in registers, and
all that they read is asked for at once; where T is longer the forward leaves the states before each chunk of K steps
behind (``kept``), so the cost stays linear in T.

Sums over elements (Σ g_c and Σ g_c·x of each (t, c) for the norm, gradients of learned parameters) are taken by programs
that go over many tiles each, and leave one part each: they are added up in a fixed order.
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


@triton.jit
def chunk_forward(
    x_ptr, s_ptr, table_ptr, norm, states, fixed, first, x_step, step, norm_step, mask, col, inside,
    STEP: tl.constexpr, TIMED: tl.constexpr, TABLE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Steps first … first + N − 1 of a tile, from the states before to those after."""
    xs = load_steps(x_ptr + first * x_step, x_step, mask, N)
    for j in tl.static_range(N):
        timed = parameters(table_ptr, first + j, col, inside, TIMED, TABLE[0], TABLE[1])
        s, states = STEP(current(xs[j], first + j, norm, norm_step, col, inside), states, fixed, timed)
        tl.store(s_ptr + (first + j) * step, s.to(s_ptr.dtype.element_ty), mask=mask)
    return states


@triton.jit
def forward_kernel(
    x_ptr, s_ptr, table_ptr, norm, before, after, kept, rows, columns, size, x_step, norm_step,
    START: tl.constexpr, STEP: tl.constexpr, FIXED: tl.constexpr, TIMED: tl.constexpr, TABLE: tl.constexpr,
    T: tl.constexpr, K: tl.constexpr, FLAT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """x [T, rows, columns] → spikes, the states after the last step, those before each chunk but the first.

    Args:
        norm: scale and shift [T, columns], or nothing. before, after: a frame of each state, or nothing.
        kept: frames [T / K − 1] of each state, or nothing.
        size: of a frame. x_step, norm_step: from step to step; 0 where all are the same.
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
            STEP, TIMED, TABLE, T,
        )  # fmt: skip
    else:
        for k in range(T // K):
            store_all(kept, (k - 1) * step + base + local, states, mask & (k > 0))
            states = chunk_forward(
                x_ptr, s_ptr, table_ptr, norm, states, fixed, k * K, x_step, step, norm_step, mask, col, inside,
                STEP, TIMED, TABLE, K,
            )  # fmt: skip
        if T % K > 0:
            store_all(kept, (T // K - 1) * step + base + local, states, mask)
            states = chunk_forward(
                x_ptr, s_ptr, table_ptr, norm, states, fixed, T - T % K, x_step, step, norm_step, mask, col, inside,
                STEP, TIMED, TABLE, T % K,
            )  # fmt: skip
    store_all(after, base + local, states, mask)


@triton.jit
def zeros_of(N: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    values = ()
    for _ in tl.static_range(N):
        values = values + (tl.zeros([ROWS, COLS], tl.float32),)
    return values


@triton.jit
def plus(sums, values, mask, FIRST: tl.constexpr):
    """values added to sums[FIRST:]; those of elements that do not exist are nothing."""
    added = ()
    for i in tl.static_range(len(values)):
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
            new_norm = plus(of_norm, (g_c, g_c * xs[j].to(tl.float32)), mask, 2 * j) + new_norm
        of_fixed = plus(of_fixed, g_fixed, mask, 0)
        new_timed = plus(of_timed, g_timed, mask, len(TIMED) * j) + new_timed
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
