"""Data where the compute is: images that stay on the device and are augmented there, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .batch_augment import DRAWS
from .loader import BatchOrder, Loader, to_sequence
from .task import Split, draw_seed, keyed_rng

WORTH_WORKERS = 2000  # samples an epoch below which starting processes costs more than it saves


class ResidentLoader:
    """Batches (x_seq [T, N, C, H, W], target) as :class:`data.loader.Loader` yields them, with no copy per batch.

    Each epoch has one table of uniform draws with a row for every image: a function of (seed, epoch, sample index),
    whatever the batch size, the number of ranks and the batch that the epoch is resumed at.

    Args:
        split: one with ``images`` and ``batch_transform``.
        order: which samples make up each batch.
        T: time steps; an image is shown at each of them by a view of stride 0, without a copy.
        device: where the images live.
        mix: mixup / cutmix on the batch; its draws are a function of (seed, epoch, batch).

    Raises:
        ValueError: if the split's images are not in memory, or have no batch transform.
    """

    def __init__(
        self,
        split: Split,
        order: BatchOrder,
        *,
        T: int,
        device: torch.device,
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ):
        if split.images is None or split.batch_transform is None:
            raise ValueError("this split cannot stay on the device: it is loaded and transformed sample by sample")
        self.split, self.order, self.T, self.device, self.mix = split, order, T, device, mix
        self._images, self._transform = split.images.to(device), split.batch_transform
        self._labels = split.all_labels.to(device)

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass, from batch ``start`` on (a resume in mid-epoch neither repeats nor skips one).

        Yields:
            x_seq, float32 [T, N, C, H, W], and target, int64 [N] or soft labels [N, K].
        """
        self.order.epoch, self.order.start = epoch, start
        generator = torch.Generator().manual_seed(draw_seed(self.split.seed, epoch, 2))
        draws = torch.rand(len(self._images), DRAWS, generator=generator).to(self.device)  # [M, 9]
        for step, positions in enumerate(self.order.batches(), start):
            index = self.split.indices[positions].to(self.device, non_blocking=True)  # [N]
            x, target = self._transform(self._images[index], draws[index]), self._labels[index]
            if self.mix is not None:
                with keyed_rng(self.order.seed, epoch, step, 1):
                    x, target = (mixed[self.order.extra :] for mixed in self.mix(x, target))
            yield to_sequence(x, self.T), target


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
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    rank: int = 0,
    world: int = 1,
    resident: bool | None = None,
) -> Loader | ResidentLoader:
    """The loader that fits a split: on the device where it can be, through workers where not.

    Args:
        split: what to read.
        batch_size: the global batch, over all ranks.
        T, device, mix: see :class:`data.loader.Loader`.
        workers: processes that load, for a split that does not live on the device; None chooses: none for less
            than ``WORTH_WORKERS`` samples, else one a core, up to 8.
        seed, shuffle, drop_last, rank, world: see :class:`data.loader.BatchOrder`.
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
        workers = min(8, os.cpu_count() or 1) if len(split) >= WORTH_WORKERS else 0
    return Loader(split, order, T=T, device=device, workers=workers, mix=mix)
