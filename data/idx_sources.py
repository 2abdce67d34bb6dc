"""Where Fashion-MNIST and MNIST come from and lie: their files have the same names, so the folder tells them apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from torchvision.datasets import MNIST, FashionMNIST

from .home import find_home, holds


@dataclass(frozen=True)
class Source:
    """Where a data set in IDX files comes from.

    Args:
        title: its name in print.
        official: torchvision's class, for its files' names, MD5s (compressed) and address.
        md5: of the uncompressed files, in the order of ``official.resources``: training images and labels, test images
            and labels.
        folders: where the files may lie under ``-data_dir``; a download goes to the first.
        package: name of a Debian package, and the folder that it installs to; None if there is none.
        mean, std: of the training pixels, on the 0–1 scale.
    """

    title: str
    official: type[MNIST]
    md5: tuple[str, str, str, str]
    folders: tuple[str, ...]
    package: tuple[str, Path] | None
    mean: float
    std: float


FASHION = Source(
    title="Fashion-MNIST",
    official=FashionMNIST,
    md5=(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
    folders=("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "fashion_mnist"),
    package=("dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist")),
    mean=0.2860,
    std=0.3530,
)
DIGITS = Source(
    title="MNIST",
    official=MNIST,
    md5=(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    folders=("MNIST/raw", "MNIST", "mnist"),
    package=None,
    mean=0.1307,
    std=0.3081,
)
SOURCES = (FASHION, DIGITS)


def find_folder(source: Source, data_dir: Path) -> Path:
    """The folder with a data set's files, by :func:`find_home`; the package's if they are not under ``data_dir``.

    A folder that is named after the other data set has the other's files.
    """
    names = [name for resource, _ in source.official.resources for name in (resource, resource.removesuffix(".gz"))]
    has_files = holds(*names)

    def is_home(folder: Path) -> bool:
        return has_files(folder) and named_after(folder) in (None, source)

    home = find_home(data_dir, source.folders, is_home)
    if not is_home(home) and source.package is not None and is_home(source.package[1]):
        return source.package[1]
    return home


def named_after(folder: Path) -> Source | None:
    """The data set that a folder, or the one around its ``raw``, has the name of; None if it has another name."""
    path = folder.resolve()
    name = path.parent.name if path.name == "raw" else path.name
    return next((each for each in SOURCES if name in {PurePath(known).parts[0] for known in each.folders}), None)
