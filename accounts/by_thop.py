"""Parameters and MACs as thop counts them (Table 6, on the ReLU network)."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn


def thop_counts(net: nn.Module, x_seq: Tensor) -> tuple[int, int]:
    """MACs per sample and parameters, as thop counts them (Table 6, on the ReLU network).

    thop looks a layer's rule up by its exact class and knows no time axis, so each subclass gets its parent's rule,
    on [T·N, C, H, W]. It leaves buffers behind in what it counts: here that is a copy.

    Args:
        net: the network; left untouched.
        x_seq: any input [T, N, C, H, W].
    """
    import thop  # here, because it imports distutils, which Python 3.12 has only through setuptools
    from thop.profile import register_hooks

    def per_frame(rule: Callable) -> Callable:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rule(module, (_merge_time(inputs[0]),), _merge_time(output))

        return count

    leaves = [module for module in net.modules() if not list(module.children())]
    rules = {type(m): per_frame(rule) for m in leaves for kind, rule in register_hooks.items() if isinstance(m, kind)}
    macs, params = thop.profile(copy.deepcopy(net), (x_seq,), custom_ops=rules, verbose=False)
    return int(macs) // x_seq.shape[1], int(params)


def _merge_time(x: Tensor) -> Tensor:
    return x.flatten(0, 1) if x.dim() == 5 else x  # [T, N, C, H, W] → [T·N, C, H, W]
