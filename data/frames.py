"""Frames of events: built once, kept on disk, resized."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from tqdm import tqdm

from .scratch import build_aside
from .task import DataError

SUMS = "checksums.npy"  # of each sample, uint32 [M]: CRC-32
BILINEAR, NEAREST = InterpolationMode.BILINEAR, InterpolationMode.NEAREST_EXACT


def cached_frames(
    folder: Path,
    files: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    *,
    T: int,
    size: int,
    dtype: type[np.generic],
) -> Callable[[int], Tensor]:
    """Frames of every file, from one array on disk that is built on first use.

    The cache's name holds T, the rule by which events are split into frames, the size, and a digest of the files'
    names, lengths and times of their last change: other settings or other files make another cache. Each sample has
    a checksum, which is compared whenever it is read.

    Args:
        folder: where the cache goes.
        files: event files; their order is the order of the frames.
        read: file → frames, ``dtype`` [T, 2, size, size].

    Returns:
        index → frames, float32 [T, 2, size, size]; it opens the file each time, so any process may call it. It raises
        DataError if a sample is not what was written.

    Raises:
        DataError: if a file is broken, or the cache is broken or cannot be written.
    """
    root = os.path.commonpath(files)  # the whole data set may move
    about = {file: "{} {}".format(*length_and_time(file)) for file in files}
    listing = "".join(f"{file.relative_to(root).as_posix()} {words}\n" for file, words in about.items())
    digest = hashlib.sha256(listing.encode()).hexdigest()[:12]
    target = folder / f"frames_T{T}_number_{size}x{size}_{digest}"
    shape = (len(files), T, 2, size, size)
    if not target.is_dir():
        with build_aside(target) as building:
            building.mkdir()
            bar = tqdm(files, desc=f"events to {T} frames", unit="file", disable=None)
            _write(building / "frames.npy", (read(file) for file in bar), shape, np.dtype(dtype))
    frames = _open(target / "frames.npy")
    sums = _open(target / SUMS)
    if (frames.shape, frames.dtype, sums.shape, sums.dtype) != (shape, dtype, shape[:1], np.uint32):
        raise DataError(f"{target} is broken: delete this folder, it is built again")
    return partial(_load, target / "frames.npy")


def length_and_time(file: Path) -> tuple[int, int]:
    """Bytes of a file, and ns since the epoch when it was changed.

    Raises:
        DataError: if there is none, as where a link leads nowhere.
    """
    try:
        status = file.stat()
        return status.st_size, status.st_mtime_ns
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error


def _write(path: Path, samples: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Write [M, …] sample by sample, and their checksums beside it; then read it back and compare.

    Plain writes, not a memory map: a full disk is then an error, not the end of the process.
    """
    sums = np.zeros(shape[0], np.uint32)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        for index, sample in enumerate(samples):
            assert (sample.shape, sample.dtype) == (shape[1:], dtype)
            content = sample.tobytes()
            sums[index] = zlib.crc32(content)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())  # on the disk before the folder takes its name
    if any(zlib.crc32(sample.tobytes()) != sums[index] for index, sample in enumerate(_open(path))):
        raise DataError(f"{path} was not written as it should be: check the disk, and run again")
    np.save(path.with_name(SUMS), sums)


def _open(path: Path) -> np.ndarray:
    """An array on disk, mapped into memory.

    Raises:
        DataError: if it is broken.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is broken: delete its folder, it is built again") from error


def _load(path: Path, index: int) -> Tensor:
    """One sample's frames, float32 [T, 2, size, size].

    Raises:
        DataError: if its checksum is another.
    """
    frames = _open(path)[index]
    if zlib.crc32(frames.tobytes()) != _open(path.with_name(SUMS))[index]:
        raise DataError(
            f"{path} is broken: sample {index} is not what was written; delete its folder, it is built again"
        )
    return torch.from_numpy(frames.astype(np.float32))


def count_in_words(train: int, test: int, official: tuple[int, int]) -> str:
    """Sample counts, and how they differ from the whole data set's, for :attr:`Task.convention`."""
    differ = "" if (train, test) == official else f" (differs from the whole set's {official[0]} / {official[1]})"
    return f"{train} train / {test} test samples{differ}"


def resize(frames: Tensor, size: int) -> Tensor:
    """Resize each polarity's counts, float32 [T, 2, H, W] → [T, 2, size, size]: bilinear, anti-aliased, unrounded.

    (The published code resizes an 8-bit picture of the two polarities, which wraps counts around and mixes the
    polarities: a deliberate difference.)
    """
    return v2.functional.resize(frames, [size, size], interpolation=BILINEAR, antialias=True)


def resize_nearest(frames: Tensor, size: int) -> Tensor:
    """The same by taking the count nearest to each new pixel's centre, as Pillow does."""
    return v2.functional.resize(frames, [size, size], interpolation=NEAREST)
