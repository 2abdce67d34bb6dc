"""The options of a neuron's constructor: what they are where nobody says, and which mean something to which neuron."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .ops import Learned, canonical
from .surrogate import spike_function

# the paper's, the defaults of neurons, networks and settings
TAU = 2.0  # membrane time constant, in time steps
V_TH = 1.0  # firing threshold

DEFAULTS: dict[str, Any] = {
    "tau": TAU,
    "v_threshold": V_TH,
    "v_reset": None,
    "decay_input": False,
    "detach_reset": False,
    "keep_state": True,
    "T": None,
    "channels": None,
    "step_mode": "m",
}
SWITCHES = ("decay_input", "detach_reset", "keep_state")
COMPUTATION = ("surrogate", "alpha", "backend", "bptt_k")
EVERY = (*COMPUTATION, "keep_state")  # options of every neuron that has a step
# what a constructor sets that is never learned
SET = frozenset({"training", "T", "channels", "step_mode", *EVERY} - {"alpha"})
# of SpikingJelly's neurons, in the second line
ONE_STEP = (
    *("advance", "single_step_forward", "single_step_functional_forward"),
    *("neuronal_charge", "neuronal_fire", "neuronal_reset"),
)
CHECKED = frozenset({*COMPUTATION, *DEFAULTS} - {"step_mode"})  # of which not every value means something


def takes(neuron: Any, option: str) -> bool:
    """Whether an option means something to a neuron class that has a step."""
    if option in ("T", "step_mode"):  # a weight for each step: whole sequences only
        return any(each.per_step for each in neuron.learned) == (option == "T")
    if option == "channels":
        return any(each.per_channel for each in neuron.learned)
    return option in EVERY or option in neuron.options


def check_options(neuron: Any, given: dict[str, Any]) -> None:
    """Refuse options of :data:`DEFAULTS` that mean nothing to a neuron class, or have no meaning at all.

    Raises:
        ValueError: naming the option.
    """
    for option, value in given.items():
        if value != DEFAULTS[option] and not neuron.takes(option):
            raise ValueError(f"{neuron.__name__} takes no {option}")
    if neuron.takes("tau") and not given["tau"] > 1:
        raise ValueError(f"tau must be > 1, not {given['tau']}")
    if not math.isfinite(given["v_threshold"]):
        raise ValueError(f"v_threshold must be a finite number, not {given['v_threshold']}")
    if given["v_reset"] is not None and not -math.inf < given["v_reset"] < given["v_threshold"]:
        raise ValueError(
            f"v_reset must be below V_th = {given['v_threshold']:g}, not {given['v_reset']:g}: a spike takes u there"
        )
    if neuron.takes("T") and given["T"] is None:
        raise ValueError(f"{neuron.__name__} has weights for each time step: it needs T")
    for option in ("T", "channels"):
        check_count(option, given[option])
    for option in SWITCHES:
        if given[option] not in (False, True):  # "no", of a file of settings say, is true to Python
            raise ValueError(f"{option} is True or False, not {given[option]!r}")


def check_count(option: str, value: int | None, needed: bool = False) -> None:
    """Refuse what counts nothing; None is for none, where the option is not ``needed``.

    Raises:
        ValueError: naming the option.
    """
    if value is None and not needed:
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{option} must be a whole number of 1 or more, not {value}")


def check_fit(neuron: Any, x: Tensor, step_mode: str) -> None:
    """Refuse a sequence [T, N, C, *], or a step [N, C, *], that a neuron was not built for.

    Raises:
        ValueError: naming both.
    """
    name, frame = type(neuron).__name__, x.shape
    if step_mode == "m":
        if not x.dim() or not x.shape[0]:
            raise ValueError(f"a sequence [T, N, *] has one step or more, and this is {list(x.shape)}")
        if neuron.T is not None and x.shape[0] != neuron.T:
            raise ValueError(f"{name} was built for T = {neuron.T}, and the sequence has {x.shape[0]} steps")
        frame = x.shape[1:]
    # torch would broadcast what is learned of C channels, over a batch of C even
    if neuron.channels is not None and (len(frame) < 2 or frame[1] != neuron.channels):
        raise ValueError(f"{name} was built for {neuron.channels} channels, and a step of the input is {list(frame)}")


def check_names(neuron: Any) -> None:
    """Refuse states and parameters whose names are taken, or are none.

    Raises:
        TypeError: naming them.
    """
    names = ["c", "s", *neuron.states, *(each.name for each in neuron.learned)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise TypeError(f"{neuron.__name__} has two of {', '.join(twice)} (c is its input, s its spikes)")
    gradients = {"g_s", *(f"g_{state}" for state in neuron.states)}
    is_new = bool({"states", "learned"} & vars(neuron).keys())  # else torch may have put a property in a parent's place
    for name in names:
        why = "is what a gradient is called" if name in gradients else "" if name.isidentifier() else "is no name"
        is_taken = hasattr(neuron, name) or name in SET or (name in neuron.states and name in CHECKED)
        if is_new and is_taken and name not in ("c", "s"):
            why = "is an attribute of every such neuron"
        if why:
            raise TypeError(f"{neuron.__name__} calls something {name}, which {why} here: choose another")


def check_class(neuron: Any, base: Any, over_sequences: tuple[str, ...]) -> None:
    """Refuse names that are taken, and a class that changes single steps alone: its sequences would be other numbers.

    Raises:
        TypeError: naming them, or the method.
    """
    check_names(neuron)
    own = [m for m in (*ONE_STEP, *over_sequences) if getattr(neuron, m, None) is not getattr(base, m, None)]
    if own and not set(own) & {*over_sequences}:
        raise TypeError(
            f"{neuron.__name__} has {own[0]} of its own, which no sequence asks: write it into its step, or give it a "
            "multi_step_forward of its own too"
        )


def check_computation(
    surrogate: str | Callable[[Tensor], Tensor], alpha: float, backend: str, bptt_k: int | None
) -> None:
    """Refuse what computes nothing, or not together.

    Raises:
        ValueError: if a name is unknown, a surrogate is no function, a number is out of range, or ``bptt_k`` meets what
            cannot do it.
    """
    if isinstance(surrogate, str):
        spike_function(surrogate, alpha)  # which checks them
    elif not callable(surrogate):
        raise ValueError(f"surrogate must be a name or a function x ↦ Θ(x), not a {type(surrogate).__name__}")
    fused = canonical(backend) not in ("auto", "reference")
    if bptt_k is None:
        return
    check_count("bptt_k", bptt_k)
    if not isinstance(surrogate, str):
        raise ValueError("bptt_k works with a named surrogate, not with one of your own")
    if fused:
        raise ValueError(f"bptt_k is computed by torch, and backend {backend} was asked for; leave it out")


def check_change(neuron: Any, name: str, value: Any) -> None:
    """Refuse another value for an option of a neuron that is built, as its constructor would.

    A step with τ = 0.5, or with a reset above V_th, computes something. What is no number is refused when it is used.

    Raises:
        ValueError: naming the option.
    """
    if not neuron.takes(name) or any(each.name == name for each in neuron.learned):
        return
    if name in COMPUTATION:
        now = {"surrogate": neuron.surrogate, "alpha": neuron.width, "backend": neuron.backend, "bptt_k": neuron.bptt_k}
        check_computation(**{**now, name: value})
    elif name in SWITCHES or isinstance(value, Real | None):
        now = {option: getattr(neuron, option) if neuron.takes(option) else start for option, start in DEFAULTS.items()}
        check_options(type(neuron), {**now, name: value})


def first_value(learned: Learned, neuron: Any, T: int | None, channels: int | None) -> Tensor:
    """What a parameter starts as: [T, C], [T], [C] or []."""
    start = learned.start(neuron) if callable(learned.start) else learned.start
    steps = (T,) if learned.per_step else ()
    shape = (*steps, channels) if learned.per_channel and channels else steps
    return torch.as_tensor(start, dtype=torch.float32).expand(shape).clone()  # type: ignore[arg-type]


def described(neuron: Any) -> str:
    """A neuron's options that are not what they are where nobody says, for its ``repr``; τ always."""
    shown = {option: getattr(neuron, option) for option in neuron.options}
    shown = {option: value for option, value in shown.items() if option == "tau" or value != DEFAULTS[option]}
    shown |= {"surrogate": neuron.surrogate, "alpha": neuron.width, "step_mode": neuron.step_mode}
    if neuron.bptt_k is not None:
        shown["bptt_k"] = neuron.bptt_k
    return ", ".join(f"{option}={value}" for option, value in shown.items())
