"""Spiking neurons: pure step functions in the paper's symbols under modules on SpikingJelly 2's base.

This package imports nothing else of the project; ``pip install .`` installs it as ``clif_neurons``.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature

from torch import Tensor, nn

from .base import SpikingNeuron
from .clif import CLIF, clif_step
from .defaults import TAU
from .glif import GLIF
from .kernels import BACKENDS
from .klif import KLIF
from .lif import LIF, lif_step
from .plif import PLIF
from .psn import PSN
from .relu import ReLU
from .surrogate import SURROGATES

__all__ = [
    "BACKENDS",
    "CLIF",
    "GLIF",
    "KLIF",
    "LIF",
    "NEURONS",
    "PLIF",
    "PSN",
    "SURROGATES",
    "TAU",
    "ReLU",
    "SpikingNeuron",
    "build_neuron",
    "clif_step",
    "lif_step",
]

NEURONS: dict[str, type[nn.Module]] = {
    "LIF": LIF,
    "PLIF": PLIF,
    "CLIF": CLIF,
    "KLIF": KLIF,
    "GLIF": GLIF,
    "PSN": PSN,
    "relu": ReLU,
}


def taking(option: str) -> tuple[str, ...]:
    """The neurons whose constructors take ``option``."""
    return tuple(name for name, neuron in NEURONS.items() if option in signature(neuron).parameters)


DECAYING = taking("decay_input")  # neurons with the literature's other convention: decay_input, detach_reset
HARD_RESET = taking("v_reset")  # neurons that a v_reset means something to
OURS = taking("bptt_k")  # neurons of SpikingNeuron: they have back ends, a bptt_k, and a twin in LIF
WHOLE_SEQUENCES = tuple(name for name in NEURONS if name not in taking("step_mode"))  # they see T steps at once
# of ours, those that learn nothing: one can stand in for the other in mid-training
WEIGHTLESS = tuple(name for name in OURS if not list(NEURONS[name]().parameters()))


def build_neuron(
    name: str,
    *,
    tau: float = TAU,
    v_threshold: float = 1.0,
    v_reset: float | None = None,
    surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
    alpha: float = 1.0,
    step_mode: str = "m",
    backend: str = "auto",
    keep_state: bool = True,
    bptt_k: int | None = None,
    decay_input: bool = False,
    detach_reset: bool = False,
    T: int | None = None,
) -> nn.Module:
    """Build a neuron by its name on the command line.

    Args:
        name: a key of :data:`NEURONS`.
        tau, v_threshold, v_reset, surrogate, alpha, step_mode, backend, keep_state, bptt_k: see
            :class:`SpikingNeuron`. KLIF has no use for ``keep_state``: it keeps its state until ``reset``. GLIF and PSN
            learn what ``tau`` and ``v_threshold`` say. ``relu`` has no use for any but ``step_mode``.
        decay_input, detach_reset: see :class:`LIF`.
        T: time steps; GLIF and PSN need it, the others take any length.

    Raises:
        ValueError: if the name is unknown, ``tau`` ≤ 1, ``T`` is missing, or ``v_reset``, ``bptt_k``, ``decay_input``,
            ``detach_reset``, ``backend`` or ``step_mode`` asks for what the neuron has not.
    """
    if name not in NEURONS:
        near = get_close_matches(name.upper(), NEURONS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown neuron {name!r}{hint} Known: {', '.join(NEURONS)}")
    takes = signature(NEURONS[name]).parameters
    if v_reset is not None and "v_reset" not in takes:
        raise ValueError(f"{name} has no reset value: v_reset works with {' and '.join(HARD_RESET)}")
    if bptt_k is not None and "bptt_k" not in takes:
        raise ValueError(f"bptt_k works with {', '.join(OURS[:-1])} and {OURS[-1]}, not with {name}")
    for option, asked in {"decay_input": decay_input, "detach_reset": detach_reset}.items():
        if asked and option not in takes:
            raise ValueError(f"{option} works with {' and '.join(taking(option))}, not with {name}")
    if backend not in ("auto", "torch") and "backend" not in takes and name != "relu":
        raise ValueError(f"{name} is computed by torch, and backend {backend} was asked for; leave it out")
    if step_mode != "m" and "step_mode" not in takes:
        raise ValueError(f"{name} sees whole sequences: it has no step mode {step_mode}")
    options = {
        "tau": tau,
        "v_threshold": v_threshold,
        "v_reset": v_reset,
        "surrogate": surrogate,
        "alpha": alpha,
        "step_mode": step_mode,
        "backend": backend,
        "keep_state": keep_state,
        "bptt_k": bptt_k,
        "decay_input": decay_input,
        "detach_reset": detach_reset,
        "T": T,
    }
    return NEURONS[name](**{option: value for option, value in options.items() if option in takes})
