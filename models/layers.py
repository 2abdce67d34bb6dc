"""What every network here is made of: layers over sequences [T, N, C, H, W] or, step by step, [N, C, H, W].

SpikingJelly's layers serve where time only widens the batch; the convolution and the batch norm know more.
"""

from __future__ import annotations

import math
import platform
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from spikingjelly.activation_based import base, layer
from torch import Tensor, nn

from neurons import NEURONS, ReLU, SpikingNeuron, ops

from .batch_norm import BatchNorm2d
from .recompute import recompute

HALVES = frozenset({torch.float16, torch.bfloat16})


def slow_halves(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()) -> frozenset[torch.dtype]:
    """The half precisions in which this processor convolves more slowly than in float32.

    Measured with torch 2.12: bfloat16 takes half of float32's time on AMD with AVX-512 BF16, but 1.5 times as long on
    Intel with AVX-512 BF16 and no AMX; float16 takes 13 to 23 times as long on that AMD.
    """
    try:
        flags = cpuinfo.read_text(encoding="utf-8") if machine == "x86_64" else None
    except OSError:
        flags = None
    if flags is None:
        return frozenset()
    wanted = {torch.bfloat16: "avx512_bf16" if "AuthenticAMD" in flags else "amx_bf16", torch.float16: "amx_fp16"}
    return frozenset(half for half, flag in wanted.items() if flag not in flags)


SLOW_HALVES = slow_halves()
HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks"),
)


def is_heard(layer: nn.Module) -> bool:
    """Whether a layer has hooks, or every module has, or its forward was replaced: then it must be called itself."""
    return (
        "forward" in vars(layer)
        or any(getattr(layer, name) for name in HOOKS[:4])
        or any(getattr(nn.modules.module, name) for name in HOOKS[4:])
    )


class Conv2d(layer.Conv2d):
    """Convolution over [T, N, C, H, W]; a static image (stride 0 in time) goes through it once for all T.

    Half precision on a CPU: the convolution itself is computed in float32 where that is faster (SLOW_HALVES), and where
    frames are smaller than the stride or the padding: of the weight's gradient, oneDNN leaves uninitialised what
    meets padding alone (torch 2.12, processors with AVX-512 BF16). What goes in and out stays in half precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, autocast = self.weight, self.bias, torch.is_autocast_enabled("cpu")
        half = torch.get_autocast_dtype("cpu") if autocast and x.dtype is not torch.float64 else x.dtype
        if x.device.type != "cpu" or half not in HALVES or weight.dtype not in (*HALVES, torch.float32):
            return self._convolve(x, weight, bias)
        if not (half in SLOW_HALVES or self._is_wider_than(x)):
            return self._convolve(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            wide = self._convolve(x.float(), weight.float(), None if bias is None else bias.float())
            return wide.to(half)

    def _is_wider_than(self, x: Tensor) -> bool:
        padding = self.padding if isinstance(self.padding, tuple) else (0, 0)  # "same" and "valid" are not used here
        return any(size < max(p, s) for size, p, s in zip(x.shape[-2:], padding, self.stride, strict=True) if p > 0)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[T, N, C, H, W], or one step [N, C, H, W] → its convolution, in the precision of x and weight.

        Raises:
            ValueError: if a sequence has other dimensions.
        """
        if self.step_mode == "s":
            return self._conv_forward(x, weight, bias)
        if x.dim() != 5:
            raise ValueError(f"a convolution of sequences takes [T, N, C, H, W], not {list(x.shape)}")
        if x.stride(0) == 0 and ops.is_still(x):  # asked here first: most are not, and need not leave the page
            y = self._conv_forward(x[0], weight, bias)
            return y.expand(x.shape[0], *y.shape)
        y = self._conv_forward(x.flatten(0, 1), weight, bias)  # [T, N, …] → [T·N, …]
        return y.unflatten(0, x.shape[:2])


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    """A 3×3 convolution without bias that keeps H and W, or divides them by its stride."""
    return Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False, step_mode="m")


