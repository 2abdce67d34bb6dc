"""Neurons of another library under mixed precision: states and thresholds in float32, as in our own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor


def as_current(x: Tensor) -> Tensor:
    """An input current as a real number for each element: counts and masks, spikes of another kind say, in float32.

    In their own type spikes would carry no gradient to what a neuron learns.

    Raises:
        ValueError: if it is complex.
    """
    if x.is_complex():
        raise ValueError(f"an input current is real, and this is {str(x.dtype).removeprefix('torch.')}")
    return x if x.is_floating_point() else x.float()


def in_float32(neuron: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """neuron(x) in float32 or better, whatever autocast says; spikes in the dtype of the input current x [T, N, *]."""
    x, device = as_current(x), x.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        return neuron(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


def check_steps(name: str, T: int | None) -> int:
    """T of a neuron that has weights for each time step.

    Raises:
        ValueError: if it is missing.
    """
    if T is None:
        raise ValueError(f"{name} has weights for each time step: it needs T")
    return T


def check_sequence(name: str, T: int, x_seq: Tensor) -> None:
    """Refuse a sequence [T, N, *] of another length.

    Raises:
        ValueError: naming both lengths.
    """
    if x_seq.shape[0] != T:
        raise ValueError(f"{name} was built for T = {T}, and the sequence has {x_seq.shape[0]} steps")
