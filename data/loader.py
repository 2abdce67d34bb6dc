"""From a split to batches on the device: sequences [T, N, C, H, W], time first, and their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from .task import DataError, Split, draw_seed, keyed_rng

EVALUATION = 0  # the epoch part of a key where nothing is drawn


class BatchOrder(Sampler):
    """Batches of (epoch, position) keys: the order is a function of (seed, epoch).

    With several ranks, each takes its slice of every global batch, so that together they see what one would.

    Args:
        size: samples in the split.
        batch_size: the global batch.
        shuffle: a new order each epoch.
        drop_last: leave out the last partial batch.
        rank, world: this process, and how many there are.
        pairs: each sample is mixed with the one before it in the global batch (mixup, cutmix), so that a rank's
            slice begins with the sample before its own.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        pairs: bool = False,
    ):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world = rank, world
        self.extra = int(pairs and world > 1)  # samples of another rank at the start of a slice
        self.epoch, self.start = EVALUATION, 0

    def order(self) -> Tensor:
        """Positions of this epoch, in the order they are seen, int64 [M]."""
        if not self.shuffle:
            return torch.arange(self.size)
        generator = torch.Generator().manual_seed(draw_seed(self.seed, self.epoch))
        return torch.randperm(self.size, generator=generator)

    def batches(self) -> Iterator[Tensor]:
        """This rank's positions, batch by batch, from batch ``start`` on; none of a batch in which it has no part."""
        for batch in self.order().split(self.batch_size)[self.start : len(self)]:
            own = batch.tensor_split(self.world)[self.rank]
            if self.extra:  # roll makes the last sample the one before the first
                first = sum(map(len, batch.tensor_split(self.world)[: self.rank]))
                own = torch.cat([batch[[first - 1]], own])
            if len(own):
                yield own

    def weight(self, step: int) -> float:
        """W·n/N: this rank's n of the N samples of batch ``step``, so that the mean over W ranks is that over N."""
        samples = min(self.batch_size, self.size - step * self.batch_size)
        own = samples // self.world + (self.rank < samples % self.world)
        return self.world * own / samples

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches():
            yield [(self.epoch, position) for position in batch.tolist()]

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1


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
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ):
        self.split, self.order, self.T, self.device, self.mix = split, order, T, device, mix
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
            if self.mix is not None:
                with keyed_rng(self.order.seed, epoch, step, 1):
                    x, target = (mixed[self.order.extra :] for mixed in self.mix(x, target))
            x = x.to(self.device, non_blocking=True)
            yield to_sequence(x, self.T), target.to(self.device, non_blocking=True)

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            yield from self._samples
        except DataError as error:  # torch hands a worker's on with the text of its traceback, the message last
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None


def to_sequence(x: Tensor, T: int) -> Tensor:
    """[N, C, H, W] → [T, N, C, H, W] by a view of stride 0; [N, T, C, H, W] → [T, N, C, H, W] transposed."""
    return x.expand(T, *x.shape) if x.dim() == 4 else x.transpose(0, 1)
