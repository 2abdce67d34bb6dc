"""Work in a fresh process: no case inherits another's memory, threads or caches, or falls with it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import torch


def apart(device: torch.device, function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call ``function`` in a fresh process and wait for it; the future holds what it returned or raised."""
    # a process forked from one that has looked for a GPU may not use it
    context = multiprocessing.get_context("spawn" if device.type == "cuda" else "forkserver")
    if device.type != "cuda":
        context.set_forkserver_preload(["benchmarks.cases", "benchmarks.tables"])  # libraries loaded, nothing run
    method = multiprocessing.get_start_method()
    with ProcessPoolExecutor(1, mp_context=context, initializer=start_processes_by, initargs=(method,)) as pool:
        return pool.submit(function, *args)


def start_processes_by(method: str) -> None:
    """Start the processes that this one needs in turn, to load data, as a training run starts them."""
    multiprocessing.set_start_method(method, force=True)
