"""Contenders that take turns on one device, their times round by round, and the ratios within each round."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from neurons.ops.buffers import BUFFERS
from utils.device import wait_for

Samples = dict[str, dict[str, list[float]]]  # contender → phase → ms of each round


def no_preparation() -> None:
    """Most contenders need none."""


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work.

    Args:
        phases: name → call; they run in this order, and each is timed by itself.
        prepare: called before each repetition, not timed.
        warm_up: called instead of the phases before the first round, where those would take too long.
        scale: what times and memory are multiplied by (1/T reports them per time step).
        repeats: repetitions for each that the case asks for.
        against: the contender whose time the ratio is taken to; None for the first of the case.
        memory: False where memory would mean nothing, because the work is only a part of what the others do.
    """

    phases: Mapping[str, Callable[[], object]]
    prepare: Callable[[], object] = no_preparation
    warm_up: Callable[[], object] | None = None
    scale: float = 1.0
    repeats: int = 1
    against: str | None = None
    memory: bool = True

    def run(self) -> None:
        """One repetition, untimed."""
        self.prepare()
        for phase in self.phases.values():
            phase()


Makers = Mapping[str, Callable[[], Contender]]  # name → how to build it; the first is ours


@dataclass(frozen=True)
class Summary:
    """Times of one phase of a contender, in ms, and its time over that of the contender it is held against.

    Args:
        ratio: median over the rounds of the ratio within a round; ratio_q1, ratio_q3: its quartiles.
    """

    median_ms: float
    min_ms: float
    q1_ms: float
    q3_ms: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    samples_ms: list[float]


def mark(device: torch.device) -> Any:
    """A point in time: an event in the CUDA stream, or the clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def milliseconds(start: Any, end: Any) -> float:
    """From one mark to a later one, both passed."""
    return 1e3 * (end - start) if isinstance(start, float) else start.elapsed_time(end)


def time_phases(contender: Contender, repeats: int, device: torch.device) -> dict[str, float]:
    """Time of each phase in ms: the median of the repetitions, which follow each other without a wait.

    So a GPU is kept fed: where its work outlasts the launches of the next, these are hidden, as they are in training.
    """
    wait_for(device)
    marks: list[list[Any]] = []
    for _ in range(repeats * contender.repeats):
        contender.prepare()
        passed = [mark(device)]
        for phase in contender.phases.values():
            phase()
            passed.append(mark(device))
        marks.append(passed)
    wait_for(device)
    times = [[milliseconds(*pair) for pair in pairwise(row)] for row in marks]
    return dict(zip(contender.phases, map(float, contender.scale * np.median(times, axis=0)), strict=True))


def measure(
    makers: Makers, *, rounds: int, repeats: int, warm_up: int, device: torch.device, title: str
) -> tuple[Samples, dict[str, str], dict[str, Contender]]:
    """Build and warm up every contender, then let them take turns, from another first one in each round.

    Returns:
        The times, the contenders that could not run with the reason, and those that could.

    Raises:
        RuntimeError: if the first contender, ours, cannot run: nothing could be held against it.
    """
    contenders: dict[str, Contender] = {}
    failed: dict[str, str] = {}
    for name, make in progress(makers.items(), f"{title}: warm-up"):
        try:
            contender = make()
            for _ in range(warm_up):
                (contender.warm_up or contender.run)()
            wait_for(device)
        except RuntimeError as error:  # out of memory, or an operator that this device lacks: a row that says so
            if not contenders:
                raise
            failed[name] = str(error).splitlines()[0]
            continue
        if contender.against in failed:
            failed[name] = f"nothing to hold it against: {contender.against} could not run"
            continue
        contenders[name] = contender
    samples: Samples = {name: {phase: [] for phase in c.phases} for name, c in contenders.items()}
    names = list(contenders)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection is nobody's time
    try:
        for turn in progress(range(rounds), title):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                for phase, ms in time_phases(contenders[name], repeats, device).items():
                    samples[name][phase].append(ms)
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return samples, failed, contenders


def summarise(samples: Samples, against: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Contender → phase → :class:`Summary`, as plain values.

    Args:
        against: contender → the one it is held against.
    """
    return {
        name: {phase: asdict(summary(times, samples[against[name]][phase])) for phase, times in phases.items()}
        for name, phases in samples.items()
    }


def summary(times: Sequence[float], reference: Sequence[float]) -> Summary:
    """Times of the rounds, and those of the contender they are held against in the same rounds."""
    q1, median, q3 = map(float, np.percentile(times, [25, 50, 75]))
    ratios = np.asarray(times) / np.asarray(reference)
    ratio_q1, ratio, ratio_q3 = map(float, np.percentile(ratios, [25, 50, 75]))
    return Summary(median, float(min(times)), q1, q3, ratio, ratio_q1, ratio_q3, list(times))


def flatness(costs: Mapping[int, float]) -> float:
    """Largest relative deviation of a cost per time step, given for several T, from their median."""
    values = np.asarray(list(costs.values()))
    return float(np.abs(values / np.median(values) - 1).max())


def peak_memory_mib(contender: Contender, device: torch.device) -> float | None:
    """Memory that a repetition takes at its peak, on top of what a warm contender holds, in MiB.

    On CUDA this is memory allocated by torch. On a CPU it is resident memory, to be asked for in a process that does
    nothing else; None where the system does not tell (anything but Linux with glibc), or where it means nothing.
    """
    if not contender.memory:
        return None
    contender.run()
    if device.type == "cuda":
        wait_for(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        contender.run()
        wait_for(device)
        return contender.scale * (torch.cuda.max_memory_allocated(device) - before) / 2**20
    gc.collect()
    BUFFERS.release()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the warm-up freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts from zero
    except (OSError, AttributeError):
        return None
    held = resident_kib("VmRSS")
    contender.run()
    return contender.scale * (resident_kib("VmHWM") - held) / 2**10


def resident_kib(field: str) -> int:
    """Resident memory of this process on Linux: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def progress(items: Any, title: str) -> Any:
    """A progress bar that clears itself and is silent where nobody watches."""
    return tqdm(items, desc=title, leave=False, dynamic_ncols=True, disable=None)
