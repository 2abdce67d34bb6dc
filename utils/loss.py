"""Training losses by name: temporal efficient training (TET, Deng et al. 2022), as the paper uses it, and others'."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def bptt_loss(
    logits: Tensor,
    labels: Tensor,
    loss_lambda: float = 0.05,
    loss_means: float = 1.0,
    mse_n_reg: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(1 − λ)·CE + λ·MSE, each averaged over all T·N rows; λ = 0 leaves CE alone.

    Args:
        logits: [T, N, K].
        labels: classes, int64 [N], or soft labels [N, K] (mixup / cutmix).
        loss_lambda: λ.
        loss_means: the MSE's target for every logit.
        mse_n_reg: take the one-hot (or soft) label as the MSE's target instead.
        label_smoothing: of the CE.

    Returns:
        The loss, a scalar of at least float32.
    """
    T, _, K = logits.shape
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = logits.flatten(0, 1)  # [T, N, K] → [T·N, K]
    target = labels.repeat(T, *[1] * (labels.dim() - 1))  # [N, …] → [T·N, …], t outermost
    ce = F.cross_entropy(rows, target, label_smoothing=label_smoothing)
    if loss_lambda == 0:
        return ce
    if mse_n_reg:
        mse_target = (target if target.dim() == 2 else F.one_hot(target, K)).to(rows.dtype)
    else:
        mse_target = torch.full_like(rows, loss_means)
    return (1 - loss_lambda) * ce + loss_lambda * F.mse_loss(rows, mse_target)


def mean_ce(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """CE of the logits' mean over T: the Spike-Driven Transformer's (Yao et al. 2023).

    Args:
        logits: [T, N, K]. labels: classes, int64 [N], or soft labels [N, K].

    Returns:
        The loss, a scalar of at least float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.mean(0), labels, label_smoothing=label_smoothing)


def rate_mse(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean square of the output's mean over T (a firing rate, where the output spikes) minus the one-hot label: the
    loss of PLIF (Fang et al. 2021).

    Args:
        logits: [T, N, K]. labels: classes, int64 [N], or soft labels [N, K].

    Returns:
        The loss, a scalar of at least float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = labels if labels.dim() == 2 else F.one_hot(labels, logits.shape[-1])
    return F.mse_loss(logits.mean(0), target.to(logits.dtype))


# each with the options that it takes
LOSSES: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "tet": (bptt_loss, ("loss_lambda", "loss_means", "mse_n_reg", "label_smoothing")),
    "mean_ce": (mean_ce, ("label_smoothing",)),
    "rate_mse": (rate_mse, ()),
}


def build_loss(
    loss: str, loss_lambda: float, loss_means: float, mse_n_reg: bool, label_smoothing: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of :data:`LOSSES`, (logits [T, N, K], labels) → scalar, with those of the settings that it takes."""
    function, options = LOSSES[loss]
    settings: dict[str, Any] = {
        "loss_lambda": loss_lambda,
        "loss_means": loss_means,
        "mse_n_reg": mse_n_reg,
        "label_smoothing": label_smoothing,
    }
    return partial(function, **{option: settings[option] for option in options})
