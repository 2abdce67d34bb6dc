"""What C is handed: its jobs, field by field, the shares of their elements, and the threads that do them."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path

import torch

MOST_STATES = 8
STARTED = os.getpid()  # OpenMP's threads stay behind in this process, where another is forked off it


class Job(ctypes.Structure):
    """C's ``Job``, field by field."""

    __slots__ = ()
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "size", "x_step", "channels", "width", "table_steps")),
        *((name, ctypes.c_void_p) for name in ("constants", "start", "table", "scale", "shift", "x", "g_s", "out")),
        *((name, ctypes.c_void_p * MOST_STATES) for name in ("state", "g_last", "last", "g_state")),
    )


class NormJob(ctypes.Structure):
    """``NormJob`` of norm.c, field by field."""

    __slots__ = ()
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "size", "x_step", "channels", "width", "terms", "shares")),
        *(("dtype", ctypes.c_int32), ("eps", ctypes.c_float)),
        *((name, ctypes.c_void_p) for name in ("x", "g_y", "out", "sums", "weight", "bias", "mean", "var")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "A", "B", "g_weight", "g_bias")),
    )


class Share(ctypes.Structure):
    """``Share`` of team.h: some elements of every frame, and room for what is summed over them."""

    __slots__ = ()
    _fields_ = (
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
        ("more", ctypes.c_void_p),
    )


@cache
def torchs_threads() -> ctypes.c_void_p | None:
    """What starts OpenMP's threads in the OpenMP that torch is linked to; None where there is none to be found."""
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p)  # found among what the library is linked to
    except (OSError, AttributeError):
        return None


@lru_cache(maxsize=4)
def pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: a fork has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="fire")
