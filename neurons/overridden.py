"""What somebody put in the place of a neuron's own: it is not to be passed over."""

from __future__ import annotations

from typing import Any

from .ops.returned import PLAIN, plain_setting

OVER_SEQUENCES = ("forward", "multi_step_forward", "multi_step_functional_forward")


def checked_width(neuron: Any) -> Any:
    """The surrogate's α, for a step that is its class's own.

    Raises:
        TypeError: if α is a tensor, whose value kernels would not see change, or the step one that was put in by hand.
    """
    if "step" in vars(neuron):
        raise TypeError(f"a step is its class's: declare a subclass of {type(neuron).__name__} with this one")
    width = neuron.width
    if type(width) in PLAIN or not isinstance(neuron.surrogate, str):  # one of your own has its own width
        return width
    return plain_setting(type(neuron).__name__, "alpha", width)
