"""CIFAR-10 and CIFAR-100 in their official Python layout, held in memory as uint8 images.

Which files there are, with their MD5s and addresses, is taken from :class:`torchvision.datasets.CIFAR10`. They are
pickles, and a pickle may run any code when it is opened. Here an unpickler that rebuilds arrays and plain values, and
refuses all else, opens them; so a file need not be the official one to be read safely:

- every MD5 is the official one: the official data set;
- a file has another MD5 and as many images as the official one, or more: it is broken, an error;
- it has fewer: a subset in the official layout, which is used, and named so in ``Task.convention``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms import v2

from .augment import cifar_train, mixup_or_cutmix, normalise
from .batch_augment import BatchTransform
from .description import described
from .download import by_hand, fetch, unpack
from .home import find_home, holds
from .made_up_images import write_cifar10, write_cifar100
from .task import DataError, DataOptions, Split, Task

SIZE = 32
TRAIN_SAMPLES, TEST_SAMPLES = 50_000, 10_000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of CIFAR-10, on the 0–1 scale, as published

# numpy's own functions for rebuilding a pickled array, under the names that NumPy 1 and 2 wrote into files
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_FROM_BUFFER = np.empty(1).__reduce_ex__(5)[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
}
# what opening a damaged pickle may raise
PICKLE_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    ImportError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)

Constants = tuple[float, float, float]


class ArrayUnpickler(pickle.Unpickler):
    """Opens pickles of plain values and numpy arrays; anything else in them is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data has no use for")
        return _ALLOWED[module, name]


