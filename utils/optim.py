"""Optimisers and learning rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR


class LAMB(Optimizer):
    """LAMB (You et al., ICLR 2020; Algorithm 2 with φ(z) = z): Adam's step, scaled for each parameter x to its length::

        m ← β₁·m + (1 − β₁)·g,  v ← β₂·v + (1 − β₂)·g²
        r = (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε)
        x ← x − lr·(‖x‖/‖r + λ·x‖)·(r + λ·x)

    The ratio is 1 where either norm is 0. As in timm, whose LAMB the transformer's authors used, all gradients together
    are first scaled to a norm of ``max_grad_norm`` at most; and biases, batch norms and other parameters of fewer than
    two dimensions take Adam's step: λ = 0, ratio 1.

    Args:
        params: parameters. lr: learning rate. weight_decay: λ; with 0 the ratio is 1 everywhere, as in timm.
        betas: β₁ and β₂. eps: ε. max_grad_norm: of all gradients together.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        max_grad_norm: float = 1.0,
    ):
        settings = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "max_grad_norm": max_grad_norm}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [x.grad for group in self.param_groups for x in group["params"] if x.grad is not None]
        norm = torch.stack([g.norm() for g in gradients]).norm() if gradients else None
        for group in self.param_groups:
            clip = None if norm is None else (norm / group["max_grad_norm"]).clamp(min=1)
            for x in group["params"]:
                if x.grad is not None:
                    self._update(x, x.grad / clip, group)
        return loss

    def _update(self, x: nn.Parameter, g: Tensor, group: dict[str, Any]) -> None:
        """One parameter's step, by its gradient g after clipping."""
        state, (beta1, beta2) = self.state[x], group["betas"]
        if not state:
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(x), exp_avg_sq=torch.zeros_like(x))
        state["step"] += 1
        t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]  # the count stays on the CPU
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        r = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
        ratio = x.new_ones(())
        if group["weight_decay"] != 0 and x.dim() > 1:
            r = r + group["weight_decay"] * x
            x_norm, r_norm = x.norm(), r.norm()
            ratio = torch.where((x_norm > 0) & (r_norm > 0), x_norm / r_norm, ratio)
        x.sub_(group["lr"] * ratio * r)


def sgd(parameters: Iterable[nn.Parameter], momentum: float, **how: Any) -> SGD:
    """torch's SGD, whose momentum buffers start as zeros.

    Its one kernel for all parameters makes them of memory as it finds it, for the first step to write; a first step
    that the gradient scaler skips, as one that overflows float16, leaves them so, and the next adds to them.
    """
    optimizer = SGD(parameters, momentum=momentum, **how)
    optimizer.register_step_pre_hook(start_momentum)
    return optimizer


def start_momentum(optimizer: Optimizer, _args: object, _kwargs: object) -> None:
    """Zeros for the momentum buffers that are not there yet: 0·momentum + g is the g that a first step takes."""
    for group in optimizer.param_groups:
        for x in group["params"] if group["momentum"] else ():
            if x.grad is not None and optimizer.state[x].get("momentum_buffer") is None:
                optimizer.state[x]["momentum_buffer"] = torch.zeros_like(x)


OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": sgd,
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
