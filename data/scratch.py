"""Folders for what is being made: gone when it is done; what killed processes leave goes at the next start."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from .task import DataError

MARK = ".making-"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, which is made if missing, for the length of the block.

    A locked file beside it says that its process lives. Parents that were made for it go too, if nothing came there.

    Raises:
        OSError: if it cannot be made.
    """
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    scratch = parent / f"{MARK}{uuid4().hex}"
    lock = scratch.with_suffix(".lock")
    with lock.open("w", encoding="utf-8") as file:
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            scratch.mkdir()
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)
            for folder in made:
                with suppress(OSError):  # it holds something by now, or is gone
                    folder.rmdir()


def remove_abandoned(parent: Path) -> None:
    """Remove the scratch folders in ``parent`` whose processes are gone, where that can be told."""
    for lock in parent.glob(f"{MARK}*.lock"):
        with suppress(OSError), lock.open("r+", encoding="utf-8") as file:  # held by another process, or gone meanwhile
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


@contextmanager
def build_aside(target: Path) -> Iterator[Path]:
    """Build a folder under a temporary name beside ``target``; it takes its place only when it is whole.

    Several processes may build at once: each builds its own, the first to finish takes the place.

    Yields:
        Where to make the folder; its parent exists, and whatever else is put there is thrown away.

    Raises:
        DataError: if it cannot be written.
    """
    try:
        with scratch_folder(target.parent) as scratch:
            yield scratch / target.name
            try:
                (scratch / target.name).rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another process was first, with the same content
                    raise
    except OSError as error:
        raise DataError(f"{target} cannot be built ({error})") from error
