"""Multiply-accumulates that the account of a network would leave out, so that it is refused rather than too small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

NAMED = 3  # modules in a message
aten = torch.ops.aten


class DenseWork:
    """Multiply-accumulates by the module in which they ran, as torch counts them: of convolutions, of products of
    matrices and vectors (einsum and attention among them), and of recurrent layers. Products of single values are none
    of these, and a neuron's operator counts nothing.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode, flop_registry  # here, because it imports Triton

        self.macs: Counter[nn.Module] = Counter()
        own = {aten.mv: _mv_flops, aten._trilinear: _bilinear_flops}  # what torch's counter does not know
        self._counter = FlopCounterMode(display=False, custom_mapping=own)
        attention = flop_registry[aten._scaled_dot_product_flash_attention]
        self._counter.flop_registry[aten._scaled_dot_product_flash_attention_for_cpu] = attention
        self._running: list[nn.Module] = []
        self._seen = 0

    @contextmanager
    def of(self, net: nn.Module) -> Iterator[None]:
        """Count what ``net`` does in here."""
        with ExitStack() as stack:
            for module in net.modules():
                stack.callback(module.register_forward_pre_hook(self._enter, prepend=True).remove)
                stack.callback(module.register_forward_hook(self._leave).remove)
            stack.enter_context(self._counter)
            yield

    def _enter(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._settle()
        self._running.append(module)

    def _leave(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.RNNBase):  # some are one operator, which hides their products
            weights = sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)
            self.macs[module] += inputs[0].numel() // inputs[0].shape[-1] * weights
            self._seen = self._counter.get_total_flops()
        self._settle()
        self._running.pop()

    def _settle(self) -> None:
        """What has been computed since the last call is of the innermost module that runs."""
        total = self._counter.get_total_flops()
        if self._running:
            self.macs[self._running[-1]] += (total - self._seen) // 2
        self._seen = total

    def check(self, names: Mapping[nn.Module, str], counted: Mapping[nn.Module, int], samples: int) -> None:
        """Refuse a network that did more than what is counted.

        Args:
            names: of its modules.
            counted: dense operations of each layer, over all samples. It may have done less: a still image only once.

        Raises:
            ValueError: saying how many multiply-accumulates are left out, and where they are.
        """
        more = {module: macs - counted.get(module, 0) for module, macs in self.macs.items()}
        outside = {module: macs for module, macs in more.items() if macs > 0}
        if not outside:
            return
        where = [f"{names[module] or 'the network'} ({type(module).__name__})" for module in outside]
        rest = f" and {len(where) - NAMED} more" if len(where) > NAMED else ""
        raise ValueError(
            f"{sum(outside.values()) / samples:,.0f} multiply-accumulates a sample are not of a Conv2d or Linear layer "
            f"and would not be counted: in {', '.join(where[:NAMED])}{rest}"
        )


def _mv_flops(a_shape: torch.Size, b_shape: torch.Size, out_shape: torch.Size | None = None) -> int:
    return 2 * a_shape[0] * a_shape[1]  # [M, K] @ [K]


def _bilinear_flops(
    a_shape: torch.Size, w_shape: torch.Size, b_shape: torch.Size, *sums: object, out_shape: torch.Size | None = None
) -> int:
    return 2 * a_shape[0] * w_shape.numel()  # [M, 1, K, 1], [1, O, K, L], [M, 1, 1, L]
