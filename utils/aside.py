"""The one way to write a file: aside, synced and renamed, so that it is the old one or the new one, never a part."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # or the user's quota, or the limit of a file's size
SUFFIX = ".tmp"  # of a file that is being written; what a killed process leaves has it too


@contextmanager
def replacing(path: Path, mode: str = "w", previous: Path | None = None) -> Iterator[IO[Any]]:
    """A file to write; at the end of the block it takes the place of ``path``. If the block fails, nothing changes.

    Args:
        mode: ``"w"`` for text, ``"wb"`` for bytes.
        previous: keep the old file under this name.

    Raises:
        OSError: if the disk does not take it.
    """
    aside = path.with_name(path.name + SUFFIX)
    try:
        with aside.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            keep_as(path, previous)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_aside(path: Path, text: str) -> None:
    """Write a text file by :func:`replacing`.

    Raises:
        OSError: if the disk does not take it.
    """
    with replacing(path) as file:
        file.write(text)


def keep_as(path: Path, other: Path) -> None:
    """Give a file a second name, so that at every moment both names are of a whole file."""
    aside = other.with_name(other.name + SUFFIX)
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:  # a file system without hard links
        shutil.copy2(path, aside)
    os.replace(aside, other)
