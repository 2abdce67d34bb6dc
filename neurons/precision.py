"""Neurons of another library under mixed precision: states and thresholds in float32, as in our own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from spikingjelly.activation_based.base import MemoryModule
from torch import Tensor

from .kernels import check_states


def in_float32(neuron: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """neuron(x) in float32 or better, whatever autocast says; spikes in the dtype of the input current x [T, N, *]."""
    device = x.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        return neuron(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


def check_kept_states(neuron: MemoryModule, frame: Tensor) -> None:
    """Refuse a step of the input [N, *] that the states kept from an earlier call do not belong to.

    Raises:
        ValueError: naming the state, and saying that it is to be reset.
    """
    check_states(frame, {name: state for name, state in neuron.named_memories() if isinstance(state, Tensor)})


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
