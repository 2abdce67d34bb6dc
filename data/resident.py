"""Data where the compute is: images that stay on the device and are augmented there, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .batch_order import BatchOrder, Mix, to_sequence
from .task import Split, draw_seed


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
        mix: Mix | None = None,
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
        from .batch_augment import DRAWS  # here: it brings torchvision, which takes longer than torch to import

        self.order.epoch, self.order.start = epoch, start
        generator = torch.Generator().manual_seed(draw_seed(self.split.seed, epoch, 2))
        draws = torch.rand(len(self._images), DRAWS, generator=generator).to(self.device)  # [M, 9]
        for step, positions in enumerate(self.order.batches(), start):
            index = self.split.indices[positions].to(self.device, non_blocking=True)  # [N]
            x, target = self._transform(self._images[index], draws[index]), self._labels[index]
            x, target = self.order.mixed(self.mix, step, x, target)
            yield to_sequence(x, self.T), target
