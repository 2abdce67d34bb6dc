"""Batch norm over sequences [T, N, C, H, W]: statistics of each time step in training, shared ones or each step's own
in evaluation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from neurons import Memory, ops

from .recompute import RECOMPUTING

OF_STEPS = ("running_mean_t", "running_var_t")


class BatchNorm2d(nn.BatchNorm2d, Memory):
    """Batch norm that sees one time step at a time in training, as the published code does.

    Training statistics are per (step, channel). Two sets of running statistics follow them:

    - ``running_mean``, ``running_var`` [C], shared by all steps: updated T times a call, in time order. Published
      checkpoints hold these, and evaluation uses them unless :func:`.statistics.use_statistics` says other.
    - ``running_mean_t``, ``running_var_t`` [T, C], of each step: updated once a call. They start as those of the first
      batch; until then they are None, and no part of the state dict.

    All of them are float32 or better, whatever autocast says. In step mode ``"s"`` the memory ``t`` counts the steps of
    a sequence; ``functional.reset_net`` sets it back to 0.

    Args:
        num_features: C.
        merged: merge T into the batch before taking statistics. This is a different network, without statistics of
            each step.

    ``sum_over_ranks`` is set by :func:`.statistics.synchronise` where several processes share a batch.
    """

    sum_over_ranks: ops.SumOverRanks | None = None
    is_scale_and_shift = True  # whether its whole work is a scale and a shift of each (t, c): then it can be fused
    t: int

    def __init__(self, num_features: int, merged: bool = False, step_mode: str = "m"):
        super().__init__(num_features)
        self.merged, self.step_mode = merged, step_mode
        self.statistics = "shared"
        self.momentum: float | None = 0.1
        self.register_memory("t", 0)  # type: ignore[operator]
        self.num_batches_tracked: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.running_mean_t: Tensor | None
        self.running_var_t: Tensor | None
        for name in OF_STEPS:
            self.register_buffer(name, None)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != (5 if self.step_mode == "m" else 4):  # torch would take another dimension for the channels
            takes = "[T, N, C, H, W]" if self.step_mode == "m" else "[N, C, H, W]"
            raise ValueError(f"batch norm in step mode {self.step_mode} takes {takes}, not {list(x.shape)}")
        if self.training and self.merged and self.step_mode == "s":
            raise ValueError(
                "batch norm merged over T takes its statistics over all steps at once: train it in step mode m"
            )
        if not self.training:
            y = self._by_running_statistics(x)
        elif self.sum_over_ranks is not None:
            y = self._over_ranks(x, self.sum_over_ranks)
        else:
            y = self._by_batch_statistics(x)
        if self.step_mode == "s":
            self.t += 1
        return y

    def _by_batch_statistics(self, x: Tensor) -> Tensor:
        """x [T, N, C, H, W], or one step [N, C, H, W], normalised by its own statistics; the running ones follow."""
        if self.step_mode == "s":
            y, mean, var = self._normalise(x)
            self._update(mean[None], var[None])
            return y
        if self.merged or len(x) == 1:  # one step needs no copy
            y, mean, var = self._normalise(x.flatten(0, 1))  # [T, N, …] → [T·N, …]
            self._update(mean[None], var[None])
            return y.view_as(x)
        frames = x[:1] if ops.is_still(x) else x
        ys, means, variances = zip(*map(self._normalise, frames), strict=True)
        T = x.shape[0]
        self._update(torch.stack(means).expand(T, -1), torch.stack(variances).expand(T, -1))
        # cat, not stack: it keeps channels_last
        return torch.cat(ys).unflatten(0, frames.shape[:2]).expand(x.shape)

    def _normalise(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A frame [N, C, H, W] normalised by its own statistics; its mean and unbiased variance [C]."""
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # a momentum of 1 leaves the batch's statistics in the place of running ones
        y = F.batch_norm(frame, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        return y, mean, var

    def _over_ranks(self, x: Tensor, sum_over_ranks: ops.SumOverRanks) -> Tensor:
        """The same for this process's share of a batch, by the statistics of the whole batch."""
        steps = x
        if self.step_mode == "s":
            steps = x[None]  # [N, C, H, W] → [1, N, C, H, W]
        elif self.merged:
            steps = x.flatten(0, 1)[None]  # [T, N, C, H, W] → [1, T·N, C, H, W]
        elif ops.is_still(x):
            steps = x[:1]
        y, mean, var, n = ops.norm_over_ranks(steps, self.weight, self.bias, self.eps, sum_over_ranks)
        once = self.step_mode == "s" or self.merged
        T = 1 if once else x.shape[0]
        self.track(mean.expand(T, -1), var.expand(T, -1), n)
        return y.view_as(x) if once else y.expand(x.shape)

    def _by_running_statistics(self, x: Tensor) -> Tensor:
        """The same by running statistics, which stay as they are."""
        if self.statistics == "shared":
            if self.step_mode == "s":
                return super().forward(x)
            return functional.seq_to_ann_forward(x, (super().forward,))  # [T, N, …] → [T·N, …] and back
        T = x.shape[0] if self.step_mode == "m" else 1
        mean, var = self.of_steps(self.t if self.step_mode == "s" else 0, T)
        scale, shift = ops.scale_and_shift(mean, var, self.weight, self.bias, self.eps)  # [T, C]
        if self.step_mode == "s":
            scale, shift = scale[0], shift[0]
        return (x * scale[..., None, :, None, None] + shift[..., None, :, None, None]).to(x.dtype)

    def scale_and_shift(self, T: int) -> tuple[Tensor, Tensor]:
        """a and b [T, C] of y = a·x + b, by the running statistics that evaluation uses (step mode ``"m"``)."""
        mean, var = (self.running_mean[None], self.running_var[None])
        if self.statistics == "per_step":
            mean, var = self.of_steps(0, T)
        scale, shift = ops.scale_and_shift(mean, var, self.weight, self.bias, self.eps)
        return scale.expand(T, -1), shift.expand(T, -1)

    def of_steps(self, first: int, T: int) -> tuple[Tensor, Tensor]:
        """Running mean and variance [T, C] of the steps from ``first`` on; behind the last known one, that one's.

        Raises:
            ValueError: if there are none.
        """
        if self.running_mean_t is None or self.running_var_t is None:
            raise ValueError(NO_STATISTICS)
        known = self.running_mean_t.shape[0]
        rows = torch.arange(first, first + T, device=self.running_mean_t.device).clamp(max=known - 1)
        return self.running_mean_t[rows], self.running_var_t[rows]

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, n: int | Tensor, backend: str = "reference") -> None:
        """Update the running statistics by the T steps of a batch.

        Args:
            mean, var: mean and biased variance of each (t, c), [T, C]. n: values behind each.
            backend: what computed them: on CUDA ``"triton"`` updates in one launch.

        Raises:
            ValueError: if there is a single value behind each: no variance can be taken of it.
        """
        if isinstance(n, Tensor):  # over several processes: it stays on the device, and was checked before
            self._update(mean, var * (n / (n - 1)), 1.0, backend)
            return
        if n == 1:
            raise ValueError("Expected more than 1 value per channel when training: batch norm has no variance to take")
        self._update(mean, var, n / (n - 1), backend)

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, correction: float = 1.0, backend: str = "reference") -> None:
        """Update by mean and, multiplied by ``correction``, unbiased variance [T, C]."""
        if not torch.compiler.is_compiling() and RECOMPUTING.get():  # they have been updated once
            return
        if self.momentum is None:
            raise ValueError(
                "momentum None, a mean over all batches, is not followed here: models.recalibrate takes it"
            )
        of_steps: tuple[Tensor | None, Tensor | None] = (None, None)
        if not self.merged:
            of_steps = self._of_these_steps(mean, var, correction)
        running = ops.Running(self.running_mean, self.running_var, *of_steps, self.num_batches_tracked)
        ops.track(running, ops.OfBatch(mean, var, correction, self.momentum), backend)

    def _of_these_steps(self, mean: Tensor, var: Tensor, correction: float) -> tuple[Tensor, Tensor]:
        """The running statistics of this call's steps, [T, C] views; those of steps never seen start as the batch's."""
        first = self.t if self.step_mode == "s" else 0
        last = first + mean.shape[0]
        known = 0 if self.running_mean_t is None else self.running_mean_t.shape[0]
        if known < last:
            for name, batch in zip(OF_STEPS, (mean, var * correction), strict=True):
                rows = torch.arange(known - first, last - first, device=batch.device).clamp(min=0)
                new = batch[rows]  # to steps before this call that nobody saw in training, too
                self._hold(name, torch.cat([getattr(self, name), new]) if known else new)
        assert self.running_mean_t is not None
        assert self.running_var_t is not None
        return self.running_mean_t[first:last], self.running_var_t[first:last]

    def keep_steps(self, T: int) -> None:
        """Forget the running statistics of steps from T on."""
        if self.running_mean_t is not None and self.running_var_t is not None:
            self._hold("running_mean_t", self.running_mean_t[:T].clone())
            self._hold("running_var_t", self.running_var_t[:T].clone())

    def _hold(self, name: str, rows: Tensor) -> None:
        """Make rows the statistics of each step. A tensor made in inference mode could not be updated outside of it."""
        if not torch.compiler.is_compiling() and rows.is_inference():
            with torch.inference_mode(False):
                rows = rows.clone()
        setattr(self, name, rows)

    def forget(self) -> None:
        """Running statistics back to their start: no batch seen."""
        self.reset_running_stats()
        self.running_mean_t = self.running_var_t = None

    def _load_from_state_dict(self, state_dict, prefix, *args):
        known = any(prefix + name in state_dict for name in ("running_mean", *OF_STEPS))
        for name in OF_STEPS if known else ():  # those of the state dict, whatever its T; none if it has none
            if self.merged:  # it neither uses nor renews them
                state_dict.pop(prefix + name, None)
            there = state_dict.get(prefix + name)
            shape = () if there is None else (*there.shape[:1], self.num_features)  # another one torch refuses
            setattr(self, name, None)
            if there is not None:
                self._hold(name, self.running_mean.new_empty(shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        mean, var = (getattr(self, name) for name in OF_STEPS)
        lengths = {0 if rows is None else len(rows) for rows in (mean, var)}
        if known and (len(lengths) > 1 or (mean is not None and 0 in lengths)):
            args[-1].append(f"{prefix}running_mean_t and {prefix}running_var_t must be of the same steps, one or more")

    def extra_repr(self) -> str:
        return f"{nn.BatchNorm2d.extra_repr(self)}, {'merged over T' if self.merged else 'per step'}"


NO_STATISTICS = (
    "this network has no running statistics of each step: it was trained without them, or with batch norm merged over "
    "T; `inference.py -recalibrate_bn` takes them over training data"
)
