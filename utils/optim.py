"""Optimisers and learning rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from .lamb import LAMB

OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": lambda parameters, momentum, **how: SGD(parameters, momentum=momentum, **how),
    "Adam": lambda parameters, momentum, **how: Adam(parameters, **how),
    "AdamW": lambda parameters, momentum, **how: AdamW(parameters, **how),
    "LAMB": lambda parameters, momentum, **how: LAMB(parameters, **how),
}
# what each keeps for a weight, once it has taken a step: in its shape, but for the count of steps
ADAM = {"step", "exp_avg", "exp_avg_sq"}
KEPT = {"SGD": {"momentum_buffer"}, "Adam": ADAM, "AdamW": ADAM, "LAMB": ADAM}


class WarmCosine(LRScheduler):
    """Cosine annealing with a warm-up in front and a stay at the floor, in epochs::

        t < W:                   warmup_lr + (lr − warmup_lr)·t/W
        W ≤ t ≤ T_max:           lr_min + (lr − lr_min)·(1 + cos(π·t/T_max))/2
        T_max < t < T_max + C:   lr_min

    The warm-up takes the place of the cosine's first W epochs, and does not shift it, as in timm's schedule. Behind
    the cool-down the cosine rises again, as :class:`CosineAnnealingLR` does behind T_max.

    Args:
        T_max: epochs from the start to the lowest rate. eta_min: lr_min. warmup_epochs: W. cooldown_epochs: C.
        warmup_lr: rate of the first epoch, where W > 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float,
        warmup_epochs: int,
        warmup_lr: float,
        cooldown_epochs: int,
    ):
        self.T_max, self.eta_min = T_max, eta_min
        self.warmup_epochs, self.warmup_lr, self.cooldown_epochs = warmup_epochs, warmup_lr, cooldown_epochs
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        t = self.last_epoch
        if t < self.warmup_epochs:
            return [self.warmup_lr + (lr - self.warmup_lr) * t / self.warmup_epochs for lr in self.base_lrs]
        t = min(t, max(self.T_max, t - self.cooldown_epochs))
        share = (1 + math.cos(math.pi * t / self.T_max)) / 2
        return [self.eta_min + (lr - self.eta_min) * share for lr in self.base_lrs]

    _get_closed_form_lr = get_lr


def cosine(
    optimizer: Optimizer,
    T_max: int,
    lr_min: float,
    warmup_epochs: int,
    warmup_lr: float,
    cooldown_epochs: int,
) -> LRScheduler:
    """``CosALR``: torch's own schedule where there is neither warm-up nor cool-down."""
    if warmup_epochs or cooldown_epochs:
        return WarmCosine(optimizer, T_max, lr_min, warmup_epochs, warmup_lr, cooldown_epochs)
    return CosineAnnealingLR(optimizer, T_max, lr_min)


# each with the options that it takes
SCHEDULES: dict[str, tuple[Callable[..., LRScheduler], tuple[str, ...]]] = {
    "CosALR": (cosine, ("T_max", "lr_min", "warmup_epochs", "warmup_lr", "cooldown_epochs")),
    "StepLR": (StepLR, ("step_size", "gamma")),
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
    how = {"fused": device.type in ("cpu", "cuda")} if name != "LAMB" else {}
    return OPTIMISERS[name](parameters, momentum, lr=lr, weight_decay=weight_decay, **how)


def build_schedule(
    name: str,
    optimizer: Optimizer,
    *,
    T_max: int,
    step_size: int,
    gamma: float,
    lr_min: float = 0.0,
    warmup_epochs: int = 0,
    warmup_lr: float = 0.0,
    cooldown_epochs: int = 0,
) -> LRScheduler:
    """A schedule of :data:`SCHEDULES`, in epochs: ``step_size`` and ``gamma`` are StepLR's, the others CosALR's (see
    :class:`WarmCosine`)."""
    schedule, options = SCHEDULES[name]
    settings: dict[str, Any] = {
        "T_max": T_max,
        "lr_min": lr_min,
        "warmup_epochs": warmup_epochs,
        "warmup_lr": warmup_lr,
        "cooldown_epochs": cooldown_epochs,
        "step_size": step_size,
        "gamma": gamma,
    }
    return schedule(optimizer, **{option: settings[option] for option in options})
