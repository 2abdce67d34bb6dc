"""Whether the back end that is timed computes what the reference does, on the device that it runs on."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.batch_norm import BatchNorm2d
from models.layers import norm_and_fire
from neurons import SURROGATES, SpikingNeuron, build_neuron
from neurons.ops import unrolled

from .layers import random_sequence

TIE = 1e-6  # a membrane potential this close to a step of Θ or of the rectangle may fall on either side of it
GRADIENT = 1e-5  # largest error, over the largest gradient
# behind a batch norm, and in the gradients of weights, long sums are taken in another order: both are wider
TIE_NORM, GRADIENT_SUMS = 1e-5, 1e-4
NEURONS = (("LIF", None), ("LIF", 0.0), ("PLIF", None), ("CLIF", None), ("KLIF", None), ("GLIF", None), ("ILIF", None))
OTHER_TAU, OTHER_ALPHA = 1.7, 0.8  # no defaults, and no powers of two
COMPILERS = 8  # processes that compare on CUDA: Triton compiles a kernel at a time in each, minutes in one
Row = dict[str, Any]


def check_parity(device: torch.device, quick: bool) -> dict[str, Any]:
    """Compare the fastest back end of the device with the reference: spikes and gradients.

    Elements whose membrane potential comes within a tie at any step are counted, left out of the comparison of
    spikes, and send no gradient back.

    Returns:
        ``ok``, the back end, and the rows behind it.
    """
    shape = (2, 4, 5, 5) if quick else (8, 16, 15, 15)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    wide = (6, 4, 8, 8, 8) if quick else (6, 32, 16, 32, 32)
    comparisons = [
        partial(neuron_row, name, v_reset, surrogate, (T, *shape), torch.float32, device)
        for T in (33, 6)  # what compiles longest comes first
        for name, v_reset in NEURONS
        for surrogate in SURROGATES
    ]
    comparisons += [partial(neuron_row, name, None, "rectangle", (6, *shape), half, device) for name in ("LIF", "CLIF")]
    comparisons += [partial(norm_row, name, v_reset, wide, device) for name, v_reset in NEURONS]
    rows = in_processes(comparisons) if device.type == "cuda" else [compared() for compared in comparisons]
    return {"ok": all(row["ok"] for row in rows), "backend": rows[0]["backend"], "rows": rows}


def in_processes(comparisons: Sequence[Callable[[], Row]]) -> list[Row]:
    """Make comparisons in processes of their own, several at once; the rows are in their order."""
    processes = min(COMPILERS, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(compared) for compared in comparisons]]


def neuron_row(
    name: str,
    v_reset: float | None,
    surrogate: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    backend: str = "auto",
    tie: float = TIE,
) -> Row:
    """One neuron over x [T, …]; in half precision against float32 on the same rounded input.

    Args:
        tie: what counts as a tie; 0 compares every element.
    """
    x, grad = (random_sequence(shape, dtype, device, seed) for seed in (0, 1))
    fast, plain = (build(name, v_reset, surrogate, device, shape[0], used) for used in (backend, "reference"))
    ties = near_ties(plain, x.float(), tie)
    grad = grad.masked_fill(ties, 0)
    tolerance = GRADIENT if dtype == torch.float32 else torch.finfo(dtype).eps
    return {
        "neuron": name,
        "v_reset": v_reset,
        "surrogate": surrogate,
        "behind a norm": False,
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "backend": fast.backend_for(x),
        **compare(
            run(fast, fast.parameters(), x, grad),
            run(plain, plain.parameters(), x.float(), grad.float()),
            ties,
            tolerance,
        ),
    }


def norm_row(
    name: str, v_reset: float | None, shape: tuple[int, ...], device: torch.device, backend: str = "auto"
) -> Row:
    """Batch norm per step and the neuron behind it as one node, against the one after the other.

    Running statistics are compared as gradients of weights are.
    """
    x, grad = (random_sequence(shape, torch.float32, device, seed) for seed in (0, 1))
    x = 2 * x + 0.7
    fast, plain = (build(name, v_reset, "rectangle", device, shape[0], used) for used in (backend, "reference"))
    with torch.no_grad():
        ties = near_ties(plain, random_norm(shape[2], device)(x), TIE_NORM)
    grad = grad.masked_fill(ties, 0)
    norm, other = (random_norm(shape[2], device) for _ in range(2))
    found = run(lambda x: norm_and_fire(norm, fast, x), [*norm.parameters(), *fast.parameters()], x, grad)
    expected = run(lambda x: plain(other(x)), [*other.parameters(), *plain.parameters()], x, grad)
    for each, (_, _, tensors) in ((norm, found), (other, expected)):
        tensors += [each.running_mean, each.running_var, each.num_batches_tracked]
    return {
        "neuron": name,
        "v_reset": v_reset,
        "surrogate": "rectangle",
        "behind a norm": True,
        "shape": shape,
        "dtype": "float32",
        "backend": fast.backend_for(x),
        **compare(found, expected, ties, GRADIENT_SUMS),
    }


def build(
    name: str,
    v_reset: float | None,
    surrogate: str,
    device: torch.device,
    T: int,
    backend: str,
) -> SpikingNeuron:
    """A neuron with a time constant and a surrogate's width of its own, and the same weights each time."""
    options = {"tau": OTHER_TAU, "v_reset": v_reset, "surrogate": surrogate, "alpha": OTHER_ALPHA}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        neuron = build_neuron(name, backend=backend, keep_state=False, T=T, **options).to(device)
    assert isinstance(neuron, SpikingNeuron)
    return neuron


