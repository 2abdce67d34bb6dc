"""Whether every batch of an epoch can be trained on: found out before the run begins."""

from __future__ import annotations

from collections.abc import Sized
from copy import deepcopy
from typing import Protocol

import torch
from spikingjelly.activation_based.base import MemoryModule
from torch import nn

from .cli import UsageError


class Trainable(Protocol):
    """What must be known of a data set (see :class:`data.task.Task`)."""

    @property
    def train(self) -> Sized: ...
    @property
    def drop_last(self) -> bool: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def input_size(self) -> int: ...


def check_smallest_batch(
    net: nn.Module, task: Trainable, *, batch_size: int, T: int, world: int, shared_norm: bool
) -> None:
    """Refuse a batch size whose last batch leaves a rank, or a batch norm, with too little.

    Args:
        world: ranks that share a batch. shared_norm: batch norm sees the whole batch rather than a rank's share.

    Raises:
        UsageError: naming the batch size.
    """
    samples = len(task.train)
    last_batch = samples % batch_size if not task.drop_last else 0
    smallest = min(batch_size, last_batch or batch_size)
    count = "one" if smallest == 1 else smallest
    leaves = f"-b {batch_size} leaves a batch of {count} of the {samples} training samples"
    if smallest < world:
        raise UsageError(f"{leaves}, fewer than the {world} ranks; choose another -b, or fewer ranks")
    seen = smallest if shared_norm else smallest // world
    if seen == 1 and not takes_one_sample(net, T, task.in_channels, task.input_size):
        alone = "" if smallest == 1 else f", one for each of the {world} ranks"
        raise UsageError(
            f"{leaves}{alone}, and this network ends in maps of 1×1, where batch norm needs two values or more; "
            "choose another -b"
        )


def takes_one_sample(net: nn.Module, T: int, in_channels: int, input_size: int) -> bool:
    """Whether ``net`` can be trained on a batch of one; nothing is computed, only shapes."""
    probe = deepcopy(net).to("meta").train()
    for module in probe.modules():
        if isinstance(module, MemoryModule):
            module.backend = "torch"  # the others compute, on devices of their own
    try:
        probe(torch.empty(T, 1, in_channels, input_size, input_size, device="meta"))
    except ValueError:  # batch norm's: one value per channel has no variance
        return False
    return True
