"""Training mode and evaluation mode of a network, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_evaluation(net: nn.Module) -> Iterator[None]:
    """Evaluation mode in here; behind it each module has its own mode again: some layer may be frozen in evaluation."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
