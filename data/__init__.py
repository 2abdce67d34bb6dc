"""Data sets by name. Each is a function of :class:`DataOptions` that returns a :class:`Task`."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from .description import DESCRIPTIONS, OF_SOME, Build, Description
from .task import DataError, DataOptions, Split, Task

__all__ = [
    "DATASETS",
    "OF_SOME",
    "DataError",
    "DataOptions",
    "Description",
    "Split",
    "Task",
    "build_dataset",
    "describe",
]

# name → module.function of this package: read only where the set is built, so that no other set's libraries are needed
DATASETS: dict[str, str] = {
    "cifar10": "cifar.cifar10",
    "cifar100": "cifar.cifar100",
    "tiny_imagenet": "tiny_imagenet.tiny_imagenet",
    "DVSCIFAR10": "dvs_cifar10.dvs_cifar10",
    "DVSCIFAR10-pt": "dvs_cifar10_pt.dvs_cifar10_pt",
    "dvsgesture": "dvs_gesture.dvs_gesture",
    "fashion_mnist": "mnist.fashion_mnist",
    "fashion_mnist_32": "mnist.fashion_mnist_32",
    "mnist": "mnist.mnist",
    "digits": "digits.digits",
    "digits_dvs": "digits_dvs.digits_dvs",
    "digits_seq": "digits_seq.digits_seq",
}


def describe(name: str) -> Description:
    """What a data set (a key of :data:`DATASETS`) says of itself without its data."""
    return DESCRIPTIONS.get(builder(name), Description())


def builder(name: str) -> Build:
    """The function that builds a data set, from the module that holds it."""
    module, function = DATASETS[name].split(".")
    return getattr(import_module(f".{module}", __name__), function)


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
        by_lower = {known.lower(): known for known in DATASETS}
        near = [by_lower[low] for low in get_close_matches(name.lower(), by_lower, n=1)]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"unknown data set {name!r}{hint} (known: {', '.join(DATASETS)})")
    return builder(name)(DataOptions(Path(data_dir), T, seed, cutupmix_auto, download, event_split))
