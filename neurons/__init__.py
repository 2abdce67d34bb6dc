"""Spiking neurons: pure step functions in the paper's symbols under modules on SpikingJelly 2's base.

This package imports nothing else of the project; ``pip install .`` installs it as ``clif_neurons``.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor, nn

from .base import SpikingNeuron
from .clif import CLIF, clif_step
from .kernels import BACKENDS
from .lif import LIF, lif_step
from .plif import PLIF
from .relu import ReLU
from .surrogate import SURROGATES

__all__ = [
    "BACKENDS",
    "CLIF",
    "LIF",
    "NEURONS",
    "PLIF",
    "SURROGATES",
    "ReLU",
    "SpikingNeuron",
    "build_neuron",
    "clif_step",
    "lif_step",
]

NEURONS: dict[str, type[nn.Module]] = {"LIF": LIF, "PLIF": PLIF, "CLIF": CLIF, "relu": ReLU}
HARD_RESET = ("LIF", "PLIF")  # neurons that a v_reset means something to
CUT = ("LIF", "PLIF", "CLIF")  # neurons whose gradients through time a bptt_k can cut


def build_neuron(
    name: str,
    *,
    tau: float = 2.0,
    v_threshold: float = 1.0,
    v_reset: float | None = None,
    surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
    alpha: float = 1.0,
    step_mode: str = "m",
    backend: str = "auto",
    keep_state: bool = True,
    bptt_k: int | None = None,
) -> nn.Module:
    """Build a neuron by its name on the command line.

    Args:
        name: a key of :data:`NEURONS`.
        tau, v_threshold, v_reset, surrogate, alpha, step_mode, backend, keep_state, bptt_k: see
            :class:`SpikingNeuron`. ``relu`` has no use for any but ``step_mode``.

    Raises:
        ValueError: if the name is unknown, ``tau`` ≤ 1, or ``v_reset`` or ``bptt_k`` is set for a neuron without one.
    """
    if name not in NEURONS:
        near = get_close_matches(name.upper(), NEURONS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown neuron {name!r}{hint} Known: {', '.join(NEURONS)}")
    if v_reset is not None and name not in HARD_RESET:
        raise ValueError(f"{name} has no reset value: v_reset works with {' and '.join(HARD_RESET)}")
    if bptt_k is not None and name not in CUT:
        raise ValueError(f"bptt_k works with {', '.join(CUT[:-1])} and {CUT[-1]}, not with {name}")
    if name == "relu":
        return ReLU(step_mode)
    shared = {
        "tau": tau,
        "v_threshold": v_threshold,
        "surrogate": surrogate,
        "alpha": alpha,
        "step_mode": step_mode,
        "backend": backend,
        "keep_state": keep_state,
        "bptt_k": bptt_k,
    }
    return NEURONS[name](**shared, **({"v_reset": v_reset} if name in HARD_RESET else {}))
