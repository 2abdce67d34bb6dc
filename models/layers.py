"""What every network here is made of: layers over sequences [T, N, C, H, W] or, step by step, [N, C, H, W].

SpikingJelly's layers serve where time only widens the batch; the convolution and the batch norm know more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import base, functional, layer
from torch import Tensor, nn

from neurons import NEURONS, ReLU, SpikingNeuron, kernels

from .recompute import recompute, recomputing

BATCH_NORMS = ("per_step", "merged")
FUSED_BACKENDS = ("compile", "triton")  # where a norm and the neuron behind it are computed as one


class Conv2d(layer.Conv2d):
    """Convolution over [T, N, C, H, W]; a static image (stride 0 in time) goes through it once for all T."""

    def forward(self, x: Tensor) -> Tensor:
        if self.step_mode == "m" and is_static(x):
            y = self._conv_forward(x[0], self.weight, self.bias)
            return y.expand(x.shape[0], *y.shape)
        return super().forward(x)


class BatchNorm2d(nn.BatchNorm2d, base.StepModule):
    """Batch norm that sees one time step at a time, as the published code does.

    Training statistics are per (step, channel), and the running statistics are updated T times a call,
    in time order. Its state dict is that of ``torch.nn.BatchNorm2d``.

    Args:
        num_features: C.
        merged: merge T into the batch before taking statistics. This is a different network.

    ``sum_over_ranks`` is set by :func:`synchronise` where several processes share a batch.
    """

    sum_over_ranks: kernels.SumOverRanks | None = None

    def __init__(self, num_features: int, merged: bool = False, step_mode: str = "m"):
        super().__init__(num_features)
        self.merged, self.step_mode = merged, step_mode
        self.momentum: float = 0.1
        self.num_batches_tracked: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor

    @property
    def sees_steps(self) -> bool:
        """Whether the next call takes statistics of each step by itself."""
        return self.training and self.step_mode == "m" and not self.merged

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.sum_over_ranks is not None:
            return self._over_ranks(x, self.sum_over_ranks)
        if not self.sees_steps:
            if self.step_mode == "s":
                return super().forward(x)
            return functional.seq_to_ann_forward(x, (super().forward,))  # [T, N, …] → [T·N, …] and back
        T = x.shape[0]
        if not recomputing():
            self.num_batches_tracked.add_(T)
        if is_static(x):  # T equal updates r ← (1 − k)·r + k·r_t are one with k′ = 1 − (1 − k)^T
            y = self._normalise(x[0], 1 - (1 - self.momentum) ** T)
            return y.expand(T, *y.shape)
        # cat, not stack: it keeps channels_last
        return torch.cat([self._normalise(x_t, self.momentum) for x_t in x]).unflatten(0, x.shape[:2])

    def _over_ranks(self, x: Tensor, sum_over_ranks: kernels.SumOverRanks) -> Tensor:
        steps = x
        if self.step_mode == "s":
            steps = x[None]  # [N, C, H, W] → [1, N, C, H, W]
        elif self.merged:
            steps = x.flatten(0, 1)[None]  # [T, N, C, H, W] → [1, T·N, C, H, W]
        elif is_static(x):
            steps = x[:1]
        y, mean, var, n = kernels.norm_over_ranks(steps, self.weight, self.bias, self.eps, sum_over_ranks)
        once = self.step_mode == "s" or self.merged
        T = 1 if once else x.shape[0]
        self.track(mean.expand(T, -1), var.expand(T, -1), n)
        return y.view_as(x) if once else y.expand(x.shape)

    def _normalise(self, x_t: Tensor, momentum: float) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if recomputing():  # they have been updated once; the graph must look the same
            mean, var = mean.clone(), var.clone()
        return F.batch_norm(x_t, mean, var, self.weight, self.bias, True, momentum, self.eps)

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, n: int | Tensor) -> None:
        """Update the running statistics by T steps at once.

        T updates r ← (1 − k)·r + k·r_t in time order are r ← (1 − k)^T·r + Σ_t k·(1 − k)^(T−1−t)·r_t.

        Args:
            mean, var: mean and biased variance of each (t, c), [T, C]. n: values behind each.

        Raises:
            ValueError: if there is a single value behind each: no variance can be taken of it.
        """
        if isinstance(n, int) and n == 1:  # over several processes it stays on the device, and was checked before
            raise ValueError("Expected more than 1 value per channel when training: batch norm has no variance to take")
        if recomputing():
            return
        T = mean.shape[0]
        later = torch.arange(T - 1, -1, -1, device=mean.device, dtype=mean.dtype)
        share = self.momentum * (1 - self.momentum) ** later  # [T]
        kept = (1 - self.momentum) ** T
        self.running_mean.mul_(kept).add_(share @ mean)
        self.running_var.mul_(kept).add_(share @ var * (n / (n - 1)))
        self.num_batches_tracked.add_(T)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {'merged over T' if self.merged else 'per step'}"


def norm_and_fire(norm: nn.Module, neuron: nn.Module, x: Tensor) -> Tensor:
    """neuron(norm(x)), as one node of the graph where the neuron's back end can: x → spikes, [T, N, C, H, W]."""
    if (
        isinstance(norm, BatchNorm2d)
        and norm.sees_steps
        and isinstance(neuron, SpikingNeuron)
        and not neuron.keep_state
    ):
        backend, dynamics = neuron.backend_for(x), neuron.dynamics()
        if dynamics is not None and backend in FUSED_BACKENDS:
            spikes, mean, var, n = kernels.norm_and_fire(
                x,
                norm.weight,
                norm.bias,
                norm.eps,
                neuron.learned_gamma(),
                dynamics,
                backend,
                norm.sum_over_ranks,
            )
            norm.track(mean, var, n)
            return spikes
    return neuron(norm(x))


