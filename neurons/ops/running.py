"""A batch norm's running statistics, updated in place by the steps of a batch.

Those that all steps share, [C], are updated T times a call in time order, those of each step, [T, C], once:
r ← r + k·(r_t − r), with k the momentum. The reference takes some twenty operations of torch. On CUDA each would be a
launch for a few thousand numbers, so that Triton does it all in one kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .nodes import NAMESPACE
from .sequence import is_watched


def track(
    shared: tuple[Tensor, Tensor],
    of_steps: tuple[Tensor, Tensor] | None,
    count: Tensor,
    mean: Tensor,
    var: Tensor,
    correction: float,
    momentum: float,
    backend: str = "reference",
) -> None:
    """Update running statistics by the T steps of a batch, and add T to the number of steps seen.

    Args:
        shared: mean and variance of all steps, [C]. of_steps: of each step, [T, C], or None. count: int64 [].
        mean, var: the batch's, [T, C]. correction: var · correction is the unbiased variance.
        momentum: k. backend: ``"triton"``, or any other for the reference.
    """
    if backend != "triton":
        track_by_torch(shared, of_steps, count, mean, var * correction, momentum)
    elif is_watched(mean):
        track_op(*shared, *(of_steps or (None, None)), count, mean, var, correction, momentum)
    else:
        triton_kernel()(shared, of_steps, count, mean, var, correction, momentum)


def triton_kernel() -> Callable[..., None]:
    """:func:`.triton_launch.track_by_triton`, imported where it is used: Triton may not be there."""
    from .triton_launch import track_by_triton

    return track_by_triton


def track_by_torch(
    shared: tuple[Tensor, Tensor],
    of_steps: tuple[Tensor, Tensor] | None,
    count: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float,
) -> None:
    """The reference, with the unbiased variance: T updates in time order are
    r ← (1 − k)^T·r + Σ_t k·(1 − k)^(T−1−t)·r_t."""
    T = mean.shape[0]
    later = torch.arange(T - 1, -1, -1, device=mean.device, dtype=mean.dtype)
    share = (momentum * (1 - momentum) ** later)[:, None]  # [T, 1]
    for running, batch in zip(shared, (mean, var), strict=True):
        # a sum of products, not a matrix product: autocast would take that in half precision
        running.mul_((1 - momentum) ** T).add_((share * batch).sum(0))
    for known, batch in zip(of_steps or (), (mean, var), strict=False):
        known.lerp_(batch.to(known.dtype), momentum)
    count.add_(T)


@torch.library.custom_op(
    f"{NAMESPACE}::track",
    mutates_args=("shared_mean", "shared_var", "steps_mean", "steps_var", "count"),
    schema="(Tensor(a!) shared_mean, Tensor(b!) shared_var, Tensor(c!)? steps_mean, Tensor(d!)? steps_var, "
    "Tensor(e!) count, Tensor mean, Tensor var, float correction, float momentum) -> ()",
)
def track_op(shared_mean, shared_var, steps_mean, steps_var, count, mean, var, correction, momentum):
    of_steps = None if steps_mean is None else (steps_mean, steps_var)
    triton_kernel()((shared_mean, shared_var), of_steps, count, mean, var, correction, momentum)


@track_op.register_fake
def _(shared_mean, shared_var, steps_mean, steps_var, count, mean, var, correction, momentum):
    return None
