# mypy: disable-error-code="assignment, operator, index"
"""What a batch norm needs besides the neuron's kernels: sums over x, the terms made of sums, and its gradient.

Each direction has one pass over the frames, and one small kernel that turns the parts of all programs into terms of
each (t, c): they are added up in a fixed order, in float64.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def statistics_kernel(x_ptr, part_ptr, rows, columns, x_step, tiles, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Σ (x − x₀) and Σ (x − x₀)² of each (t, c) over this program's rows; x₀ is the first row of the step.

    Args:
        part_ptr: [programs, 2, T, columns].
    """
    column = tl.program_id(0) * COLS
    col = tl.arange(0, COLS)[None, :]
    t, T = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    inside = col < columns - column
    x_ptr += t * x_step + column
    origin = tl.load(x_ptr + col, mask=inside, other=0.0).to(tl.float32)
    one = tl.zeros([ROWS, COLS], tl.float32)
    two = tl.zeros([ROWS, COLS], tl.float32)
    for tile in range(tiles):
        first = (tl.program_id(2).to(tl.int64) * tiles + tile) * ROWS
        row = tl.arange(0, ROWS)[:, None]
        mask = (row < rows - first) & inside
        x = tl.load(x_ptr + first * columns + (row * columns + col), mask=mask, other=0.0).to(tl.float32)
        d = tl.where(mask, x - origin, 0.0)
        one += d
        two += d * d
    part_ptr += ((tl.program_id(2).to(tl.int64) * 2) * T + t) * columns + column
    tl.store(part_ptr + col, tl.sum(one, 0)[None, :], mask=inside)
    tl.store(part_ptr + wide_step(T, columns) + col, tl.sum(two, 0)[None, :], mask=inside)


@triton.jit
def wide_step(T, columns):
    return T.to(tl.int64) * columns


@triton.jit
def summed(part_ptr, programs, which, t, there, T, columns, PARTS: tl.constexpr):
    """Σ over all programs of the sum number ``which`` of two, float64 [STEPS, COLS].

    Args:
        part_ptr: [programs, 2, T, columns], from the tile's first column on. t: steps [STEPS, 1].
        there: which of the tile exist.
    """
    row = tl.arange(0, PARTS)[:, None, None]
    col = tl.arange(0, there.shape[1])[None, None, :]
    total = tl.zeros(there.shape, tl.float64)
    for first in range(0, programs, PARTS):
        at = ((first + row).to(tl.int64) * 2 + which) * T + t[None, :, :]
        part = tl.load(part_ptr + at * columns + col, mask=(first + row < programs) & there[None, :, :], other=0.0)
        total += tl.sum(part.to(tl.float64), 0)
    return total


@triton.jit
def over_steps(values, there):
    """The sum over steps of what is there: [STEPS, COLS] → [1, COLS]."""
    return tl.sum(tl.where(there, values, 0.0), 0)[None, :]