def synchronise(net: nn.Module, sum_over_ranks: kernels.SumOverRanks | None) -> None:
    """Take the statistics of every batch norm over the whole batch, of which each process has a share.

    Args:
        sum_over_ranks: adds a tensor up over all processes, in place; None for one process.
    """
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.sum_over_ranks = sum_over_ranks


def is_static(x_seq: Tensor) -> bool:
    """Whether x_seq [T, N, …] is one frame shown at every step (a view of stride 0 in time)."""
    return x_seq.stride(0) == 0 and x_seq.shape[0] > 1


@dataclass(frozen=True)
class Parts:
    """How a network makes its neurons, norms and dropouts, so that it need not know their options.

    Args:
        neuron: () → a neuron.
        norm: C → a batch norm.
        drop_rate: probability of dropout; one mask per sequence, the same at every step.
    """

    neuron: Callable[[], nn.Module]
    norm: Callable[[int], BatchNorm2d]
    drop_rate: float = 0.0

    def dropout(self) -> nn.Module:
        """Dropout, or an identity that keeps its place in the state dict's numbering."""
        return layer.Dropout(self.drop_rate, step_mode="m") if self.drop_rate > 0 else nn.Identity()


class SpikingNetwork(nn.Module, base.StepModule):
    """A network that reads a sequence and keeps no state: nobody has to remember a reset.

    ``step_mode='m'`` goes layer by layer, each over all T steps; ``'s'`` goes step by step through the whole
    network, as the published code does. Both compute the same. Set it with SpikingJelly's
    ``functional.set_step_mode``.

    ``checkpoint=True`` trades compute for memory: in training each block keeps its input alone, and is computed
    again in the backward pass (``step_mode='m'`` only).
    """

    def __init__(self) -> None:
        super().__init__()
        self.step_mode = "m"
        self.checkpoint = False

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """Input [T, N, C, H, W] → logits [T, N, K] (``'m'``), or [N, C, H, W] → [N, K] (``'s'``)."""

    def through(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """block(x), computed again in the backward pass if ``checkpoint`` says so."""
        again = self.checkpoint and self.training and self.step_mode == "m" and torch.is_grad_enabled()
        return recompute(block, x) if again else block(x)

    def computed_by(self, device: torch.device) -> str:
        """What computes the neurons, in words.

        Raises:
            ValueError: if the back end that was asked for cannot.
        """
        neurons = [module for module in self.modules() if isinstance(module, SpikingNeuron)]
        if not neurons:
            others = tuple(kind for kind in NEURONS.values() if kind is not ReLU)
            return "neurons under autograd" if any(isinstance(m, others) for m in self.modules()) else "no neurons"
        if self.step_mode == "s":
            return "step by step under autograd"
        return f"backend {neurons[0].backend_for(torch.empty(1, 1, device=device))}"

    def forward(self, x_seq: Tensor) -> Tensor:
        """Input [T, N, C, H, W] → logits [T, N, K]; the prediction is the argmax of their sum over T."""
        functional.reset_net(self)
        logits = self.run(x_seq) if self.step_mode == "m" else torch.stack([self.run(x) for x in x_seq])
        functional.reset_net(self)
        return logits


def init_conv_kaiming(net: nn.Module) -> None:
    """Kaiming-normal (fan_out, relu) for every convolution; biases and the rest keep torch's own start."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
