"""Methods that somebody put in the place of a neuron's own: they are not to be passed over."""

from __future__ import annotations

from typing import Any

OVER_SEQUENCES = ("forward", "multi_step_forward", "multi_step_functional_forward")


def is_replaced(neuron: Any, base: type, method: str) -> bool:
    """Whether a neuron has a method of its own in the place of ``base``'s: by its class, or put in by hand."""
    return method in vars(neuron) or getattr(type(neuron), method) is not getattr(base, method)
