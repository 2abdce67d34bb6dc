"""Tiny-ImageNet: 200 classes of 64×64 JPEGs, decoded by the loader's workers.

``val/`` is the test set, as everywhere in the field: ``test/`` has no labels. A smaller set in the same layout is used
as it is, and ``Task.convention`` says so.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from .augment import normalise, tiny_imagenet_train
from .description import described
from .download import by_hand, fetch, unpack
from .home import files_in, find_home, holds
from .made_up_images import write_tiny_imagenet
from .task import DataError, DataOptions, Split, Task

FOLDER, ARCHIVE = "tiny-imagenet-200", "tiny-imagenet-200.zip"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIZE = 64
TRAIN_SAMPLES, TEST_SAMPLES, CLASSES = 100_000, 10_000, 200
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)


@described(
    "Tiny-ImageNet",
    write=lambda root, T: write_tiny_imagenet(root, classes=2, per_class=2, val_per_class=1),
    two_batches=("-b", "2"),
    reads=("cutupmix_auto",),
)
def tiny_imagenet(options: DataOptions) -> Task:
    """Tiny-ImageNet: training images are flipped at random; with ``cutupmix_auto`` AutoAugment too."""
    folder = find_folder(options.data_dir, download=options.download)
    wnids = class_wnids(folder)
    train_files, train_labels = list_train(folder, wnids)
    test_files, test_labels = list_val(folder, wnids)
    to_input = normalise(MEAN, STD)
    convention = f"{len(train_labels):,} training / {len(test_labels):,} test images (val/) of {len(wnids)} classes"
    if (len(train_labels), len(test_labels), len(wnids)) != (TRAIN_SAMPLES, TEST_SAMPLES, CLASSES):
        convention += (
            f", a subset: sample counts differ from the official {TRAIN_SAMPLES:,} / {TEST_SAMPLES:,} of {CLASSES}"
        )
    return Task(
        name="tiny_imagenet",
        classes=tuple(wnids),
        in_channels=3,
        input_size=SIZE,
        is_sequence=False,
        train=Split(
            partial(decode, train_files),
            train_labels,
            tiny_imagenet_train(to_input, cutupmix_auto=options.cutupmix_auto),
            seed=options.seed,
        ),
        test=Split(partial(decode, test_files), test_labels, v2.Compose(to_input), seed=options.seed),
        convention=convention,
    )


def find_folder(data_dir: Path, *, download: bool) -> Path:
    """The unpacked data set, by :func:`find_home`; else the archive is unpacked, else downloaded.

    Raises:
        DataError: if there is none and it cannot be had.
    """
    folder = find_home(data_dir, [FOLDER], is_unpacked)
    if folder.is_dir():
        return folder
    archive = find_home(data_dir, [""], holds(ARCHIVE)) / ARCHIVE
    folder = archive.parent / FOLDER
    fetch(URL, archive, MD5, f"it unpacks to {folder}", download=download)
    unpack(archive, folder, is_unpacked)
    return folder


def is_unpacked(folder: Path) -> bool:
    """Whether a folder looks like the data set: CIFAR-100 and others have a ``train`` too."""
    return (folder / "wnids.txt").is_file() or ((folder / "train").is_dir() and (folder / "val").is_dir())


def class_wnids(folder: Path) -> list[str]:
    """The classes' WordNet ids in label order: those of ``wnids.txt``, else the folders in ``train/``; sorted.

    Raises:
        DataError: if ``train/`` has a class too few or too many.
    """
    train = folder / "train"
    if not train.is_dir():
        raise _missing(folder, train)
    found = sorted(path.name for path in train.iterdir() if path.is_dir())
    listing = folder / "wnids.txt"
    wnids = sorted(set(_text(listing).split())) if listing.is_file() else found
    for wnid in wnids:
        if wnid not in found:
            raise _missing(folder, train / wnid)
    for wnid in found:
        if wnid not in wnids:
            raise DataError(
                f"{train / wnid} is a class that {listing} does not know; add it there or remove the folder"
            )
    return wnids


def list_train(folder: Path, wnids: list[str]) -> tuple[list[str], list[int]]:
    """The files of ``train/<wnid>/images`` by class and name, and their labels.

    Raises:
        DataError: if a class has none.
    """
    files: list[str] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        names = [str(path) for path in files_in(images, "*.JPEG")]
        if not names:
            raise _missing(folder, images / "*.JPEG")
        files += names
        labels += [label] * len(names)
    return files, labels


def list_val(folder: Path, wnids: list[str]) -> tuple[list[str], list[int]]:
    """The files that ``val/val_annotations.txt`` lists (file, wnid, 4 box numbers), and their labels.

    Raises:
        DataError: if the list is missing or empty, a line is malformed or names an unknown class, or a file is missing.
    """
    annotations, images = folder / "val" / "val_annotations.txt", folder / "val" / "images"
    if not annotations.is_file():
        raise _missing(folder, annotations)
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    present = {path.name for path in images.iterdir()} if images.is_dir() else set()
    files: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(_text(annotations).splitlines(), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if not rest:
            raise DataError(f"{annotations}, line {number}: {line[:80]!r} is not 'file<tab>wnid<tab>…'; {_how(folder)}")
        if wnid not in label_of:
            raise DataError(f"{annotations}, line {number}: {wnid!r} is not one of the {len(wnids)} classes in train/")
        if name not in present:
            raise _missing(folder, images / name)
        files.append(str(images / name))
        labels.append(label_of[wnid])
    if not files:
        raise DataError(f"{annotations} is empty; {_how(folder)}")
    return files, labels


def decode(files: list[str], index: int) -> Tensor:
    """One image, uint8 [3, 64, 64]; a greyscale one gets three equal channels.

    Raises:
        DataError: if the decoder refuses it, or it has another size.
    """
    try:
        image = decode_image(files[index], mode=ImageReadMode.RGB)
    except RuntimeError as error:  # torchvision's decoders know no other
        reason = " ".join(str(error).split())
        raise DataError(f"{files[index]} is not a readable JPEG ({reason}); unpack {ARCHIVE} again") from error
    if image.shape != (3, SIZE, SIZE):
        raise DataError(f"{files[index]} is {image.shape[2]}×{image.shape[1]} pixels, not {SIZE}×{SIZE}")
    return image


def _text(path: Path) -> str:
    """A file's text.

    Raises:
        DataError: if it is none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file") from error


def _missing(folder: Path, path: Path) -> DataError:
    return DataError(f"{path} is missing; {_how(folder)}")


def _how(folder: Path) -> str:
    return f"unpack {ARCHIVE} again: {by_hand(URL, folder.parent / ARCHIVE, MD5, f'move {folder} away first')}"
