"""Which device a run takes, and what mixed precision means there."""

from __future__ import annotations

import torch

from .cli import UsageError


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or without a name the fastest that is there: CUDA, then MPS, then CPU.

    Raises:
        UsageError: if it is asked for and not there. There is no silent fallback.
    """
    if name is None:
        fastest = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(fastest)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"-device {name}: no such device; take cpu, cuda, cuda:N or mps") from None
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in found:
        raise UsageError(f"-device {name}: only cpu, cuda and mps are supported")
    if (device.index or 0) >= found[device.type]:
        there = f"{found[device.type]} such device(s)" if found[device.type] else f"no {device.type} device"
        raise UsageError(f"-device {name}: this machine has {there}; leave -device out to take what is there")
    return device


def amp_dtype(device: torch.device, enabled: bool) -> torch.dtype | None:
    """Precision under autocast: float16 on CUDA, bfloat16 elsewhere, None (float32) if not enabled."""
    if not enabled:
        return None
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
