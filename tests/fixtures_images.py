"""What the tests of small image data sets (see :mod:`data.made_up_images`) share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from data import DataError, build_dataset
from data.loader import build_loader
from data.made_up_images import (  # noqa: F401 - the writers, for the tests
    class_images,
    write_cifar10,
    write_cifar100,
    write_tiny_imagenet,
)

CPU = torch.device("cpu")


def load(name, data_dir, **options):
    """The small data set of that name."""
    return build_dataset(name, data_dir, download=False, seed=1, **options)


def loader(task, split, *, batch_size=8, T=2, device=CPU, **options):
    return build_loader(split, batch_size=batch_size, T=T, device=device, seed=1, mix=task.mix, **options)


def one_epoch(loader, epoch=1, start=0):
    """x [M, C, H, W] and targets of all batches of an epoch."""
    batches = list(loader.epoch(epoch, start))
    return torch.cat([x_seq[0] for x_seq, _ in batches]), torch.cat([target for _, target in batches])


def error_of(call: Callable[..., object], *args: object, **options: object) -> str:
    """The one line that a DataError says."""
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
