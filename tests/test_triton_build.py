"""Triton's kernels compile for sm_90 (H100, H200) without one: to machine code, with nothing spilled from registers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.nvidia", reason="Triton has no NVIDIA back end here")

BUILD = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from neurons.kernels import triton_kernels as kernels

HALVES = {"x_ptr", "s_ptr", "gs_ptr", "gx_ptr", "gy_ptr"}
WHOLE = {"T": "i32", "ROWS_ALL": "i32", "tiles": "i32", "COLUMNS": "i64", "step": "i64"}

def build(kernel, warps, **constants):
    kind = lambda name: "*fp16" if name in HALVES else "*fp32" if name.endswith("_ptr") else WHOLE.get(name, "fp32")
    signature = {name: "constexpr" if name in constants else kind(name) for name in kernel.arg_names}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert ".local" not in built.asm["ptx"], kernel
    assert len(built.asm["cubin"]) > 0

plain = dict(HARD=False, LEARN=False, FRESH=True, LAST=False, CHUNKED=False)
for clif in (True, False):
    for norm, tile in ((False, dict(ROWS=1, COLS=256, warps=4)), (True, dict(ROWS=16, COLS=32, warps=8))):
        build(kernels.forward_kernel, CLIF=clif, NORM=norm, K=6, **plain, **tile)
        build(kernels.backward_kernel, CLIF=clif, NORM=norm, K=6, SURROGATE=0, **plain, **tile)
odd = dict(HARD=True, LEARN=True, FRESH=False, LAST=True, CHUNKED=True, CLIF=False, NORM=False)
build(kernels.backward_kernel, K=7, SURROGATE=2, ROWS=1, COLS=256, warps=4, **odd)
build(kernels.statistics_kernel, ROWS=16, COLS=32, warps=4)
build(kernels.combine_kernel, ROWS=16, COLS=32, warps=8)
print("built")
"""


def test_kernels_compile_for_sm_90():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "built", done.stderr
