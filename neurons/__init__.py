"""Spiking neurons: each a pure step function in its paper's symbols, under a module on SpikingJelly 2's base.

This package imports nothing else of the project; ``pip install .`` installs it as ``clif_neurons``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .base import SpikingNeuron
from .clif import CLIF, clif_step
from .glif import GLIF
from .ilif import ILIF
from .klif import KLIF
from .lif import LIF, lif_step
from .memory import Memory
from .names import unknown
from .ops import BACKENDS, Learned, canonical
from .options import DEFAULTS, TAU, V_TH
from .plif import PLIF
from .psn import PSN
from .relu import ReLU
from .surrogate import ALPHA, SURROGATE, SURROGATES

__all__ = [
    "ALPHA",
    "BACKENDS",
    "CLIF",
    "GLIF",
    "ILIF",
    "KLIF",
    "LIF",
    "NEURONS",
    "PLIF",
    "PSN",
    "SURROGATE",
    "SURROGATES",
    "TAU",
    "V_TH",
    "Learned",
    "Memory",
    "ReLU",
    "SpikingNeuron",
    "build_neuron",
    "clif_step",
    "lif_step",
    "list_neurons",
    "unknown",
]

NEURONS: dict[str, type[nn.Module]] = {
    "LIF": LIF,
    "PLIF": PLIF,
    "CLIF": CLIF,
    "KLIF": KLIF,
    "GLIF": GLIF,
    "ILIF": ILIF,
    "PSN": PSN,
    "relu": ReLU,
}


def list_neurons() -> list[str]:
    """The names that :func:`build_neuron` knows."""
    return list(NEURONS)


def taking(option: str) -> tuple[str, ...]:
    """The neurons that declare ``option``."""
    return tuple(name for name, neuron in NEURONS.items() if neuron.takes(option))  # type: ignore[attr-defined]


STEPPING = tuple(name for name, neuron in NEURONS.items() if issubclass(neuron, SpikingNeuron))  # those with a step
DECAYING = taking("decay_input")  # neurons with the other convention of the literature: decay_input, detach_reset
HARD_RESET = taking("v_reset")  # neurons that a v_reset means something to
WHOLE_SEQUENCES = tuple(name for name in NEURONS if name not in taking("step_mode"))  # they see T steps at once
# those that a LIF with the same weights can stand in for
WITH_LIF_TWIN = tuple(name for name in STEPPING if NEURONS[name].has_lif_twin)  # type: ignore[attr-defined]
# of those with a step, those that learn nothing: one can stand in for the other in mid-training
WEIGHTLESS = tuple(name for name in STEPPING if not NEURONS[name].learned)  # type: ignore[attr-defined]


def build_neuron(
    name: str,
    *,
    tau: float = TAU,
    v_threshold: float = V_TH,
    v_reset: float | None = None,
    surrogate: str | Callable[[Tensor], Tensor] = SURROGATE,
    alpha: float = ALPHA,
    step_mode: str = "m",
    backend: str = "auto",
    keep_state: bool = True,
    bptt_k: int | None = None,
    decay_input: bool = False,
    detach_reset: bool = False,
    T: int | None = None,
    channels: int | None = None,
) -> nn.Module:
    """Build a neuron by its name on the command line.

    Args:
        name: a key of :data:`NEURONS`.
        T: time steps; GLIF and PSN need it, the others take any length.
        others: see :class:`SpikingNeuron`. GLIF learns what ``tau`` and ``v_threshold`` say, PSN too, whose weights
            are its memory. ``relu`` has no use for any but ``step_mode``.

    Raises:
        ValueError: if the name is unknown, ``tau`` ≤ 1, ``T`` is missing, or the neuron has no use for an option.
    """
    if name not in NEURONS:
        raise ValueError(unknown("neuron", name, NEURONS))
    neuron = NEURONS[name]
    takes: Callable[[str], bool] = neuron.takes  # type: ignore[attr-defined]
    if v_reset is not None and not takes("v_reset"):
        raise ValueError(f"{name} has no reset value: v_reset works with {' and '.join(HARD_RESET)}")
    if bptt_k is not None and not takes("bptt_k"):
        raise ValueError(f"bptt_k works with {', '.join(STEPPING[:-1])} and {STEPPING[-1]}, not with {name}")
    if canonical(backend) not in ("auto", "reference") and not takes("backend") and name != "relu":
        raise ValueError(f"{name} has no step to derive kernels from: leave backend {backend} out")
    if step_mode != "m" and not takes("step_mode"):
        raise ValueError(f"{name} sees whole sequences: it has no step mode {step_mode}")
    for option, asked in (("decay_input", decay_input), ("detach_reset", detach_reset), ("channels", channels)):
        if asked != DEFAULTS[option] and not takes(option):
            raise ValueError(f"{option} works with {' and '.join(taking(option))}, not with {name}")
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
        "channels": channels,
    }
    return neuron(**{option: value for option, value in options.items() if takes(option)})
