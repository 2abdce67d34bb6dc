"""Where a data set lies: under ``-data_dir``, and where that is one level too deep or too shallow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from .scratch import MARK
from .task import DataError


def find_home(data_dir: Path, folders: Sequence[str], is_home: Callable[[Path], bool]) -> Path:
    """The folder that holds a data set, or where it belongs if there is none.

    Args:
        data_dir: the folder of all data sets, as the user gave it.
        folders: where the set may lie under ``data_dir``, as relative paths; the first is where it belongs. "" is
            ``data_dir`` itself.
        is_home: whether a folder holds any of the set.

    Returns:
        The first folder that is one, in this order: those under ``data_dir``; the rest of these where ``data_dir``
        has the beginning of it (one level too deep); those under a folder of ``data_dir`` (one level too shallow).
    """
    return next(filter(is_home, places(data_dir, folders)), data_dir / folders[0])


def places(data_dir: Path, folders: Sequence[str]) -> Iterator[Path]:
    """Where :func:`find_home` looks, in its order."""
    parts = [PurePath(folder).parts for folder in folders]
    yield from (data_dir / folder for folder in folders)
    for depth in range(1, max(map(len, parts)) + 1):
        yield from (data_dir.joinpath(*each[depth:]) for each in parts if depth <= len(each))
    for below in folders_in(data_dir):
        yield from (below / folder for folder in folders)


def folders_in(path: Path) -> list[Path]:
    """The folders in a folder, by name, without those still being made; none where it cannot be read."""
    try:
        return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith(MARK))
    except OSError:
        return []


def files_in(path: Path, pattern: str) -> list[Path]:
    """The files of a data set in a folder, by name: none whose name begins with a dot.

    macOS leaves ``._x.npz`` beside ``x.npz`` on disks and in archives of other systems; it holds no data.

    Raises:
        DataError: if the folder is there and may not be looked at: a class would be missing without a word.
    """
    try:
        there = list(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    return sorted(each for each in there if fnmatchcase(each.name, pattern) and not each.name.startswith("."))


def holds(*names: str) -> Callable[[Path], bool]:
    """Whether a folder has a file or folder of one of these names."""
    return lambda folder: any((folder / name).exists() for name in names)
