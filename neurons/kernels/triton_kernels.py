# mypy: disable-error-code="assignment"
"""The neurons over a whole sequence on CUDA: one Triton kernel forward, one backward, states in registers.

The forward moves two tensors (x in, spikes out), the backward three (x and ∂L/∂s in, ∂L/∂x out): it recomputes
the states from x instead of storing them. Equations and symbols are those of :mod:`.equations`.

A program owns a tile of ROWS × COLS elements and walks through time. The backward keeps a chunk of K ≤ 8 steps in
registers; where T is longer the forward leaves the states at the start of each chunk behind (half a pass in
float16), so the cost stays linear in T.

With NORM, x is normalised on the way in, y = scale[t, c]·x + shift[t, c], for batch norm per step; a tile's columns
are then channels (channels_last), and the backward also leaves each tile's part of Σ g_y and Σ g_y·x behind.
"""

from __future__ import annotations

import triton
import triton.language as tl

RECTANGLE, TRIANGLE, SIGMOID = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def wide(number):
    """An integer with 64 bits: a sequence may have more than 2³¹ elements."""
    return tl.full((), 1, tl.int64) * number


@triton.jit
def surrogate_derivative(x, alpha, SURROGATE: tl.constexpr):
    if SURROGATE == RECTANGLE:
        h = tl.where(tl.abs(x) <= alpha / 2, 1 / alpha, 0.0)
    elif SURROGATE == TRIANGLE:
        h = tl.maximum(1 - tl.abs(x) / alpha, 0.0) / alpha
    else:
        y = tl.sigmoid(4 / alpha * x)
        h = y * (1 - y) * (4 / alpha)
    return h


@triton.jit
def charge_and_fire(c, v, m, gamma, tau, theta, v_reset, CLIF: tl.constexpr, HARD: tl.constexpr):
    """One step: → u, p = σ(u/τ), q = σ(m), v, m (p, q and m are CLIF's)."""
    p, q = v, v  # unused by LIF
    if HARD:
        u = v_reset + gamma * (v - v_reset) + c
        v = tl.where(u >= theta, v_reset, u)
    else:
        u = gamma * v + c
        if CLIF:
            p = tl.sigmoid(u / tau)
            m = m * p + tl.where(u >= theta, 1.0, 0.0)
            q = tl.sigmoid(m)
            v = u - tl.where(u >= theta, theta + q, 0.0)
        else:
            v = u - tl.where(u >= theta, theta, 0.0)
    return u, p, q, v, m


@triton.jit
def current(x_ptr, scale_ptr, shift_ptr, t, offset, col, step, COLUMNS, mask, NORM: tl.constexpr):
    """Input current at step t, float32; with NORM also the raw x."""
    x = tl.load(x_ptr + t * step + offset, mask=mask, other=0.0).to(tl.float32)
    c = x
    if NORM:
        inside = col < COLUMNS
        scale = tl.load(scale_ptr + t * COLUMNS + col, mask=inside, other=0.0)
        shift = tl.load(shift_ptr + t * COLUMNS + col, mask=inside, other=0.0)
        c = x * scale[None, :] + shift[None, :]
    return x, c


