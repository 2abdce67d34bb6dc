"""How far an epoch, an evaluation or a calibration has come: a bar on a terminal, a line a minute in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

Batches = Iterable[tuple[Tensor, Tensor]]
LINE_SECONDS = 60.0


class Lines:
    """What tqdm shows, as lines for a file: the part of its interface that is used here."""

    def __init__(self, batches: Batches, title: str, total: int, start: int, unit: str):
        self.batches, self.title, self.total, self.unit = batches, title, total, unit
        self.done = self.start = start
        self.samples = 0
        self.postfix = ""
        self.started = self.said = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            yield batch
            self.samples += len(batch[1])
            self.update()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What else the next line says."""
        self.postfix = text

    def update(self, done: int = 1) -> None:
        """Count what has been done, and say so if the last line is a minute old."""
        self.done += done
        now = time.monotonic()
        if now - self.said >= LINE_SECONDS:
            self.said = now
            print(self.line(now - self.started), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The line after so many seconds."""
        words = [f"{self.title}: {self.unit} {self.done} of {self.total}"]
        rate = f"{self.samples / seconds:.0f} images/s" if self.samples else ""
        words += filter(None, [self.postfix or rate])
        if self.done > self.start:
            left = seconds / (self.done - self.start) * max(0, self.total - self.done)
            words.append(f"{tqdm.format_interval(left)} left")
        return ", ".join(words)


def progress(batches: Batches, title: str, steps: int, start: int = 0, unit: str = "batch") -> tqdm | Lines:
    """``batches`` as they are, while stderr shows how many of ``steps`` have gone by; of several ranks, rank 0's does.

    Args:
        start: how many had gone by before.
        unit: what is counted. Without ``batches`` (an empty sequence) ``update`` counts.
    """
    silent = dist.is_initialized() and dist.get_rank() > 0
    if not silent and not sys.stderr.isatty():
        return Lines(batches, title, steps, start, unit)
    return tqdm(
        batches or None, desc=title, total=steps, initial=start, leave=False, dynamic_ncols=True, disable=silent,
        unit=unit,
    )  # fmt: skip
