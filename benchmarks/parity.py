"""Whether the back end that is timed computes what back end ``torch`` does, on the device that it is timed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.layers import BatchNorm2d, norm_and_fire
from neurons import SpikingNeuron, build_neuron
from neurons.kernels.backends import SURROGATES

from .layers import random_sequence

TIE = 1e-6  # a membrane potential this close to a step of Θ or of the rectangle may fall on either side of it
GRADIENT = 1e-5  # largest error, over the largest gradient
# behind a batch norm, and in the gradients of weights, long sums are taken in another order: both are wider
TIE_NORM, GRADIENT_SUMS = 1e-5, 1e-4
NEURONS = (("LIF", None), ("LIF", 0.0), ("PLIF", None), ("CLIF", None))
ALPHA = 0.8


def check_parity(device: torch.device, quick: bool) -> dict[str, Any]:
    """Compare the fastest back end of the device with ``torch``: spikes and gradients.

    Elements whose membrane potential comes within a tie at any step are counted, left out of the comparison of
    spikes, and send no gradient back.

    Returns:
        ``ok``, the back end, and the rows behind it.
    """
    shape = (2, 4, 5, 5) if quick else (8, 16, 15, 15)
    rows = [
        neuron_row(name, v_reset, surrogate, (T, *shape), torch.float32, device)
        for name, v_reset in NEURONS
        for surrogate in SURROGATES
        for T in (6, 33)
    ]
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    rows += [neuron_row(name, None, "rectangle", (6, *shape), half, device) for name in ("LIF", "CLIF")]
    wide = (6, 4, 8, 8, 8) if quick else (6, 32, 16, 32, 32)
    rows += [norm_row(name, v_reset, wide, device) for name, v_reset in NEURONS]
    return {"ok": all(row["ok"] for row in rows), "backend": rows[0]["backend"], "rows": rows}


def neuron_row(
    name: str, v_reset: float | None, surrogate: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """One neuron over x [T, …]; in half precision against float32 on the same rounded input."""
    x, grad = (random_sequence(shape, dtype, device, seed) for seed in (0, 1))
    fast, plain = (build(name, v_reset, surrogate, backend, device) for backend in ("auto", "torch"))
    ties = near_ties(plain, x.float(), TIE)
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


def norm_row(name: str, v_reset: float | None, shape: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """Batch norm per step and the neuron behind it as one node, against the one after the other."""
    x, grad = (random_sequence(shape, torch.float32, device, seed) for seed in (0, 1))
    fast, plain = (build(name, v_reset, "rectangle", backend, device) for backend in ("auto", "torch"))
    norm = BatchNorm2d(shape[2]).to(device)
    with torch.no_grad():
        ties = near_ties(plain, norm(x), TIE_NORM)
    grad = grad.masked_fill(ties, 0)
    return {
        "neuron": name,
        "v_reset": v_reset,
        "surrogate": "rectangle",
        "behind a norm": True,
        "shape": shape,
        "dtype": "float32",
        "backend": fast.backend_for(x),
        **compare(
            run(lambda x: norm_and_fire(norm, fast, x), [*norm.parameters(), *fast.parameters()], x, grad),
            run(lambda x: plain(norm(x)), [*norm.parameters(), *plain.parameters()], x, grad),
            ties,
            GRADIENT_SUMS,
        ),
    }


def build(name: str, v_reset: float | None, surrogate: str, backend: str, device: torch.device) -> SpikingNeuron:
    """A neuron with a surrogate of a width that is not 1."""
    neuron = build_neuron(
        name, v_reset=v_reset, surrogate=surrogate, alpha=ALPHA, backend=backend, keep_state=False
    ).to(device)
    assert isinstance(neuron, SpikingNeuron)
    return neuron


@torch.no_grad()
def near_ties(neuron: SpikingNeuron, current: Tensor, tie: float) -> Tensor:
    """Which elements […] of input current [T, …] ever bring u within ``tie`` of V_th or of V_th ± α/2."""
    learned = neuron.learned_gamma()
    gamma = 1 - 1 / neuron.tau if learned is None else learned
    rest = neuron.v_reset or 0.0
    states: Iterable[Tensor] = [torch.full_like(current[0], rest)]
    if neuron.dynamics().clif:
        states = [*states, torch.zeros_like(current[0])]
    near = torch.zeros_like(current[0], dtype=torch.bool)
    for c in current:
        v, *_ = states
        distance = (rest + gamma * (v - rest) + c - neuron.v_threshold).abs()  # of u before the reset
        near |= (distance < tie) | ((distance - neuron.alpha / 2).abs() < tie)
        _, *states = neuron.step(c, *states)
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
) -> dict[str, Any]:
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
    """max|found − expected| / max|expected|."""
    return float((found.float() - expected).abs().max() / expected.abs().max())