def random_norm(channels: int, device: torch.device) -> BatchNorm2d:
    """A batch norm with weights and biases, the same each time."""
    generator = torch.Generator().manual_seed(0)
    norm = BatchNorm2d(channels)
    norm.weight.data.uniform_(0.5, 1.5, generator=generator)
    norm.bias.data.normal_(generator=generator)
    return norm.to(device)


@torch.no_grad()
def near_ties(neuron: SpikingNeuron, current: Tensor, tie: float) -> Tensor:
    """Which elements […] of input current [T, …] ever bring x of Θ(x) within ``tie`` of 0 or of ±α/2."""
    near = torch.zeros_like(current[0], dtype=torch.bool)

    def spike(x: Tensor) -> Tensor:
        near.logical_or_((x.abs() < tie) | ((x.abs() - neuron.width / 2).abs() < tie))
        return (x >= 0).to(x.dtype)

    unrolled(current, neuron.learned_values(), (), replace(neuron.dynamics(), surrogate=spike))
    return near


def run(
    function: Callable[[Tensor], Tensor], weights: Iterable[nn.Parameter], x: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Spikes, and the gradients of x and of the weights."""
    leaf = x.detach().requires_grad_()
    spikes = function(leaf)
    g_x, *g_weights = torch.autograd.grad(spikes, [leaf, *weights], grad.to(spikes.dtype))
    return spikes.detach(), g_x, g_weights


def compare(
    found: tuple[Tensor, Tensor, list[Tensor]],
    expected: tuple[Tensor, Tensor, list[Tensor]],
    ties: Tensor,
    tolerance: float,
) -> Row:
    """How far spikes [T, …] and gradients are apart; ``ties`` […] are left out of the spikes."""
    differ = int(((found[0].float() != expected[0].float()) & ~ties).sum())
    gradient_error = relative_error(found[1], expected[1])
    weight_error = max((relative_error(*pair) for pair in zip(found[2], expected[2], strict=True)), default=0.0)
    return {
        "elements": ties.numel(),
        "ties": int(ties.sum()),
        "spikes_differ": differ,
        "gradient_error": gradient_error,
        "gradient_tolerance": tolerance,
        "weight_gradient_error": weight_error,
        "ok": differ == 0 and gradient_error <= tolerance and weight_error <= max(tolerance, GRADIENT_SUMS),
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """max|found − expected| / max|expected|; max|found| where all that is expected is 0."""
    error, scale = (found.float() - expected.float()).abs().max(), expected.float().abs().max()
    return float(error / scale if scale else error)
