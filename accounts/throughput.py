"""How fast a network runs: whole sequences of T steps in full batches, timed on a device that has finished."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.modes import in_evaluation
from utils.device import wait_for
from utils.run_dir import peak_memory_gb

WARM_UP_RUNS = 3  # kernels are chosen and memory is allocated in the first ones
LEAST_RUNS, MOST_RUNS, SECONDS = 10, 1000, 5.0

FORMULAS = {
    "images_per_second": "runs · batch / Σ latencies",
    "latency": "time of one batch of whole sequences, from a device that is idle to one that is again",
    "peak_memory_gb": "GiB: allocated by the network on CUDA; of the whole process elsewhere",
}


@dataclass(frozen=True)
class Throughput:
    """What :func:`measure_throughput` saw, in the terms of :data:`FORMULAS`.

    Args:
        batch, T: samples in a batch and time steps of each.
        runs: how many batches were timed, after the warm-up.
        median_ms, p95_ms: latency of a batch: median and 95th percentile.
    """

    device: str
    batch: int
    T: int
    runs: int
    images_per_second: float
    median_ms: float
    p95_ms: float
    peak_memory_gb: float

    def as_dict(self) -> dict[str, Any]:
        """The numbers with their formulas, ready for JSON."""
        return {**asdict(self), "formulas": FORMULAS}


@torch.no_grad()
def measure_throughput(net: nn.Module, x_seq: Tensor, seconds: float = SECONDS) -> Throughput:
    """Time ``net`` in evaluation mode on one full batch, again and again.

    Args:
        net: x_seq [T, N, C, H, W] → logits [T, N, K], in whatever precision it has. Its modes are restored.
        x_seq: a batch on the network's device.
        seconds: how long to measure, at least; 10 runs are made in any case, and at most 1000.
    """
    device, latencies = x_seq.device, list[float]()
    with in_evaluation(net):
        for _ in range(WARM_UP_RUNS):
            net(x_seq)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        while len(latencies) < LEAST_RUNS or (sum(latencies) < seconds and len(latencies) < MOST_RUNS):
            wait_for(device)
            started = time.perf_counter()
            net(x_seq)
            wait_for(device)
            latencies.append(time.perf_counter() - started)
    median, p95 = np.percentile(latencies, [50, 95])
    T, N = x_seq.shape[:2]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    rate = len(latencies) * N / sum(latencies)
    return Throughput(name, N, T, len(latencies), rate, 1e3 * median, 1e3 * p95, peak_memory_gb(device))
