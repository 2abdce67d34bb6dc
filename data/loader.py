"""From a split to batches on the device, read sample by sample, and the loader that fits a split."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .batch_order import BatchOrder, Mix, to_sequence
from .resident import ResidentLoader
from .task import DataError, Split

WORTH_WORKERS = 2000  # samples an epoch below which starting processes costs more than it saves


class Loader:
    """Batches (x_seq [T, N, C, H, W], target) on the device, from a split that is read sample by sample.

    Args:
        split: what to read.
        order: which samples make up each batch.
        T: time steps; an image is shown at each of them by a view of stride 0, without a copy.
        device: where the batches go.
        workers: processes that load and transform; 0 loads in this one.
        mix: mixup / cutmix on the batch; its draws are a function of (seed, epoch, batch).
    """

    def __init__(
        self,
        split: Split,
        order: BatchOrder,
        *,
        T: int,
        device: torch.device,
        workers: int = 0,
        mix: Mix | None = None,
    ):
        self.split, self.order, self.T, self.device, self.mix = split, order, T, device, mix
        with without_advice():
            self._samples = DataLoader(
                split,
                batch_sampler=order,
                num_workers=workers,
                pin_memory=device.type == "cuda",
                persistent_workers=workers > 0,
            )

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass, from batch ``start`` on (a resume in mid-epoch neither repeats nor skips one).

        Yields:
            x_seq, float32 [T, N, C, H, W], and target, int64 [N] or soft labels [N, K].
        """
        self.order.epoch, self.order.start = epoch, start
        for step, (x, target) in enumerate(self._read(), start):
            x, target = self.order.mixed(self.mix, step, x, target)
            x = x.to(self.device, non_blocking=True)
            yield to_sequence(x, self.T), target.to(self.device, non_blocking=True)

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            with without_advice():
                samples = iter(self._samples)
            yield from samples
        except DataError as error:  # torch hands a worker's on with the text of its traceback, the message last
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None


@contextmanager
def without_advice() -> Iterator[None]:
    """Leave out torch's advice on more workers than processors: they are what was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def processors() -> int:
    """How many this process may use: a container or a batch system may give it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_loader(
    split: Split,
    *,
    batch_size: int,
    T: int,
    device: torch.device,
    seed: int,
    shuffle: bool,
    drop_last: bool = False,
    workers: int | None = 0,
    mix: Mix | None = None,
    rank: int = 0,
    world: int = 1,
    resident: bool | None = None,
) -> Loader | ResidentLoader:
    """The loader that fits a split: on the device where it can be, through workers where not.

    Args:
        split: what to read.
        batch_size: the global batch, over all ranks.
        T, device, mix: see :class:`Loader`.
        workers: processes that load, for a split that does not live on the device; None chooses: none for less
            than ``WORTH_WORKERS`` samples, else one for each processor that a rank may use, up to 8.
        seed, shuffle, drop_last, rank, world: see :class:`data.batch_order.BatchOrder`.
        resident: False reads through the workers anyway, True insists on the device.

    Raises:
        ValueError: if ``resident`` is True and the split cannot stay on the device.
    """
    order = BatchOrder(
        len(split),
        batch_size,
        seed=seed,
        shuffle=shuffle,
        drop_last=drop_last,
        rank=rank,
        world=world,
        pairs=mix is not None,
    )
    if resident is None:
        resident = split.images is not None and split.batch_transform is not None
    if resident:
        return ResidentLoader(split, order, T=T, device=device, mix=mix)
    if workers is None:
        workers = min(8, max(1, processors() // world)) if len(split) >= WORTH_WORKERS else 0
    return Loader(split, order, T=T, device=device, workers=workers, mix=mix)
