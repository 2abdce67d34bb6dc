"""CIFAR10-DVS (Li et al. 2017): 10,000 CIFAR-10 images moved in front of a DVS128 sensor, 1,000 per class."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .augment import dvs_cifar10_train
from .description import described
from .download import fetch, unpack
from .events import DVS128, integrate, read_aedat2
from .frames import cached_frames, count_in_words, resize
from .home import files_in, find_home, holds
from .made_up_events import write_dvs_cifar10
from .task import DataError, DataOptions, Split, Task

HOME = "DVSCIFAR10"  # its folder
SIZE = 48  # the paper's input size
# class: (number of its archive, MD5), figshare article 4724671
ARCHIVES = {
    "airplane": (7712788, "0afd5c4bf9ae06af762a77b180354fdd"),
    "automobile": (7712791, "8438dfeba3bc970c94962d995b1b9bdd"),
    "bird": (7712794, "a9c207c91c55b9dc2002dc21c684d785"),
    "cat": (7712812, "52c63c677c2b15fa5146a8daf4d56687"),
    "deer": (7712815, "b6bf21f6c04d21ba4e23fc3e36c8a4a3"),
    "dog": (7712818, "f379ebdf6703d16e0a690782e62639c3"),
    "frog": (7712842, "cad6ed91214b1c7388a5f6ee56d08803"),
    "horse": (7712851, "e7cbbf77bec584ffbf913f00e682782a"),
    "ship": (7712836, "41c7bd7d6b251be82557c6cce9a7d5c9"),
    "truck": (7712839, "89f3922fd147d9aeff89e76a2b0b70a7"),
}
CLASSES = tuple(ARCHIVES)
URL = "https://api.figshare.com/v2/file/download/{}"
ARTICLE = "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671"  # lists all ten
# event_split: (numbers of the test files, where the split comes from)
SPLITS = {
    "last": (range(900, 1000), "the paper's split: of each class files 0–899 train, 900–999 test"),
    "first": (range(100), "not the paper's split: of each class files 0–99 test, 100–999 train (scores run higher)"),
}
OFFICIAL_COUNTS = (9000, 1000)


@described(
    "DVS-CIFAR10",
    write=lambda root, T: write_dvs_cifar10(root, numbers={k: [0] if k < 4 else [900] for k in range(10)}),
    two_batches=("-b", "2"),
    reads=("event_split",),
)
def dvs_cifar10(options: DataOptions) -> Task:
    """``DVSCIFAR10``: T frames of equal event number, counts per polarity resized to 48×48; the paper's Table 2.

    Training frames are augmented with and without ``cutupmix_auto``, as published.

    Looks for the class folders in ``DVSCIFAR10/``, in its ``events/``, where the published code unpacks them, and in
    SpikingJelly's ``CIFAR10DVS/extract/`` (see :func:`find_home`); what is missing is fetched into ``DVSCIFAR10/``,
    where the frames are kept as well.

    Raises:
        DataError: if ``event_split`` is unknown, or files are missing or broken.
    """
    if options.event_split not in SPLITS:
        raise DataError(f"event_split {options.event_split!r} is unknown; known: {', '.join(SPLITS)}")
    events = find_class_folders(options.data_dir, download=options.download)
    home = events if events.resolve().name == HOME else options.data_dir / HOME
    files, labels, numbers = list_files(events)
    train, test, convention = split_by_number(numbers, options.event_split)
    load = cached_frames(home, files, partial(read_frames, T=options.T), T=options.T, size=SIZE, dtype=np.float32)
    return Task(
        name="DVSCIFAR10",
        classes=CLASSES,
        in_channels=2,
        input_size=SIZE,
        is_sequence=True,
        train=Split(load, labels, dvs_cifar10_train(), seed=options.seed, indices=train),
        test=Split(load, labels, torch.nn.Identity(), seed=options.seed, indices=test),
        convention=f"{convention}; training frames are augmented, -cutupmix_auto or not",
    )


def find_class_folders(data_dir: Path, *, download: bool) -> Path:
    """The folder that holds the ten class folders; classes that are nowhere are fetched into ``DVSCIFAR10/``."""

    def is_whole(folder: Path) -> bool:
        return all((folder / name).is_dir() for name in CLASSES)

    whole = find_home(data_dir, [HOME, f"{HOME}/events", "CIFAR10DVS/extract"], is_whole)
    if is_whole(whole):
        return whole
    home = find_home(data_dir, [HOME], holds(*CLASSES, *(f"download/{name}.zip" for name in CLASSES)))
    for name, (number, md5) in ARCHIVES.items():
        if (home / name).is_dir():
            continue
        archive = home / "download" / f"{name}.zip"
        hint = f"it is one of ten, all at {ARTICLE}; the unpacked folder may stand at {home / name} instead"
        fetch(URL.format(number), archive, md5, hint, download=download)
        unpack(archive, home / name, Path.is_dir)
    return home


def list_files(folder: Path) -> tuple[list[Path], list[int], list[int]]:
    """Event files by name, class by class, with the label and the number of each; nothing is opened.

    Raises:
        DataError: if a class has no files, or a file's name is not ``cifar10_<class>_<0–999>.aedat``.
    """
    files: list[tuple[int, int, Path]] = []  # (label, number, file)
    for label, name in enumerate(CLASSES):
        found = files_in(folder / name, "*.aedat")
        if not found:
            raise DataError(
                f"{folder / name} holds no .aedat files; move the folder away and run again, or unpack {name}.zip"
            )
        for file in found:
            match = re.fullmatch(rf"cifar10_{name}_(0|[1-9]\d?\d?)\.aedat", file.name)
            if match is None:
                raise DataError(
                    f"{file}: the split goes by file name, cifar10_{name}_<0–999>.aedat; remove or rename it"
                )
            files.append((label, int(match[1]), file))
    files.sort()
    return [file for *_, file in files], [label for label, *_ in files], [number for _, number, _ in files]


def split_by_number(numbers: list[int], event_split: str) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Positions of the training and of the test files by their numbers, and the convention in words.

    Raises:
        DataError: if one side is left without files.
    """
    test_numbers, words = SPLITS[event_split]
    is_test = torch.tensor([number in test_numbers for number in numbers])
    train, test = (~is_test).nonzero().flatten(), is_test.nonzero().flatten()
    if not len(train) or not len(test):
        raise DataError(
            f"DVSCIFAR10 has {len(train)} training and {len(test)} test files by {words}; both sides need some"
        )
    return train, test, f"{words}; {count_in_words(len(train), len(test), OFFICIAL_COUNTS)}"


def read_frames(file: Path, T: int) -> np.ndarray:
    """One event file as frames, float32 [T, 2, 48, 48]."""
    counts = integrate(read_aedat2(file), T, DVS128, file)  # [T, 2, 128, 128]
    return resize(torch.from_numpy(counts.astype(np.float32)), SIZE).numpy()
