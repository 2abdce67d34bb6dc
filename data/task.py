"""What a data set tells the rest of the project: its splits, and what a network must know to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class DataError(Exception):
    """Data that is missing or broken: one line that names the file, where it belongs and what to do."""


@dataclass(frozen=True)
class DataOptions:
    """What the command line may ask of a data set (each family uses what applies to it).

    Args:
        data_dir: folder that holds the data sets.
        T: number of frames that an event stream is integrated to; images ignore it.
        seed: seed of every random draw.
        cutupmix_auto: the paper's augmented rows (*).
        download: fetch what is missing, where the source allows it.
        event_split: ``"last"`` (the paper: files 900–999 of each class are the test set) or
            ``"first"`` (files 0–99 are), for DVS-CIFAR10.
    """

    data_dir: Path
    T: int = 6
    seed: int = 2022
    cutupmix_auto: bool = False
    download: bool = True
    event_split: str = "last"


def draw_seed(*key: int) -> int:
    """One 64-bit seed from a tuple of integers, e.g. (seed, epoch, sample index)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def keyed_rng(*key: int):
    """Run a block with torch's CPU generator seeded by ``key``; the generator's state is restored after.

    So a random transform's draws depend on the key alone: not on workers, ranks or a resume.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(draw_seed(*key))
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Split(Dataset):
    """Samples addressed by (epoch, index); random draws are a function of (seed, epoch, index).

    Args:
        load: index → sample: an image, uint8 [C, H, W], or event frames, float32 [T, C, H, W].
        labels: class of each sample, known without loading any.
        transform: sample → float32 tensor of the same layout; may draw from torch's global generator.
        seed: first part of the key of every draw.
        images: all images as uint8 [M, C, H, W] where they fit in memory, for :mod:`data.resident`.
        batch_transform: the same augmentation for a whole batch on its device (see :mod:`data.resident`).
        indices: the samples that belong to this split (default: all).
    """

    def __init__(
        self,
        load: Callable[[int], Tensor],
        labels: Sequence[int] | Tensor,
        transform: Callable[[Tensor], Tensor],
        *,
        seed: int,
        images: Tensor | None = None,
        batch_transform: Callable[[Tensor, Tensor], Tensor] | None = None,
        indices: Tensor | None = None,
    ):
        self.load, self.transform, self.seed = load, transform, seed
        self.all_labels = torch.as_tensor(labels, dtype=torch.int64)
        self.images, self.batch_transform = images, batch_transform
        self.indices = torch.arange(len(self.all_labels)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        """Raises :class:`DataError`, naming the sample, if it is not finite."""
        epoch, position = key
        index = int(self.indices[position])
        with keyed_rng(self.seed, epoch, index):
            sample = self.transform(self.load(index))
        if not isfinite(sample.sum()):  # a sum is what costs least, and takes over what is not finite
            raise DataError(f"sample {index} holds a number that is not finite: its file, or its transform, is broken")
        return sample, int(self.all_labels[index])

    @property
    def labels(self) -> Tensor:
        """Class of each sample of this split, int64 [M]."""
        return self.all_labels[self.indices]

    def subset(self, positions: Tensor) -> Split:
        """The samples at ``positions``; each keeps its own draws."""
        return self._with(indices=self.indices[positions])

    def seen_as(self, other: Split) -> Split:
        """The same samples through another split's transform (training images as the test set sees them)."""
        return self._with(transform=other.transform, batch_transform=other.batch_transform)

    def _with(self, **changes) -> Split:
        fields = {
            "load": self.load,
            "labels": self.all_labels,
            "transform": self.transform,
            "seed": self.seed,
            "images": self.images,
            "batch_transform": self.batch_transform,
            "indices": self.indices,
        }
        return Split(**{**fields, **changes})


@dataclass(frozen=True)
class Task:
    """A data set as the training script sees it.

    Args:
        name: its name on the command line.
        classes: class names, in label order.
        in_channels: C.
        input_size: H = W.
        is_sequence: a sample is [T, C, H, W] (events) rather than an image [C, H, W] shown at every step.
        train, test: the two splits.
        val: held out of the training set by ``-val_split``; the best epoch is then chosen on it.
        mix: batch augmentation on (x, labels) → (x, soft labels [N, K]), or None (mixup / cutmix).
        drop_last: drop the last partial training batch.
        convention: the split's convention and source, in a few words, for the log.
    """

    name: str
    classes: tuple[str, ...]
    in_channels: int
    input_size: int
    is_sequence: bool
    train: Split
    test: Split
    val: Split | None = None
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    drop_last: bool = False
    convention: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> dict[str, Any]:
        """What a network must know of it: num_classes, in_channels, input_size."""
        return {"num_classes": self.num_classes, "in_channels": self.in_channels, "input_size": self.input_size}

    def hold_out(self, fraction: float, seed: int) -> Task:
        """Move a stratified ``fraction`` of the training set to ``val``.

        Raises:
            DataError: if a class would be left without a sample on either side.
        """
        held, kept = stratified_split(self.train.labels, fraction, seed)
        self._check_classes(f"-val_split {fraction}", "to validate with", held)
        self._check_classes(f"-val_split {fraction}", "to train on", kept)
        return replace(self, train=self.train.subset(kept), val=self.train.subset(held).seen_as(self.test))

    def keep_fraction(self, fraction: float, seed: int) -> Task:
        """Train on a stratified ``fraction`` of the training set only.

        Raises:
            DataError: if a class would be left without a sample.
        """
        kept, _ = stratified_split(self.train.labels, fraction, seed)
        self._check_classes(f"-train_fraction {fraction}", "to train on", kept)
        return replace(self, train=self.train.subset(kept))

    def _check_classes(self, option: str, use: str, positions: Tensor) -> None:
        if lacking := classes_lacking(self.train.labels, positions):
            raise DataError(f"{option} leaves no samples of {self.classes[lacking[0]]!r} {use} ({len(lacking)} such "
                            f"classes): {self.name} has {len(self.train)} samples")  # fmt: skip


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of a random ``fraction`` of each class, and of the rest; both in ascending order."""
    generator = torch.Generator().manual_seed(draw_seed(seed, 1))
    first = torch.zeros(len(labels), dtype=torch.bool)
    for k in labels.unique():
        of_class = (labels == k).nonzero().flatten()
        order = torch.randperm(len(of_class), generator=generator)
        first[of_class[order[: round(fraction * len(of_class))]]] = True
    return first.nonzero().flatten(), (~first).nonzero().flatten()


def classes_lacking(labels: Tensor, positions: Tensor) -> list[int]:
    """The classes of which no sample is among these positions."""
    return sorted({*labels.tolist()} - {*labels[positions].tolist()})
