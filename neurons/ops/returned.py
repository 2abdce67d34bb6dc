"""What a step is called with and what it returns, checked."""

from __future__ import annotations

import numbers
from typing import Any

from torch import Tensor

Setting = float | bool | None
PLAIN = (bool, int, float, str, type(None))  # what a setting is made of


def as_current(x: Tensor) -> Tensor:
    """An input current as a real number for each element: counts and masks, spikes of another kind say, in float32.

    In their own type spikes would carry no gradient to what a neuron learns.

    Raises:
        ValueError: if it is complex.
    """
    if x.is_complex():
        raise ValueError(f"an input current is real, and this is {str(x.dtype).removeprefix('torch.')}")
    return x if x.is_floating_point() else x.float()


def plain_setting(neuron: str, name: str, value: Any) -> Setting:
    """A setting as a step is called with it: a number, a switch or None, which no training changes.

    Raises:
        TypeError: if it is anything else, a tensor say: kernels would keep the value that it had at first.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, numbers.Real):  # of NumPy
        return float(value)
    raise TypeError(
        f"setting {name} of {neuron} is a {type(value).__name__}, not a number, a switch or None; "
        "what is learned stands in learned"
    )


def check_outputs(name: str, states: tuple[str, ...], out: object) -> tuple[Tensor, ...]:
    """What a step returned, if it is spikes and every state.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(out, tuple | list) or len(out) != 1 + len(states) or not all(isinstance(y, Tensor) for y in out):
        found = f"{len(out)} values" if isinstance(out, tuple | list) else f"a {type(out).__name__}"
        wanted = f"{1 + len(states)} tensors: spikes" + "".join(f", {state}" for state in states)
        raise ValueError(f"{name}'s step returns {found}; it must return {wanted}")
    return tuple(out)


def fitted(name: str, y: Tensor, c: Tensor) -> Tensor:
    """What a step returned, a mask or one number for all elements too, as one number per element of c.

    Raises:
        ValueError: if it is of another shape.
    """
    if y.dtype == c.dtype and y.shape == c.shape:
        return y
    if y.dim() and y.shape != c.shape:
        raise ValueError(f"{name}'s step returns {list(y.shape)} for an input of {list(c.shape)}")
    return y.to(c.dtype).expand(c.shape)


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