def norm_and_fire(norm: nn.Module, neuron: nn.Module, x: Tensor) -> Tensor:
    """neuron(norm(x)), as one node of the graph where the neuron's back end can: x → spikes, [T, N, C, H, W]."""
    if not isinstance(norm, BatchNorm2d) or not isinstance(neuron, SpikingNeuron):
        return neuron(norm(x))
    if is_heard(norm) or is_heard(neuron) or type(norm).forward is not BatchNorm2d.forward:
        return neuron(norm(x))
    if norm.step_mode != "m" or not norm.is_scale_and_shift or not neuron.can_fuse(x):
        return neuron(norm(x))
    if not norm.training:
        return neuron.fire_scaled(x, norm.scale_and_shift(x.shape[0]))
    backend = neuron.backend_for(x)
    spikes, mean, var, n = neuron.fire_normed(x, norm.weight, norm.bias, norm.eps, norm.merged, norm.sum_over_ranks)
    values = x.numel() // x.shape[2] // mean.shape[0]
    norm.track(mean, var, values if norm.sum_over_ranks is None else n, backend)
    return spikes


@dataclass(frozen=True)
class Parts:
    """How a network makes its neurons, norms and dropouts, so that it need not know their options.

    Args:
        neuron: () → a neuron; ``v_threshold`` says where V_th is not 1.
        norm: C → a batch norm.
        drop_rate: probability of dropout; one mask per sequence, the same at every step.
    """

    neuron: Callable[..., nn.Module]
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

    unused_weights: tuple[str, ...] = ()
    """Endings of names that a published state dict holds and that no forward pass reads: not loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.step_mode = "m"
        self.checkpoint = False

    def supported_step_mode(self) -> tuple[str, ...]:
        """``"s"`` if all of its modules have it: ``set_step_mode`` asks the network first, and changes all or none."""
        parts = (module for module in self.modules() if isinstance(module, base.StepModule) and module is not self)
        return ("s", "m") if all("s" in part.supported_step_mode() for part in parts) else ("m",)

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

    def reset_states(self) -> None:
        """Every module's state back to its start: SpikingJelly's ``reset_net``, as torch.compile can follow it."""
        for module in self.modules():
            if isinstance(module, base.MemoryModule):
                module.reset()

    def forward(self, x_seq: Tensor) -> Tensor:
        """Input [T, N, C, H, W] → logits [T, N, K]; the prediction is the argmax of their sum over T.

        Raises:
            ValueError: if there are no steps.
        """
        check_steps(x_seq)
        self.reset_states()
        logits = self.run(x_seq) if self.step_mode == "m" else self._step_by_step(x_seq)
        self.reset_states()
        return logits

    def _replicate_for_data_parallel(self) -> NoReturn:
        """Refused: nn.DataParallel splits dimension 0, which is time, and each part would start without a state."""
        raise RuntimeError("nn.DataParallel splits the time steps, not the batch: start one process for each GPU, as "
                           "torchrun does")  # fmt: skip

    def _step_by_step(self, x_seq: Tensor) -> Tensor:
        """Logits [T, N, K]; NaN where a potential is not finite after the last step, as in step mode ``"m"``."""
        logits = torch.stack([self.run(x) for x in x_seq])
        neurons = (module for module in self.modules() if isinstance(module, base.MemoryModule))
        states = [state for neuron in neurons for state in neuron.memories() if isinstance(state, Tensor)]
        if not states:
            return logits
        finite = torch.stack([state.isfinite().all() for state in states]).all()
        return torch.where(finite, logits, math.nan)


def check_steps(x_seq: Tensor) -> None:
    """Refuse a sequence without steps.

    Raises:
        ValueError: with its shape.
    """
    if not x_seq.dim() or not x_seq.shape[0]:
        raise ValueError(f"a sequence [T, N, C, H, W] has one step or more, and this is {list(x_seq.shape)}")


def init_conv_kaiming(net: nn.Module) -> None:
    """Kaiming-normal (fan_out, relu) for every convolution; biases and the rest keep torch's own start."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
