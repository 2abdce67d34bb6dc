"""Scikit-learn's handwritten digits: 1,797 scans of 8×8, 10 classes. They come with the library: nothing is fetched."""

from __future__ import annotations

import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from .augment import normalise
from .batch_augment import BatchTransform
from .description import described
from .task import DataError, DataOptions, Split, Task, stratified_split

SCANS = "datasets/data/digits.csv.gz"  # in scikit-learn's folder
SCANS_SHAPE = (1797, 65)  # 64 pixels and the label
SIZE = 32
GREY_LEVELS = 16  # a scan's pixel counts the inked dots of a 4×4 block
MAX_SHIFT = 2  # pixels, in training
TEST_FRACTION = 0.2
SPLIT_SEED = 0  # the split is part of the data set: the run's seed does not move it
# of the training part, after up-sampling to 32×32, on the 0–1 scale
MEAN, STD = 0.3054, 0.3237
FEW_TESTED = 20  # scans of a test set that is cut down: of several classes

_tested: int | None = None  # how many there are; None: all


def test_few() -> None:
    """Cut the test set down, for the rest of this process."""
    global _tested
    _tested = FEW_TESTED


def load_digit_images() -> tuple[Tensor, Tensor]:
    """The scans, uint8 [1797, 8, 8] with values 0–16, and their labels, int64 [1797].

    They are read where scikit-learn keeps them: to import it takes 0.8 s of each start, two thirds of torch's own.

    Raises:
        DataError: if scikit-learn is not there, keeps them elsewhere, or its file is damaged.
    """
    library = find_spec("sklearn")
    if library is None or library.origin is None:
        raise DataError("the digits come with scikit-learn: pip install scikit-learn")
    file = Path(library.origin).parent / SCANS
    try:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
        if table.shape != SCANS_SHAPE:
            raise ValueError(f"a table of {tuple(table.shape)}, not {SCANS_SHAPE}")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        said = str(error).splitlines()[0]
        raise DataError(
            f"this scikit-learn has no digits at {file} ({said}); requirements.txt has one that does"
        ) from None
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].to(torch.int64)


def digit_split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the training and of the test scans: a fixed fifth of each class is the test set."""
    test, train = stratified_split(labels, TEST_FRACTION, SPLIT_SEED)
    return train, test[:_tested]


def upsample(scans: Tensor) -> Tensor:
    """Scans uint8 [M, 8, 8] of 0–16 → RGB images uint8 [M, 3, 32, 32] of 0–255."""
    grey = scans[:, None].float() * (255 / GREY_LEVELS)  # [M, 8, 8] → [M, 1, 8, 8]
    large = interpolate(grey, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return large.round().to(torch.uint8).repeat(1, 3, 1, 1)  # [M, 1, 32, 32] → [M, 3, 32, 32]


@described("", test_few=test_few)
def digits(options: DataOptions) -> Task:
    """The digits as 32×32 RGB images; training images are shifted a little, and not mirrored."""
    scans, labels = load_digit_images()
    images = upsample(scans)
    train, test = digit_split(labels)
    mean, std = (MEAN,) * 3, (STD,) * 3
    to_input = normalise(mean, std)
    return Task(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        in_channels=3,
        input_size=SIZE,
        is_sequence=False,
        train=Split(
            images.__getitem__,
            labels,
            v2.Compose([v2.RandomCrop(SIZE, padding=MAX_SHIFT), *to_input]),
            seed=options.seed,
            images=images,
            batch_transform=BatchTransform(mean, std, padding=MAX_SHIFT),
            indices=train,
        ),
        test=Split(
            images.__getitem__,
            labels,
            v2.Compose(to_input),
            seed=options.seed,
            images=images,
            batch_transform=BatchTransform(mean, std),
            indices=test,
        ),
        convention="scikit-learn's 1,797 digits, a fixed stratified fifth held out for testing",
    )