@triton.jit
def moments_kernel(
    part_ptr, x_ptr, weight_ptr, bias_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr,
    programs, T, distinct, columns, x_step, n, eps,
    MERGED: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Parts of sums → mean, biased variance and, with a weight, the a and b of y = a·x + b: of each (t, c), or of each
    c with MERGED.

    Args:
        part_ptr: [programs, 2, distinct, columns]. distinct: T, or 1 where all frames are one. n: rows of a frame.
    """
    t, col = tl.arange(0, STEPS)[:, None], tl.program_id(0) * COLS + tl.arange(0, COLS)[None, :]
    inside = col < columns
    there = (t < T) & inside
    part_ptr += tl.program_id(0) * COLS
    of = tl.minimum(t, distinct - 1)
    mean = summed(part_ptr, programs, 0, of, there, distinct, columns, PARTS) / n
    square = summed(part_ptr, programs, 1, of, there, distinct, columns, PARTS) / n
    var = tl.maximum(square - mean * mean, 0.0)
    mean += tl.load(x_ptr + of.to(tl.int64) * x_step + col, mask=there, other=0.0).to(tl.float64)
    at = t * columns + col
    if MERGED:
        whole = over_steps(mean, there) / T
        var = over_steps(var + (mean - whole) * (mean - whole), there) / T
        mean, at, there = whole, col, inside
    tl.store(mean_ptr + at, mean.to(tl.float32), mask=there)
    tl.store(var_ptr + at, var.to(tl.float32), mask=there)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + col, mask=inside, other=0.0).to(tl.float64)
        bias = tl.load(bias_ptr + col, mask=inside, other=0.0).to(tl.float64)
        scale = weight / tl.sqrt(var + eps)
        tl.store(scale_ptr + at, scale.to(tl.float32), mask=there)
        tl.store(shift_ptr + at, (bias - mean * scale).to(tl.float32), mask=there)


@triton.jit
def updated(running_ptr, at, value, momentum, mask):
    """r ← r + momentum·(value − r), in float64 from one load to one store."""
    running = tl.load(running_ptr + at, mask=mask, other=0.0).to(tl.float64)
    running += momentum * (value - running)
    tl.store(running_ptr + at, running.to(running_ptr.dtype.element_ty), mask=mask)


@triton.jit
def track_kernel(
    mean_ptr, var_ptr, shared_mean_ptr, shared_var_ptr, steps_mean_ptr, steps_var_ptr, count_ptr,
    T, columns, mean_step, var_step, correction, momentum, COLS: tl.constexpr,
):  # fmt: skip
    """Running statistics by the mean and biased variance of T steps, in time order (:mod:`.running`).

    Args:
        shared_mean_ptr, shared_var_ptr: [columns]. steps_mean_ptr, steps_var_ptr: [T, columns], or nothing.
        count_ptr: the number of steps seen.
    """
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    inside = col < columns
    mean = tl.load(shared_mean_ptr + col, mask=inside, other=0.0).to(tl.float64)
    var = tl.load(shared_var_ptr + col, mask=inside, other=0.0).to(tl.float64)
    for t in range(T):
        of_batch = tl.load(mean_ptr + t * mean_step + col, mask=inside, other=0.0).to(tl.float64)
        unbiased = tl.load(var_ptr + t * var_step + col, mask=inside, other=0.0).to(tl.float64) * correction
        mean += momentum * (of_batch - mean)
        var += momentum * (unbiased - var)
        if steps_mean_ptr is not None:
            updated(steps_mean_ptr, t * columns + col, of_batch, momentum, inside)
            updated(steps_var_ptr, t * columns + col, unbiased, momentum, inside)
    tl.store(shared_mean_ptr + col, mean.to(shared_mean_ptr.dtype.element_ty), mask=inside)
    tl.store(shared_var_ptr + col, var.to(shared_var_ptr.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(count_ptr, tl.load(count_ptr) + T)


@triton.jit
def scale_kernel(
    mean_ptr, var_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, T, columns, eps,
    STEPS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The a and b of y = a·x + b [T, columns] once more, from what the forward returned."""
    t, col = tl.arange(0, STEPS)[:, None], tl.program_id(0) * COLS + tl.arange(0, COLS)[None, :]
    inside = col < columns
    there, at = (t < T) & inside, t * columns + col
    weight = tl.load(weight_ptr + col, mask=inside, other=0.0).to(tl.float64)
    bias = tl.load(bias_ptr + col, mask=inside, other=0.0).to(tl.float64)
    mean = tl.load(mean_ptr + at, mask=there, other=0.0).to(tl.float64)
    scale = weight / tl.sqrt(tl.load(var_ptr + at, mask=there, other=1.0).to(tl.float64) + eps)
    tl.store(scale_ptr + at, scale.to(tl.float32), mask=there)
    tl.store(shift_ptr + at, (bias - mean * scale).to(tl.float32), mask=there)


@triton.jit
def gradient_kernel(
    part_ptr, mean_ptr, var_ptr, weight_ptr, a_ptr, b_ptr, g_weight_ptr, g_bias_ptr, programs, T, columns, n, eps,
    MERGED: tl.constexpr, PARTS: tl.constexpr, STEPS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Parts of Σ g_y and Σ g_y·x → A and B of ∂L/∂x = a·g_y + A·x + B, of each (t, c) or of each c with MERGED, and
    ∂L/∂weight, ∂L/∂bias.

    Args:
        n: values behind each mean.
    """
    t, col = tl.arange(0, STEPS)[:, None], tl.program_id(0) * COLS + tl.arange(0, COLS)[None, :]
    inside = col < columns
    there, at = (t < T) & inside, t * columns + col
    part_ptr += tl.program_id(0) * COLS
    sum_g = summed(part_ptr, programs, 0, t, there, T, columns, PARTS)
    sum_gx = summed(part_ptr, programs, 1, t, there, T, columns, PARTS)
    g_bias = over_steps(sum_g, there)
    if MERGED:
        sum_g, sum_gx, at, there = g_bias, over_steps(sum_gx, there), col, inside
    weight = tl.load(weight_ptr + col, mask=inside, other=0.0).to(tl.float64)
    mean = tl.load(mean_ptr + at, mask=there, other=0.0).to(tl.float64)
    rstd = 1.0 / tl.sqrt(tl.load(var_ptr + at, mask=there, other=1.0).to(tl.float64) + eps)
    scale, sum_gxhat = weight * rstd, (sum_gx - mean * sum_g) * rstd
    a = -scale * rstd * sum_gxhat / n
    b = -scale * sum_g / n - a * mean
    tl.store(a_ptr + at, a.to(tl.float32), mask=there)
    tl.store(b_ptr + at, b.to(tl.float32), mask=there)
    g_weight = over_steps(sum_gxhat, there)
    tl.store(g_weight_ptr + col, g_weight.to(g_weight_ptr.dtype.element_ty), mask=inside)
    tl.store(g_bias_ptr + col, g_bias.to(g_bias_ptr.dtype.element_ty), mask=inside)


@triton.jit
def combine_kernel(
    g_ptr, x_ptr, out_ptr, scale_ptr, a_ptr, b_ptr, rows, columns, size, x_step, scale_step, a_step, b_step, tiles,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """∂L/∂x = scale·g_y + A·x + B, the terms of each (t, c)."""
    column = tl.program_id(0) * COLS
    t = tl.program_id(1).to(tl.int64)
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    inside = col < columns - column
    scale = tl.load(scale_ptr + t * scale_step + column + col, mask=inside, other=0.0)
    a = tl.load(a_ptr + t * a_step + column + col, mask=inside, other=0.0)
    b = tl.load(b_ptr + t * b_step + column + col, mask=inside, other=0.0)
    local = row * columns + col
    for tile in range(tiles):
        first = (tl.program_id(2).to(tl.int64) * tiles + tile) * ROWS
        mask = (row < rows - first) & inside
        base = first * columns + column
        g = tl.load(g_ptr + t * size + base + local, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + t * x_step + base + local, mask=mask, other=0.0).to(tl.float32)
        g_x = g * scale + x * a + b
        tl.store(out_ptr + t * size + base + local, g_x.to(out_ptr.dtype.element_ty), mask=mask)
