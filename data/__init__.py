"""Data sets by name. Each is a function of :class:`DataOptions` that returns a :class:`Task`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .cifar import cifar10, cifar100
from .description import DESCRIPTIONS, Description
from .digits import digits
from .digits_dvs import digits_dvs
from .digits_seq import digits_seq
from .dvs_cifar10 import dvs_cifar10
from .dvs_cifar10_pt import dvs_cifar10_pt
from .dvs_gesture import dvs_gesture
from .task import DataError, DataOptions, Split, Task
from .tiny_imagenet import tiny_imagenet

__all__ = ["DATASETS", "DataError", "DataOptions", "Description", "Split", "Task", "build_dataset", "describe"]

DATASETS: dict[str, Callable[[DataOptions], Task]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tiny_imagenet": tiny_imagenet,
    "DVSCIFAR10": dvs_cifar10,
    "DVSCIFAR10-pt": dvs_cifar10_pt,
    "dvsgesture": dvs_gesture,
    "digits": digits,
    "digits_dvs": digits_dvs,
    "digits_seq": digits_seq,
}


def describe(name: str) -> Description:
    """What a data set (a key of :data:`DATASETS`) says of itself without its data."""
    return DESCRIPTIONS.get(DATASETS[name], Description())


def build_dataset(
    name: str,
    data_dir: str | Path = "./data_dir",
    *,
    T: int = 6,
    seed: int = 2022,
    cutupmix_auto: bool = False,
    download: bool = True,
    event_split: str = "last",
) -> Task:
    """Build a data set by its name on the command line.

    Args:
        name: a key of :data:`DATASETS`.
        data_dir, T, seed, cutupmix_auto, download, event_split: see :class:`DataOptions`.

    Raises:
        DataError: if the name is unknown, or the data is missing or broken.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name](DataOptions(Path(data_dir), T, seed, cutupmix_auto, download, event_split))
