"""What tests on small image data sets (see :mod:`data.made_up_images`) share, those of the script on them too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
from tests.helpers import assert_refused, run_training

CPU = torch.device("cpu")
QUICK = ["-dataset", "cifar10", "-model", "snn5_noAP", "-epochs", "1", "-T", "2", "-b", "8", "-no_download"]


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


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """CIFAR-10 and CIFAR-100 of 20 and 10 images to train on, for reading only."""
    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder, per_batch=4, test=4)
    write_cifar100(folder, train=10, test=4)
    return folder


@pytest.fixture
def train(tmp_path, data_dir):
    """Run QUICK with more options."""
    home = tmp_path / "cwd"
    home.mkdir()

    def run(*options: str | Path, **how):
        return run_training(*QUICK, "-data_dir", data_dir, *options, cwd=home, **how)

    return run


def refused(train, *options: str | Path, says: tuple[str, ...]) -> None:
    """Refused before anything was written where the run would have gone."""
    result = train(*options)
    assert_refused(result, *says)
    assert result.stdout == ""
