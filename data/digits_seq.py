"""The digits shown piece by piece, in reading order: no step shows the whole digit, so memory over T is needed.

The idea is sequential MNIST's (Le et al. 2015), kept in two dimensions so that every network can read it: a frame has
the size of the ``digits`` images and shows, where they stand in the image, 64/T of its 8×8 blocks of 4×4 pixels (a
block is a pixel of the scan); the rest of the frame is blank. Row by row with T = 8, half rows with 16, pixel by pixel
with 64. Together the T frames are the image, each pixel shown once.

What is shown is the difference from the mean training image, and blank is 0. So the mean over a batch is 0 at every
step: batch norm takes its statistics per step in training and has one running mean for all steps in evaluation, which
fits no step where the steps' means differ (``mlp3``: 94% in training, 68% on the test set, with black for blank).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from .augment import normalise
from .batch_augment import BatchTransform
from .description import described
from .digits import MAX_SHIFT, SIZE, STD, digit_split, load_digit_images, test_few, upsample
from .task import DataError, DataOptions, Split, Task

BLOCKS = 8  # a frame has 8×8 of them
STEPS = (1, 2, 4, 8, 16, 32, 64)  # T that divides the 64 blocks
BLACK = 0.0  # of the 0–1 scale: centring is per pixel here, not per channel


@described("digits piece by piece", test_few=test_few)
def digits_seq(options: DataOptions) -> Task:
    """``digits_seq``: T frames of 32×32, one channel; the scans are split, and shifted in training, as in ``digits``.

    Raises:
        DataError: if T does not divide the 64 pixels of a scan.
    """
    if options.T not in STEPS:
        raise DataError(
            f"digits_seq shows the 64 pixels of a scan in equal pieces, and -T {options.T} does not divide them; take "
            f"-T 8 (row by row), 64 (pixel by pixel), or another of {', '.join(map(str, STEPS))}"
        )
    scans, labels = load_digit_images()
    images = upsample(scans)[:, :1]  # [M, 1, 32, 32]
    train, test = digit_split(labels)
    mean_image = images[train].float().mean(0) / 255 / STD  # [1, 32, 32]
    show = PieceByPiece(options.T, mean_image)
    to_input = [*normalise((BLACK,), (STD,)), show]
    return Task(
        name="digits_seq",
        classes=tuple(str(digit) for digit in range(10)),
        in_channels=1,
        input_size=SIZE,
        is_sequence=True,
        train=Split(
            images.__getitem__,
            labels,
            v2.Compose([v2.RandomCrop(SIZE, padding=MAX_SHIFT), *to_input]),
            seed=options.seed,
            images=images,
            batch_transform=ShownBatch(BatchTransform((BLACK,), (STD,), padding=MAX_SHIFT), show),
            indices=train,
        ),
        test=Split(
            images.__getitem__,
            labels,
            v2.Compose(to_input),
            seed=options.seed,
            images=images,
            batch_transform=ShownBatch(BatchTransform((BLACK,), (STD,)), show),
            indices=test,
        ),
        convention=f"scikit-learn's 1,797 digits, {BLOCKS**2 // options.T} of 64 pixels a step, "
        "a fixed stratified fifth held out for testing",
    )


class PieceByPiece(nn.Module):
    """Images [*, 1, H, W] → sequences [*, T, 1, H, W]: frame t is the t-th of T pieces of image − mean, 0 elsewhere.

    Args:
        mean_image: [1, H, W], on the images' scale.
    """

    def __init__(self, T: int, mean_image: Tensor):
        super().__init__()
        self.masks, self.mean_image = piece_masks(T), mean_image

    def forward(self, images: Tensor) -> Tensor:
        if self.masks.device != images.device:  # moved there once, not once a batch
            self.masks, self.mean_image = self.masks.to(images.device), self.mean_image.to(images.device)
        return (images - self.mean_image).unsqueeze(-4) * self.masks


def piece_masks(T: int) -> Tensor:
    """Which pixels each step shows, 0 or 1, float32 [T, 1, 32, 32]."""
    block = torch.arange(BLOCKS**2).view(BLOCKS, BLOCKS)  # reading order
    step = block // (BLOCKS**2 // T)
    of_pixel = step.repeat_interleave(SIZE // BLOCKS, 0).repeat_interleave(SIZE // BLOCKS, 1)  # [8, 8] → [32, 32]
    return (of_pixel == torch.arange(T)[:, None, None]).float()[:, None]


@dataclass(frozen=True)
class ShownBatch:
    """A batch transform, and its result shown piece by piece: uint8 [N, C, H, W] → float32 [N, T, C, H, W]."""

    transform: BatchTransform
    show: PieceByPiece

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        return self.show(self.transform(images, draws))
