"""One case: contenders that do the same work, measured in turn, in a fresh process; what the case of growth claims."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

import torch

from utils.numerics import set_numerics

from . import layers
from .timing import Contender, Makers, flatness, measure, peak_memory_mib, summarise

FLAT_FROM = 4  # shortest T of the claim that time and memory per step do not depend on T
FLAT_WITHIN = 0.10


@dataclass(frozen=True)
class Case:
    """One table: contenders that do the same work.

    Args:
        build: () → the contenders' makers.
        settings: what the work is, for the record.
        rounds: how often every contender has its turn.
        repeats: repetitions in a turn, see :func:`benchmarks.timing.time_phases`.
        warm_up: untimed repetitions before the first round.
        memory: also measure the memory that each contender takes.
        per: what times are of: ``""``, or a share of the work such as ``"per time step"``.
    """

    group: str
    title: str
    build: Callable[[], Makers]
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: int = 10
    repeats: int = 1
    warm_up: int = 1
    memory: bool = False
    per: str = ""


def apart(device: torch.device, function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call ``function`` in a fresh process and wait for it; the future holds what it returned or raised.

    No case inherits another's memory, threads or caches, or falls with it.
    """
    method = multiprocessing.get_start_method()
    with ProcessPoolExecutor(
        1, mp_context=fresh_processes(device.type), initializer=start_processes_by, initargs=(method,)
    ) as pool:
        return pool.submit(function, *args)


def fresh_processes(device: str) -> BaseContext:
    """How to start processes with the libraries loaded and nothing run."""
    if device == "cuda":  # a process forked from one that has looked for a GPU may not use it
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.cases", "benchmarks.tables"])
    return context


def start_processes_by(method: str) -> None:
    """Start the processes that this one needs in turn, to load data, as a training run starts them."""
    multiprocessing.set_start_method(method, force=True)


def run_case(case: Case, device: torch.device, cudnn: str = "deterministic", tf32: bool = False) -> dict[str, Any]:
    """Measure a case, in a process that does nothing else; returns plain values, for JSON.

    On CUDA this includes memory; on a CPU each contender's is asked for in a process of its own (:func:`memory_of`).
    ``cudnn`` and ``tf32`` are those of training, see :func:`utils.numerics.set_numerics`.
    """
    set_numerics(cudnn, tf32=tf32)
    started = time.perf_counter()
    samples, failed, contenders = measure(
        case.build(),
        rounds=case.rounds,
        repeats=case.repeats,
        warm_up=case.warm_up,
        device=device,
        title=case.title,
    )
    first = next(iter(contenders))
    against = {name: contender.against or first for name, contender in contenders.items()}
    memory = {}
    if case.memory and device.type == "cuda":
        memory = {name: peak_memory_mib(contender, device) for name, contender in contenders.items()}
    return {
        "group": case.group,
        "title": case.title,
        "per": case.per,
        "settings": case.settings,
        "rounds": case.rounds,
        "repeats": case.repeats,
        "warm_up": case.warm_up,
        "seconds": time.perf_counter() - started,
        "against": against,
        "contenders": summarise(samples, against),
        "failed": failed,
        "memory_mib": memory,
    }


def memory_of(case: Case, name: str, device: torch.device) -> float | None:
    """Memory of one contender in MiB, in a process that does nothing else."""
    contender: Contender = case.build()[name]()
    return peak_memory_mib(contender, device)


def growth_verdict(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Whether ours stays flat per step from T = 4 on, in time and memory: ``{"ours": {"time": …, …}, …}``.

    Args:
        result: of the growth case, memory included.
    """
    verdict: dict[str, dict[str, Any]] = {}
    lengths = [T for T in result["settings"]["T"] if T >= FLAT_FROM]
    for label, loop in (("ours", False), ("step loop", True)):
        names = {T: layers.growth_name(T, loop) for T in lengths}
        times = {T: phases[layers.FORWARD_BACKWARD]["median_ms"] for T, n in names.items()
                 if (phases := result["contenders"].get(n))}  # fmt: skip
        memory = {T: mib for T, n in names.items() if (mib := result["memory_mib"].get(n))}
        verdict[label] = {}
        for quantity, costs in (("time", times), ("memory", memory)):
            if len(costs) == len(lengths):
                deviation = flatness(costs)
                verdict[label][quantity] = {"max_deviation": deviation, "flat": deviation <= FLAT_WITHIN}
    return verdict
