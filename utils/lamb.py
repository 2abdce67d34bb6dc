"""LAMB (You et al., ICLR 2020), which the Spike-Driven Transformer was trained with on DVS-Gesture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class LAMB(Optimizer):
    """Adam's step, scaled for each parameter x to the length of x (the paper's Algorithm 2 with φ(z) = z)::

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
