"""Fashion-MNIST and MNIST in their original IDX files, held in memory as uint8 images.

Names, addresses and MD5s of the compressed files are those of :class:`torchvision.datasets.FashionMNIST`. Others have
compressed the same bytes again (the Debian and Ubuntu package ``dataset-fashion-mnist`` has), so what is verified here
are the uncompressed bytes:

- their MD5 is the official one: the official data set;
- another MD5 and as many images as the official file, or more: the file is broken, an error;
- fewer: a subset in the official layout, which is used, and named so in ``Task.convention``.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

from .augment import normalise
from .batch_augment import BatchTransform
from .description import described
from .download import DAMAGED, by_hand, fetch
from .idx_sources import DIGITS, FASHION, SOURCES, Source, find_folder
from .made_up_images import write_idx
from .task import DataError, DataOptions, Split, Task

SIZE = 28
TRAIN_SAMPLES, TEST_SAMPLES = 60_000, 10_000
IMAGES, LABELS = 0x803, 0x801  # what an IDX file of uint8 begins with: 3 dimensions, or 1
CLASSES = 10
TWO_BATCHES = ("-train_fraction", "0.2", "-b", "25")  # of the made-up images, a tenth of them held out


class IdxFolder:
    """The folder that holds a data set's four files, each as it is or compressed (``.gz``).

    Args:
        source: which data set. path: the folder; see :func:`find_folder`. download: False forbids the network.
    """

    def __init__(self, source: Source, path: Path, *, download: bool):
        self.source, self.path, self.download = source, path, download

    def part(self, first: int, samples: int) -> tuple[Tensor, Tensor, bool]:
        """Images uint8 [M, 1, 28, 28] and labels int64 [M] of files ``first`` and ``first`` + 1, and whether both are
        the official ones, of so many ``samples``.

        Raises:
            DataError: if a file is missing or broken.
        """
        image_bytes, image_path, is_official = self.read(first, 16 + samples * SIZE * SIZE)
        label_bytes, label_path, are_official = self.read(first + 1, 8 + samples)
        pixels = self.body(image_bytes, image_path, first, IMAGES, (SIZE, SIZE))
        targets = self.body(label_bytes, label_path, first + 1, LABELS, ())
        if len(pixels) != len(targets):
            raise self.broken(label_path, first + 1, f"it has {len(targets)} labels for {len(pixels)} images")
        if targets.max() >= CLASSES:
            raise self.broken(label_path, first + 1, f"a label is not a class 0–{CLASSES - 1}")
        for path, number, official in ((image_path, first, is_official), (label_path, first + 1, are_official)):
            if not official and len(pixels) >= samples:
                raise self.broken(path, number, "it has as many entries as the official file, but another MD5")
        images = torch.from_numpy(pixels.copy())[:, None]  # [M, 28, 28] → [M, 1, 28, 28]
        return images, torch.from_numpy(targets.astype(np.int64)), is_official and are_official

    def read(self, number: int, official_bytes: int) -> tuple[bytes, Path, bool]:
        """Uncompressed bytes of a file, its path, and whether the bytes are the official ones."""
        name, md5 = self.source.official.resources[number]
        path = self.path / name.removesuffix(".gz")
        if not path.is_file():
            path = self.path / name
            if not path.is_file():
                fetch(self.url(name), path, md5, self.remedy(), download=self.download)
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                content = file.read(official_bytes + 1)  # no more is unpacked than can be right
        except DAMAGED as error:
            raise self.broken(path, number, f"it cannot be read: {error}") from error
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        for other in SOURCES:
            if other is not self.source and digest in other.md5:
                here = self.source.title
                raise DataError(f"{path} is a file of {other.title} by its MD5, not of {here}; give {here}'s -data_dir")
        return content, path, digest == self.source.md5[number]

    def body(self, content: bytes, path: Path, number: int, magic: int, shape: tuple[int, ...]) -> np.ndarray:
        """What an IDX file holds: uint8 [M, *shape]. It begins with big-endian int32: magic number, M, *shape."""
        fields = 2 + len(shape)
        header = np.frombuffer(content[: len(content) // 4 * 4], ">i4")[:fields].tolist()
        if len(header) < fields or header[0] != magic:
            raise self.broken(path, number, f"it does not begin with {magic}, the magic number of its kind")
        if tuple(header[2:]) != shape:
            raise self.broken(path, number, f"its images are {'×'.join(map(str, header[2:]))}, not {SIZE}×{SIZE}")
        entries, count = np.frombuffer(content, np.uint8, offset=4 * fields), header[1]
        if count < 1 or len(entries) != count * int(np.prod(shape, dtype=int)):
            raise self.broken(path, number, f"it announces {count} entries, and holds {len(entries)} bytes of them")
        return entries.reshape(count, *shape)

    def url(self, name: str) -> str:
        return self.source.official.mirrors[0] + name

    def remedy(self) -> str:
        """What else may be done about a file that is missing or broken."""
        if self.source.package is None:
            return "compressed or not"
        return f"or install the Debian or Ubuntu package {self.source.package[0]}"

    def broken(self, path: Path, number: int, why: str) -> DataError:
        name, md5 = self.source.official.resources[number]
        how = by_hand(self.url(name), path.with_name(name), md5, self.remedy())
        return DataError(f"{path} is broken: {' '.join(why.split())}; move it away and {how}")


def read_idx(source: Source, options: DataOptions) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], str]:
    """Images uint8 [M, 1, 28, 28] and labels int64 [M] of the training and of the test part, and what they are.

    Raises:
        DataError: if a file is missing or broken.
    """
    folder = IdxFolder(source, find_folder(source, options.data_dir), download=options.download)
    train_images, train_labels, is_train_official = folder.part(0, TRAIN_SAMPLES)
    test_images, test_labels, is_test_official = folder.part(2, TEST_SAMPLES)
    convention = f"{len(train_labels):,} training / {len(test_labels):,} test images, nothing is augmented, "
    if is_train_official and is_test_official:
        convention += "the official files by their MD5"
    else:
        convention += f"a subset: sample counts differ from the official {TRAIN_SAMPLES:,} / {TEST_SAMPLES:,}"
    return (train_images, train_labels), (test_images, test_labels), convention


def _task(name: str, source: Source, options: DataOptions, border: int = 0) -> Task:
    (train_images, train_labels), (test_images, test_labels), convention = read_idx(source, options)
    train_images, test_images = pad(train_images, [border] * 4), pad(test_images, [border] * 4)
    mean, std = (source.mean,), (source.std,)
    transform, batch_transform = v2.Compose(normalise(mean, std)), BatchTransform(mean, std)

    def split(images: Tensor, labels: Tensor) -> Split:
        return Split(
            images.__getitem__,
            labels,
            transform,
            seed=options.seed,
            images=images,
            batch_transform=batch_transform,
        )

    return Task(
        name=name,
        classes=tuple(source.official.classes),
        in_channels=1,
        input_size=SIZE + 2 * border,
        is_sequence=False,
        train=split(train_images, train_labels),
        test=split(test_images, test_labels),
        convention=convention,
    )


def write_few(root: Path, folder: str) -> Path:
    """Made-up images, enough for a share of a share of each class."""
    return write_idx(root / folder, train=300, test=10)


@described("Fashion-MNIST", write=lambda root, T: write_few(root, FASHION.folders[0]), two_batches=TWO_BATCHES)
def fashion_mnist(options: DataOptions) -> Task:
    """Fashion-MNIST (Xiao et al. 2017): 28×28 grey images of 10 kinds of clothing, not augmented."""
    return _task("fashion_mnist", FASHION, options)


@described("Fashion-MNIST", write=lambda root, T: write_few(root, FASHION.folders[0]), two_batches=TWO_BATCHES)
def fashion_mnist_32(options: DataOptions) -> Task:
    """Fashion-MNIST with two black pixels on each side, for networks that halve five times (VGG)."""
    return _task("fashion_mnist_32", FASHION, options, border=2)


@described("MNIST", write=lambda root, T: write_few(root, DIGITS.folders[0]), two_batches=TWO_BATCHES)
def mnist(options: DataOptions) -> Task:
    """MNIST (LeCun et al. 1998): 28×28 grey images of handwritten digits, not augmented."""
    return _task("mnist", DIGITS, options)
