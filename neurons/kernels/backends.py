"""Which back end computes an input, and its kernels, imported when first asked for."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .interface import Kernel

BACKENDS = ("auto", "torch", "compile", "triton")
SURROGATES = ("rectangle", "triangle", "sigmoid")  # that fire.c and the Triton kernels know


def choose_backend(backend: str, x: Tensor, surrogate: Any) -> str:
    """The back end that computes this input: what was asked for, or with ``auto`` the fastest that can:
    Triton on CUDA, fire.c on a CPU with a C compiler, torch for the rest (float64, other devices).

    Raises:
        ValueError: if what was asked for cannot compute it. Nothing is switched silently.
    """
    fits = x.dtype in (torch.float32, torch.float16, torch.bfloat16) and surrogate in SURROGATES
    there = {"cuda": "triton", "cpu": "compile"}.get(x.device.type)
    if backend == "auto":
        return there if there is not None and fits and installed(there) else "torch"
    if backend == "torch":
        return "torch"
    if not fits:
        raise ValueError(
            f"backend {backend} has float32, float16 and bfloat16 and the surrogates {', '.join(SURROGATES)}"
        )
    if backend == "compile" and x.device.type != "cpu":
        raise ValueError(f"backend compile is for the CPU, and the input is on {x.device}")
    if backend == "triton" and x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"backend triton is for CUDA, and the input is on {x.device}")
    if not installed(backend):
        needs = "Triton" if backend == "triton" else "a C compiler (cc, gcc or clang) that can compile fire.c"
        raise ValueError(f"backend {backend} wants {needs}; take backend torch without one")
    return backend


@cache
def installed(backend: str) -> bool:
    """Whether what a back end is made of is on this machine: Triton, or a C compiler that compiles fire.c."""
    if backend == "triton":
        return find_spec("triton") is not None
    from .cpu_build import library

    try:
        library()
    except (RuntimeError, OSError):  # no compiler, one that fails, or what it made cannot be loaded
        return False
    return True


@cache
def load_kernel(backend: str) -> Kernel:
    """The kernels of a back end, imported when first asked for."""
    if backend == "triton":
        from .triton_launch import TritonKernel

        return TritonKernel()
    if backend == "compile":
        from .cpu_launch import CompiledKernel

        return CompiledKernel()
    from .torch_launch import TorchKernel

    return TorchKernel()
