"""What a data set says of itself besides its task: its title in figures, what it reads, how to start on two batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .task import DataOptions, Task

Build = Callable[[DataOptions], Task]
# two batches of a set of some thousand samples that needs no files
FEW = ("-train_fraction", "0.02", "-b", "15")
OF_SOME = ("cutupmix_auto", "event_split")  # the options of DataOptions that some data sets alone read


@dataclass(frozen=True)
class Description:
    """What is known of a data set without its data.

    Args:
        title: its name in figures; "" for the one on the command line.
        write: (data_dir, T) → writes a few made-up samples in the official layout; None if it needs no files.
        two_batches: options that cut training down to two batches of these samples.
        test_few: () → cuts the test set down, for the rest of this process; None if what is written is small.
        reads: which of :data:`OF_SOME` it reads; all, where nothing is known.
    """

    title: str = ""
    write: Callable[[Path, int], object] | None = None
    two_batches: tuple[str, ...] = FEW
    test_few: Callable[[], object] | None = None
    reads: tuple[str, ...] = OF_SOME


DESCRIPTIONS: dict[Build, Description] = {}


def described(
    title: str,
    *,
    write: Callable[[Path, int], object] | None = None,
    two_batches: tuple[str, ...] = FEW,
    test_few: Callable[[], object] | None = None,
    reads: tuple[str, ...] = (),
) -> Callable[[Build], Build]:
    """Decorator of a data set's function: its :class:`Description`; it reads none of :data:`OF_SOME` but ``reads``."""

    def register(build: Build) -> Build:
        DESCRIPTIONS[build] = Description(title, write, two_batches, test_few, reads)
        return build

    return register