@dataclass(frozen=True)
class CifarArrays:
    """What the files hold: images uint8 [M, 3, 32, 32] and labels int64 [M] of each part, and the class names."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    is_official: bool


def read_cifar(source: type[CIFAR10], data_dir: Path, *, download: bool) -> CifarArrays:
    """Read the files of ``source`` in ``data_dir``: the unpacked folder, else the archive, else a download of it.

    Args:
        source: torchvision's class, for the names, MD5s and address of its files.
        data_dir: holds the archive or the folder unpacked from it; see :func:`find_home`.
        download: False forbids the network.

    Raises:
        DataError: if a file is missing or broken; it names the file, its MD5, where it belongs and where to get it.
    """
    is_home = holds(source.meta["filename"])
    folder = find_home(data_dir, [source.base_folder], is_home)
    archive = find_home(data_dir, [""], holds(source.filename)) / source.filename
    unpacked = f"it unpacks to {archive.parent / source.base_folder}"
    if not folder.is_dir():
        folder = archive.parent / source.base_folder
        fetch(source.url, archive, source.tgz_md5, unpacked, download=download)
        unpack(archive, folder, is_home)
    files = _Files(folder, by_hand(source.url, archive, source.tgz_md5, unpacked))
    known = 100 if issubclass(source, CIFAR100) else 10
    classes = files.class_names(source.meta["filename"], source.meta["md5"], source.meta["key"], known)
    train, is_train_official = files.part(source.train_list, TRAIN_SAMPLES, known)
    test, is_test_official = files.part(source.test_list, TEST_SAMPLES, known)
    return CifarArrays(train, test, classes, is_train_official and is_test_official)


@dataclass(frozen=True)
class _Files:
    """The unpacked folder, and how to replace it."""

    folder: Path
    how: str

    def open(self, name: str, md5: str) -> tuple[dict[str, Any], bool]:
        """What a pickle holds, and whether its MD5 is the official one."""
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"{path} (MD5 {md5}) is missing; move {self.folder} away and {self.how}")
        content = path.read_bytes()
        try:
            entries = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        except PICKLE_ERRORS as error:
            raise self.broken(name, md5, f"it cannot be opened: {error}") from error
        if not isinstance(entries, dict):
            raise self.broken(name, md5, f"it holds a {type(entries).__name__}, not a dict")
        return entries, hashlib.md5(content, usedforsecurity=False).hexdigest() == md5

    def class_names(self, name: str, md5: str, key: str, count: int) -> tuple[str, ...]:
        names = self.open(name, md5)[0].get(key)
        if not isinstance(names, list) or len(names) != count or not all(isinstance(each, str) for each in names):
            raise self.broken(name, md5, f"it does not name {count} classes")
        return tuple(names)

    def part(self, files: list[list[str]], samples: int, classes: int) -> tuple[tuple[Tensor, Tensor], bool]:
        """The training or the test part, official ``samples`` in all, and whether that is what the files hold."""
        images, labels, official = [], [], []
        for name, md5 in files:
            entries, is_official = self.open(name, md5)
            data, targets = entries.get("data"), entries.get("labels", entries.get("fine_labels"))
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIZE * SIZE,):
                raise self.broken(name, md5, f"its images are not uint8 [M, {3 * SIZE * SIZE}]")
            if not isinstance(targets, list) or len(targets) != len(data):
                raise self.broken(name, md5, f"it has {len(data)} images, but not one label for each")
            if not all(isinstance(target, int) and 0 <= target < classes for target in targets):
                raise self.broken(name, md5, f"a label is not a class 0–{classes - 1}")
            if not is_official and len(data) >= samples // len(files):
                raise self.broken(name, md5, "it has as many images as the official file, but another MD5")
            images.append(data.reshape(-1, 3, SIZE, SIZE))  # [M, 3072] → [M, 3, 32, 32]
            labels += targets
            official.append(is_official)
        if not labels:
            raise DataError(f"{self.folder} holds no images in {files[0][0]}; move it away and {self.how}")
        return (torch.from_numpy(np.concatenate(images)), torch.tensor(labels)), all(official)

    def broken(self, name: str, md5: str, why: str) -> DataError:
        why = " ".join(why.split())
        return DataError(
            f"{self.folder / name} (official MD5 {md5}) is broken: {why}; move {self.folder} away and {self.how}"
        )


def _cifar(name: str, source: type[CIFAR10], mean: Constants, std: Constants, options: DataOptions) -> Task:
    arrays = read_cifar(source, options.data_dir, download=options.download)
    (train_images, train_labels), (test_images, test_labels) = arrays.train, arrays.test
    to_input = normalise(mean, std)
    plain = BatchTransform(mean, std, padding=4, cutout=True, flip=True)
    convention = f"{len(train_labels):,} training / {len(test_labels):,} test images, "
    if arrays.is_official:
        convention += "the official files by their MD5"
    else:
        convention += f"a subset: sample counts differ from the official {TRAIN_SAMPLES:,} / {TEST_SAMPLES:,}"
    return Task(
        name=name,
        classes=arrays.classes,
        in_channels=3,
        input_size=SIZE,
        is_sequence=False,
        train=Split(
            train_images.__getitem__,
            train_labels,
            cifar_train(SIZE, to_input, cutupmix_auto=options.cutupmix_auto),
            seed=options.seed,
            images=train_images,
            # TrivialAugment picks another operation for each image: that is the workers' job
            batch_transform=None if options.cutupmix_auto else plain,
        ),
        test=Split(
            test_images.__getitem__,
            test_labels,
            v2.Compose(to_input),
            seed=options.seed,
            images=test_images,
            batch_transform=BatchTransform(mean, std),
        ),
        mix=mixup_or_cutmix(len(arrays.classes)) if options.cutupmix_auto else None,
        drop_last=options.cutupmix_auto,
        convention=convention,
    )


@described("CIFAR-10", write=lambda root, T: write_cifar10(root, per_batch=1, test=2), two_batches=("-b", "3"),
           reads=("cutupmix_auto",))  # fmt: skip
def cifar10(options: DataOptions) -> Task:
    """CIFAR-10 (Krizhevsky 2009): crop with padding 4, Cutout, flip; with ``cutupmix_auto`` the rows marked *."""
    return _cifar("cifar10", CIFAR10, MEAN, STD, options)


@described("CIFAR-100", write=lambda root, T: write_cifar100(root, train=4, test=2), two_batches=("-b", "2"),
           reads=("cutupmix_auto",))  # fmt: skip
def cifar100(options: DataOptions) -> Task:
    """CIFAR-100, its 100 fine classes: as :func:`cifar10`."""
    return _cifar("cifar100", CIFAR100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), options)
