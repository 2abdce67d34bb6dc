"""The training loss: temporal efficient training (TET, Deng et al. 2022), as the paper uses it."""

from __future__ import annotations

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
