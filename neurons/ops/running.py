"""A batch norm's running statistics, updated in place by the steps of a batch.

Those that all steps share, [C], are updated T times a call in time order, those of each step, [T, C], once:
r ← r + k·(r_t − r), with k the momentum. The reference takes some twenty operations of torch. On CUDA each would be a
launch for a few thousand numbers, so that Triton does it all in one kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .nodes import NAMESPACE
from .norm import OfBatch, Running
from .sequence import is_watched


def track(running: Running, batch: OfBatch, backend: str = "reference") -> None:
    """Update running statistics by the T steps of a batch, and add T to the number of steps seen.

    Args:
        backend: ``"triton"``, or any other for the reference.
    """
    if backend != "triton":
        track_by_torch(running, batch)
    elif is_watched(batch.mean):
        track_op(*running, *batch)
    else:
        triton_kernel()(running, batch)


def triton_kernel() -> Callable[[Running, OfBatch], None]:
    """:func:`.triton_launch.track_by_triton`, imported where it is used: Triton may not be there."""
    from .triton_launch import track_by_triton

    return track_by_triton


def track_by_torch(running: Running, batch: OfBatch) -> None:
    """The reference: T updates in time order are r ← (1 − k)^T·r + Σ_t k·(1 − k)^(T−1−t)·r_t."""
    mean, k = batch.mean, batch.momentum
    var, T = batch.var * batch.correction, len(mean)
    later = torch.arange(T - 1, -1, -1, device=mean.device, dtype=mean.dtype)
    share = (k * (1 - k) ** later)[:, None]  # [T, 1]
    for shared, of_each, of_batch in ((running.mean, running.mean_t, mean), (running.var, running.var_t, var)):
        # a sum of products, not a matrix product: autocast would take that in half precision
        shared.mul_((1 - k) ** T).add_((share * of_batch).sum(0))
        if of_each is not None:
            of_each.lerp_(of_batch.to(of_each.dtype), k)
    running.steps.add_(T)


@torch.library.custom_op(
    f"{NAMESPACE}::track",
    mutates_args=("shared_mean", "shared_var", "steps_mean", "steps_var", "count"),
    schema="(Tensor(a!) shared_mean, Tensor(b!) shared_var, Tensor(c!)? steps_mean, Tensor(d!)? steps_var, "
    "Tensor(e!) count, Tensor mean, Tensor var, float correction, float momentum) -> ()",
)
def track_op(shared_mean, shared_var, steps_mean, steps_var, count, mean, var, correction, momentum):
    running = Running(shared_mean, shared_var, steps_mean, steps_var, count)
    triton_kernel()(running, OfBatch(mean, var, correction, momentum))


@track_op.register_fake
def _(shared_mean, shared_var, steps_mean, steps_var, count, mean, var, correction, momentum):
    return None
