"""Optimisers and learning rate schedules by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": lambda parameters, momentum, **how: SGD(parameters, momentum=momentum, **how),
    "AdamW": lambda parameters, momentum, **how: AdamW(parameters, **how),
}
# what each keeps for a weight, once it has taken a step: in its shape, but for the count of steps
KEPT = {"SGD": {"momentum_buffer"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}}
SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "CosALR": lambda optimizer, T_max, step_size, gamma: CosineAnnealingLR(optimizer, T_max),
    "StepLR": lambda optimizer, T_max, step_size, gamma: StepLR(optimizer, step_size, gamma),
}


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    device: torch.device,
) -> Optimizer:
    """An optimiser of :data:`OPTIMISERS`; ``momentum`` is SGD's. One kernel for all parameters where there is one."""
    fused = device.type in ("cpu", "cuda")
    return OPTIMISERS[name](parameters, momentum, lr=lr, weight_decay=weight_decay, fused=fused)


def build_schedule(name: str, optimizer: Optimizer, *, T_max: int, step_size: int, gamma: float) -> LRScheduler:
    """A schedule of :data:`SCHEDULES`, in epochs: ``T_max`` is CosALR's, ``step_size`` and ``gamma`` are StepLR's."""
    return SCHEDULES[name](optimizer, T_max, step_size, gamma)
