"""Augmentation, sample by sample: of images, uint8 [C, H, W] → float32 [C, H, W], normalised, as in the paper; and of
event frames, float32 [T, C, H, W] → the same shape, all T frames moved alike.

Every draw comes from torch's global CPU generator, which :class:`data.task.Split` keys by (seed, epoch, sample).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms import AutoAugment, InterpolationMode, TrivialAugmentWide, v2

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
CUTOUT_PROBABILITY = 0.5
CUTOUT_AREA = (0.02, 0.4)  # of the image
CUTOUT_ASPECT = (0.4, 2.5)  # height / width


class Cutout(nn.Module):
    """One rectangle of a random red over a square uint8 image [3, H, W], with probability 0.5.

    As torchtoolbox 0.1.8.2's transform of that name, which the published results were made with: area uniform in
    0.02–0.4 of the image, aspect h/w uniform in 0.4–2.5, sides rounded down, place uniform among those where it fits,
    filled with (c, 0, 0), c of 0–255: an integer pasted into an RGB image is its red. It always fits, so nothing is
    drawn again: h² = area·aspect ≤ 0.4·2.5·H² = H². (DeVries & Taylor 2017's Cutout is another: a black square of a
    fixed size.)
    """

    def forward(self, image: Tensor) -> Tensor:
        if torch.rand(()) >= CUTOUT_PROBABILITY:
            return image
        side = image.shape[-1]
        area = side * side * torch.empty(()).uniform_(*CUTOUT_AREA).item()
        aspect = torch.empty(()).uniform_(*CUTOUT_ASPECT).item()
        h = math.floor(math.sqrt(area * aspect))
        w = math.floor(math.sqrt(area / aspect))
        top = int(torch.randint(side - h + 1, ()))
        left = int(torch.randint(side - w + 1, ()))
        fill = torch.zeros(3, 1, 1, dtype=torch.uint8)
        fill[0] = torch.randint(256, ())
        return v2.functional.erase(image, top, left, h, w, fill)


def normalise(mean: Sequence[float], std: Sequence[float]) -> list[nn.Module]:
    """uint8 [C, H, W] of 0–255 → float32, (x/255 − mean)/std per channel."""
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def by_pillow(policy: nn.Module) -> list[nn.Module]:
    """A policy that works on Pillow images, uint8 [C, H, W] → the same.

    The published code's images are Pillow's. Of a tensor torchvision takes other pixels where it shears to the nearest
    (8% of them at 64×64), and blends the edges of what it turns or shears bilinearly with black.
    """
    return [v2.ToPILImage(), policy, v2.PILToTensor()]


def cifar_train(size: int, to_input: list[nn.Module], *, cutupmix_auto: bool) -> nn.Module:
    """Crop of a 4-pixel zero padding, Cutout, flip; for the rows marked * flip, TrivialAugmentWide, erasing 0.1."""
    flip = v2.RandomHorizontalFlip(0.5)
    if cutupmix_auto:
        trivial = by_pillow(TrivialAugmentWide(interpolation=BILINEAR))
        return v2.Compose([flip, *trivial, *to_input, v2.RandomErasing(p=0.1)])
    return v2.Compose([v2.RandomCrop(size, padding=4), Cutout(), flip, *to_input])


def tiny_imagenet_train(to_input: list[nn.Module], *, cutupmix_auto: bool) -> nn.Module:
    """Flip; for the paper's number AutoAugment (its ImageNet policy) too."""
    flip = v2.RandomHorizontalFlip(0.5)
    return v2.Compose([flip, *by_pillow(AutoAugment()), *to_input] if cutupmix_auto else [flip, *to_input])


def mixup_or_cutmix(num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Per batch mixup(0.2) or cutmix(1.0), each as likely: (x [N, C, H, W], labels [N]) → (x, soft labels [N, K])."""
    return v2.RandomChoice(
        [v2.MixUp(alpha=0.2, num_classes=num_classes), v2.CutMix(alpha=1.0, num_classes=num_classes)]
    )


# ---- event frames


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
