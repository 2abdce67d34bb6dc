"""Which samples make up each batch, and what a batch is: a sequence [T, N, C, H, W], time first, and its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .task import DataError, draw_seed, keyed_rng

EVALUATION = 0  # the epoch in a key where nothing is drawn at random
ADDRESSES = 2**63  # bytes: torch counts them in int64

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # mixup / cutmix on x [N, C, H, W] and its labels [N]


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

    def mixed(self, mix: Mix | None, step: int, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's batch ``step`` after ``mix``, whose draws are a function of (seed, epoch, step)."""
        if mix is None:
            return x, target
        with keyed_rng(self.seed, self.epoch, step, 1):
            x, target = mix(x, target)
        return x[self.extra :], target[self.extra :]

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


def to_sequence(x: Tensor, T: int) -> Tensor:
    """[N, C, H, W] → [T, N, C, H, W] by a view of stride 0; [N, T, C, H, W] → [T, N, C, H, W] transposed.

    Raises:
        DataError: if no memory has so many addresses; torch would speak of an overflow, here or in the first layer.
    """
    if x.dim() != 4:
        return x.transpose(0, 1)
    if T * x.numel() * x.element_size() >= ADDRESSES:
        raise DataError(f"-T {T} is more steps of {list(x.shape)} numbers than any memory holds; lower -T")
    return x.expand(T, *x.shape)
