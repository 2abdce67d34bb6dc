"""Functions that derived steps call in Triton, by the GPU's own estimates of 2ˣ and 1/x."""

from __future__ import annotations

import triton
import triton.language as tl

APPROXIMATE = tl.constexpr(not triton.knobs.runtime.interpret)  # the interpreter knows no assembly


@triton.jit
def power_of_two(x):
    if APPROXIMATE:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def reciprocal(x):
    if APPROXIMATE:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def sigmoid(x):
    """1 / (1 + 2ˣ): σ(y) of x = −y·log₂ e."""
    return reciprocal(1.0 + power_of_two(x))


@triton.jit
def tanh(x):
    """2 / (1 + 2ˣ) − 1: tanh(y) of x = −2y·log₂ e."""
    return 2.0 * reciprocal(1.0 + power_of_two(x)) - 1.0


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
