"""Which back end computes an input, and its kernels, imported when first asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .dynamics import Inputs
from .norm import Norm

SPELLINGS = {"torch": "reference", "compile": "c"}  # what some were once called
BACKENDS = ("auto", "reference", "c", "triton", *SPELLINGS)
FUSED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Tensors = tuple[Tensor, ...]
Function = TypeVar("Function", bound=Callable)


class Kernels(Protocol):
    """What a fused back end offers. Gradients of states and tables are float32, like these."""

    def forward(self, inputs: Inputs, last: bool, train: bool) -> tuple[Tensor, Tensors, Tensors]:
        """→ spikes like x, the last states (if ``last``), what to save for the backward besides x (if ``train``)."""

    def backward(
        self, inputs: Inputs, saved: Tensors, g_s: Tensor, g_last: Tensors
    ) -> tuple[Tensor, Tensor | None, Tensors, Tensors | None]:
        """→ g_c like x (g of the normalised current), g_table, g_states (if there are any), and with a norm
        Σ g_c and Σ g_c·x of each (t, c) [T, C]. ``g_last`` is empty where no gradient comes to the last states."""

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each (t, c), float32 [T, C]."""

    def combine(self, g_y: Tensor, x: Tensor, scale: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """a·g_y + A·x + B like x, the factors [T, C]."""

    def norm_forward(
        self, inputs: Inputs, norm: Norm, train: bool
    ) -> tuple[Tensor, Tensor, Tensor, int | Tensor, Tensors]:
        """See :class:`.norm.NormKernels`, and for the next."""

    def norm_backward(
        self, inputs: Inputs, norm: Norm, mean: Tensor, var: Tensor, n: int | Tensor, saved: Tensors, g_s: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]: ...

    def saved_for(self, inputs: Inputs) -> Tensors:
        """Tensors like those that a forward in training saves besides x; x may be fake."""


def canonical(backend: str) -> str:
    """A back end's name, whatever its spelling.

    Raises:
        ValueError: if there is no such back end.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    return SPELLINGS.get(backend, backend)


def constant_to_compile(function: Function) -> Function:
    """``torch.compiler.assume_constant_result`` without its import of the whole compiler, which takes 2 s."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_to_compile
def choose_backend(backend: str, dtype: torch.dtype, device: torch.device, named: bool, transformed: bool) -> str:
    """The back end that computes an input: what was asked for, or with ``auto`` the fastest that can:
    Triton on CUDA, C on a CPU with a compiler, the reference for the rest (float64, other devices, surrogates of your
    own, torch.func).

    Args:
        dtype, device: the input's. named: whether the surrogate is a key of ``SURROGATES``.
        transformed: whether torch.func (grad, vmap, …) is at work.

    Raises:
        ValueError: if what was asked for cannot compute it. Nothing is switched silently: where ``auto`` misses a
            compiler, it says so once.
    """
    backend = canonical(backend)
    fits = dtype in FUSED_DTYPES and named
    if backend == "auto" and transformed:
        return "reference"
    if backend == "auto":
        there = {"cuda": "triton", "cpu": "c"}.get(device.type)
        return there if there is not None and fits and is_installed(there) else "reference"
    if backend == "reference":
        return backend
    if transformed:
        raise ValueError(f"backend {backend} goes through no functional transform (grad, vmap, …); take the reference")
    if not fits:
        raise ValueError(f"backend {backend} has float32, float16, bfloat16 and named surrogates; take the reference")
    if backend == "c" and device.type != "cpu":
        raise ValueError(f"backend c is for the CPU, and the input is on {device}")
    if backend == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"backend triton is for CUDA, and the input is on {device}")
    missing = why_not(backend)
    if missing:
        raise ValueError(missing)
    return backend


chosen_backend = cache(choose_backend)  # the same again for the same input; torch.compile looks through no cache


def is_installed(backend: str) -> bool:
    """Whether what a back end needs is here; where it is not, a warning says once what would mend it."""
    missing = why_not(backend)
    if missing and backend not in WARNED:
        WARNED.add(backend)
        warnings.warn(f"{missing}. Until then neurons run the reference, which is slower", stacklevel=2)
    return not missing


WARNED: set[str] = set()


@cache
def why_not(backend: str) -> str:
    """What a back end lacks on this machine, in words; empty if nothing."""
    if backend == "triton":
        return "" if find_spec("triton") else "backend triton wants the package triton: pip install triton"
    from .c_build import BuildError
    from .c_source import norm_library

    try:
        norm_library()
    except BuildError as error:  # no compiler, one that fails, or what it made cannot be loaded
        return str(error)
    return ""


@cache
def load_kernels(backend: str) -> Kernels:
    """The kernels of a back end, imported when first asked for."""
    if backend == "triton":
        from .triton_launch import TritonKernels

        return TritonKernels()
    from .c_launch import CKernels

    return CKernels()
