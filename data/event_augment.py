"""Augmentation of event frames: float32 [T, C, H, W] → the same shape, all T frames moved alike.

Every draw comes from torch's global CPU generator, which :class:`data.task.Split` keys by (seed, epoch, sample).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR


class RandomRoll(nn.Module):
    """Shift frames [T, C, H, W] by up to ``pixels`` in y and x; what leaves on one side comes in on the other."""

    def __init__(self, pixels: int):
        super().__init__()
        self.pixels = pixels

    def forward(self, frames: Tensor) -> Tensor:
        shifts = torch.randint(-self.pixels, self.pixels + 1, (2,)).tolist()
        return frames.roll(shifts, dims=(-2, -1))


def dvs_cifar10_train() -> nn.Module:
    """The published code's for ``DVSCIFAR10``: flip, then rotation by up to 15°.

    There the rotated frame grows to hold its corners (48 to 60 pixels), so that frames cannot be batched. Here it
    keeps its size.
    """
    return v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomRotation(15, interpolation=NEAREST, expand=False)])


def dvs_cifar10_pt_train() -> nn.Module:
    """The published code's for ``DVSCIFAR10-pt``: flip, roll by up to 5 px, then nothing, a rotation or a shear.

    After Li et al. (ECCV 2022), *Neuromorphic Data Augmentation*; rotation and shear by up to 30°, each as likely as
    nothing.
    """
    rotate = v2.RandomRotation(30, interpolation=NEAREST, expand=False)
    shear = v2.RandomAffine(0, shear=(-30, 30), interpolation=NEAREST)
    one_of = v2.RandomChoice([nn.Identity(), rotate, shear])
    return v2.Compose([v2.RandomHorizontalFlip(0.5), RandomRoll(5), one_of])


def roll_rotate_or_shear() -> nn.Module:
    """One of: roll by up to 5 px, rotation by up to 15°, shear by up to 8.5°; nothing is mirrored."""
    return v2.RandomChoice(
        [
            RandomRoll(5),
            v2.RandomRotation(15, interpolation=BILINEAR, expand=False),
            v2.RandomAffine(0, shear=(-8.5, 8.5), interpolation=BILINEAR),
        ]
    )
