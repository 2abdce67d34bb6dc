"""The plain augmentation of :mod:`data.augment` for a whole batch, on the device that holds it: one gather, no loop.

What each sample draws is a row of uniform numbers that comes with it (see :mod:`data.resident`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2.functional import to_dtype

from .augment import CUTOUT_AREA, CUTOUT_ASPECT, CUTOUT_PROBABILITY

DRAWS = 9  # crop top and left; cutout yes or no, area, aspect, top, left and red; flip


@dataclass(frozen=True)
class BatchTransform:
    """Images uint8 [N, C, H, W] and draws [N, 9], uniform in [0, 1) → float32 [N, C, H, W], normalised.

    The same distributions as the transforms of :mod:`data.augment`; without options it normalises only.

    Args:
        mean, std: per channel, on the 0–1 scale.
        padding: crop at random from the image with so many zeros on each side.
        cutout: as :class:`data.augment.Cutout`.
        flip: mirror left to right with probability 0.5.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    cutout: bool = False
    flip: bool = False

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        if self.padding or self.cutout or self.flip:
            images = self._augment(images, draws)
        mean, std = _channel_constants(self.mean, self.std, images.device)
        return to_dtype(images, torch.float32, scale=True).sub_(mean).div_(std)  # v2.Normalize's own order

    def _augment(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images uint8 [N, C, H, W], cropped, cut out and mirrored by draws [N, 9] → uint8 [N, C, H, W]."""
        N, C, H, W = images.shape
        u = draws.unbind(1)
        y = torch.arange(H, device=images.device).expand(N, H)  # [N, H]
        x = torch.arange(W, device=images.device).expand(N, W)  # [N, W]
        if self.flip:  # the last transform comes first: which column is seen where
            x = torch.where(u[8][:, None] < 0.5, W - 1 - x, x)
        rows, columns = y, x
        if self.padding:
            shifts = 2 * self.padding + 1
            rows = y + _uniform_integer(u[0], shifts)[:, None]
            columns = x + _uniform_integer(u[1], shifts)[:, None]
            images = pad(images, [self.padding] * 4)
        sample = torch.arange(N, device=images.device)[:, None, None, None]
        channel = torch.arange(C, device=images.device)[:, None, None]
        out = images[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]  # [N, C, H, W]
        if self.cutout:
            inside = self._cutout_mask(u, y, x)[:, None]  # [N, 1, H, W]
            fill = torch.zeros(N, C, 1, 1, dtype=torch.uint8, device=images.device)
            fill[:, 0, 0, 0] = _uniform_integer(u[7], 256).to(torch.uint8)
            out = torch.where(inside, fill, out)
        return out

    @staticmethod
    def _cutout_mask(u: tuple[Tensor, ...], y: Tensor, x: Tensor) -> Tensor:
        """Which pixels the rectangle covers, bool [N, H, W]; ``y`` [N, H] and ``x`` [N, W] are their places."""
        side = x.shape[1]
        area = side * side * _uniform(u[3], *CUTOUT_AREA)
        aspect = _uniform(u[4], *CUTOUT_ASPECT)
        # ⌊√a⌋ is how many of 1, 2, … have k² ≤ a; the last bit of a square root depends on the processor
        squares = torch.arange(1, side + 1, device=x.device).square()
        h = (squares <= (area * aspect)[:, None]).sum(1)  # [N]
        w = (squares * aspect[:, None] <= area[:, None]).sum(1)
        top = _uniform_integer(u[5], side - h + 1)
        left = _uniform_integer(u[6], side - w + 1)
        in_rows = (y >= top[:, None]) & (y < (top + h)[:, None])  # [N, H]
        in_columns = (x >= left[:, None]) & (x < (left + w)[:, None])  # [N, W]
        is_cut = u[2] < CUTOUT_PROBABILITY
        return is_cut[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]


def _uniform(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _uniform_integer(u: Tensor, count: int | Tensor) -> Tensor:
    """Uniform in [0, 1) → integers 0 … count − 1, int64; even the largest u, 1 − 2⁻²⁴, does not round up to count."""
    return (u * count).long()


@lru_cache(maxsize=32)
def _channel_constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """``mean`` and ``std`` as [C, 1, 1] on the device: copied there once, not once a batch."""
    return tuple(torch.tensor(values, device=device)[:, None, None] for values in (mean, std))  # type: ignore[return-value]