@triton.jit
def forward_kernel(
    x_ptr, s_ptr, v_ptr, m_ptr, v_last_ptr, m_last_ptr, chunk_v_ptr, chunk_m_ptr, scale_ptr, shift_ptr, gamma_ptr,
    T, ROWS_ALL, COLUMNS, step, tau, theta, v_reset,
    CLIF: tl.constexpr, HARD: tl.constexpr, NORM: tl.constexpr, LEARN: tl.constexpr, FRESH: tl.constexpr,
    LAST: tl.constexpr, CHUNKED: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    offset = row[:, None] * COLUMNS + col[None, :]
    mask = (row < ROWS_ALL)[:, None] & (col < COLUMNS)[None, :]
    size, step = wide(ROWS_ALL) * COLUMNS, wide(step)
    gamma = tl.load(gamma_ptr) if LEARN else 1 - 1 / tau
    if FRESH:
        v = tl.zeros([ROWS, COLS], tl.float32) + v_reset
        m = tl.zeros([ROWS, COLS], tl.float32)
    else:
        v = tl.load(v_ptr + offset, mask=mask, other=0.0)
        m = tl.load(m_ptr + offset, mask=mask, other=0.0) if CLIF else v
    for t in range(T):
        if CHUNKED:
            if t % K == 0:
                tl.store(chunk_v_ptr + (t // K) * size + offset, v, mask=mask)
                if CLIF:
                    tl.store(chunk_m_ptr + (t // K) * size + offset, m, mask=mask)
        _, c = current(x_ptr, scale_ptr, shift_ptr, t, offset, col, step, COLUMNS, mask, NORM)
        u, _, _, v, m = charge_and_fire(c, v, m, gamma, tau, theta, v_reset, CLIF, HARD)
        tl.store(s_ptr + t * size + offset, tl.where(u >= theta, 1.0, 0.0).to(s_ptr.dtype.element_ty), mask=mask)
    if LAST:
        tl.store(v_last_ptr + offset, v, mask=mask)
        if CLIF:
            tl.store(m_last_ptr + offset, m, mask=mask)


@triton.jit
def backward_kernel(
    x_ptr, gs_ptr, gx_ptr, v_ptr, m_ptr, gv_last_ptr, gm_last_ptr, gv_ptr, gm_ptr, g_gamma_ptr,
    chunk_v_ptr, chunk_m_ptr, scale_ptr, shift_ptr, sum_g_ptr, sum_gx_ptr, gamma_ptr,
    T, ROWS_ALL, COLUMNS, step, tau, theta, v_reset, alpha,
    CLIF: tl.constexpr, HARD: tl.constexpr, NORM: tl.constexpr, LEARN: tl.constexpr, FRESH: tl.constexpr,
    LAST: tl.constexpr, CHUNKED: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    SURROGATE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    offset = row[:, None] * COLUMNS + col[None, :]
    inside = col < COLUMNS
    mask = (row < ROWS_ALL)[:, None] & inside[None, :]
    size, step = wide(ROWS_ALL) * COLUMNS, wide(step)
    gamma = tl.load(gamma_ptr) if LEARN else 1 - 1 / tau
    zeros = tl.zeros([ROWS, COLS], tl.float32)
    g_v, g_m, g_gamma = zeros, zeros, zeros
    if LAST:
        g_v = tl.load(gv_last_ptr + offset, mask=mask, other=0.0)
        if CLIF:
            g_m = tl.load(gm_last_ptr + offset, mask=mask, other=0.0)
    for k in range(tl.cdiv(T, K)):
        first = (tl.cdiv(T, K) - 1 - k) * K
        if CHUNKED:
            v = tl.load(chunk_v_ptr + (first // K) * size + offset, mask=mask, other=0.0)
            m = tl.load(chunk_m_ptr + (first // K) * size + offset, mask=mask, other=0.0) if CLIF else v
        elif FRESH:
            v = zeros + v_reset
            m = zeros
        else:
            v = tl.load(v_ptr + offset, mask=mask, other=0.0)
            m = tl.load(m_ptr + offset, mask=mask, other=0.0) if CLIF else v
        # forward again through the chunk; tuples of registers, unrolled
        xs, us, vs, ms, ps, qs = (), (), (v,), (m,), (), ()  # type: ignore[var-annotated]
        for j in tl.static_range(K):
            live = mask & (first + j < T)
            x, c = current(x_ptr, scale_ptr, shift_ptr, first + j, offset, col, step, COLUMNS, live, NORM)
            u, p, q, v, m = charge_and_fire(c, v, m, gamma, tau, theta, v_reset, CLIF, HARD)
            xs, us, vs, ms, ps, qs = xs + (x,), us + (u,), vs + (v,), ms + (m,), ps + (p,), qs + (q,)
        for j in tl.static_range(K - 1, -1, -1):
            t = first + j
            if t < T:
                u = us[j]
                fired = u >= theta
                g_s = tl.load(gs_ptr + t * size + offset, mask=mask, other=0.0).to(tl.float32)
                h = surrogate_derivative(u - theta, alpha, SURROGATE)
                if CLIF:
                    p, q = ps[j], qs[j]
                    g_m = g_m - tl.where(fired, g_v * q * (1 - q), 0.0)
                    g_u = g_v + (g_s - g_v * (theta + q) + g_m) * h + g_m * ms[j] * p * (1 - p) / tau
                    g_m = g_m * p
                elif HARD:
                    at = tl.where(u > 1e18, 1e18, u)  # where H is 0, and 0·∞ would be no number
                    g_u = tl.where(fired, 0.0, g_v) + (g_s + g_v * (v_reset - at)) * h
                else:
                    g_u = g_v + (g_s - theta * g_v) * h
                if LEARN:
                    g_gamma += g_u * (vs[j] - v_reset)
                g_v = gamma * g_u
                tl.store(gx_ptr + t * size + offset, g_u.to(gx_ptr.dtype.element_ty), mask=mask)
                if NORM:
                    g_u = tl.where(mask, g_u, 0.0)
                    part = (tl.program_id(0).to(tl.int64) * T + t) * COLUMNS + col
                    tl.store(sum_g_ptr + part, tl.sum(g_u, 0), mask=inside)
                    tl.store(sum_gx_ptr + part, tl.sum(g_u * xs[j], 0), mask=inside)
    if not FRESH:
        tl.store(gv_ptr + offset, g_v, mask=mask)
        if CLIF:
            tl.store(gm_ptr + offset, g_m, mask=mask)
    if LEARN:
        total = tl.sum(tl.sum(tl.where(mask, g_gamma, 0.0), 1), 0)
        tl.store(g_gamma_ptr + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), total)


@triton.jit
def statistics_kernel(
    x_ptr, sum_ptr, square_ptr, T, ROWS_ALL, COLUMNS, step, tiles, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """Σ (x − x₀) and Σ (x − x₀)² of each (t, c) over this program's rows; x₀ is the first row of the step."""
    col = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    t = tl.program_id(2).to(tl.int64)
    inside = col < COLUMNS
    origin = tl.load(x_ptr + t * wide(step) + col, mask=inside, other=0.0).to(tl.float32)
    one = tl.zeros([ROWS, COLS], tl.float32)
    two = tl.zeros([ROWS, COLS], tl.float32)
    for tile in range(tiles):
        row = (tl.program_id(0).to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        mask = (row < ROWS_ALL)[:, None] & inside[None, :]
        x = tl.load(x_ptr + t * wide(step) + row[:, None] * COLUMNS + col[None, :], mask=mask, other=0.0).to(tl.float32)
        d = tl.where(mask, x - origin[None, :], 0.0)
        one += d
        two += d * d
    part = (tl.program_id(0).to(tl.int64) * T + t) * COLUMNS + col
    tl.store(sum_ptr + part, tl.sum(one, 0), mask=inside)
    tl.store(square_ptr + part, tl.sum(two, 0), mask=inside)


@triton.jit
def combine_kernel(
    gy_ptr, x_ptr, gx_ptr, scale_ptr, a_ptr, b_ptr, T, ROWS_ALL, COLUMNS, step, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """∂L/∂x = scale·g_y + A·x + B; scale, A and B are of each (t, c)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    offset = row[:, None] * COLUMNS + col[None, :]
    inside = col < COLUMNS
    mask = (row < ROWS_ALL)[:, None] & inside[None, :]
    for t in range(T):
        channel = t * COLUMNS + col
        scale = tl.load(scale_ptr + channel, mask=inside, other=0.0)
        a = tl.load(a_ptr + channel, mask=inside, other=0.0)
        b = tl.load(b_ptr + channel, mask=inside, other=0.0)
        here = wide(t) * ROWS_ALL * COLUMNS + offset
        g_y = tl.load(gy_ptr + here, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + t * wide(step) + offset, mask=mask, other=0.0).to(tl.float32)
        g_x = g_y * scale[None, :] + x * a[None, :] + b[None, :]
        tl.store(gx_ptr + here, g_x.to(gx_ptr.dtype.element_ty), mask=mask)
