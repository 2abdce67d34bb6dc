"""A run's folder: config.json, metrics.jsonl, checkpoints, TensorBoard and curves.png."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .aside import SUFFIX, write_aside
from .cli import UsageError
from .curves import draw_curves
from .engine import TrainState
from .finite import NonFiniteLossError

LATEST, BEST, INITIAL = "checkpoint_latest.pth", "checkpoint_max.pth", "checkpoint_init.pth"
PREVIOUS = "checkpoint_previous.pth"  # the latest before the latest
LOCK = ".lock"
FIRST_DRAWING = 0.5  # seconds that drawing curves.png takes, before it was measured
DIVERGED = "diverged.log"  # the line that a run has ended with which stopped being a number
Results = Mapping[tuple[str, str], Mapping[str, float]]  # (part, end of the columns' names) → quantity → value


class RunDir:
    """The folder of one run; everything later (tables, figures, resume) reads it.

    Args:
        path: the folder; see :func:`create_run_dir`.
        first_epoch: the epoch at which a resumed run continues; rows of it and of later ones are removed.
        is_new: whether the folder was made for this run; another may hold what is not the run's.
    """

    def __init__(self, path: Path, first_epoch: int = 0, *, is_new: bool = False):
        self.path, self.is_new = path, is_new
        self.latest, self.best, self.initial = path / LATEST, path / BEST, path / INITIAL
        self.previous = path / PREVIOUS
        self._metrics = path / "metrics.jsonl"
        self._drawn_at, self._drawing, self._is_drawn = time.monotonic(), FIRST_DRAWING, True
        from torch.utils.tensorboard import SummaryWriter  # here: a command that only prints has no use for it

        with naming_disk(path):
            self._lock = lock(path / LOCK)
            for torn in path.glob(f"*{SUFFIX}"):  # of a process that was killed while it wrote
                torn.unlink()
            (path / DIVERGED).unlink(missing_ok=True)
            self._board = SummaryWriter(str(path / "tensorboard"), purge_step=first_epoch or None)
            kept = [row for row in read_metrics(self._metrics) if row["epoch"] < first_epoch]
            write_aside(self._metrics, "".join(json.dumps(row) + "\n" for row in kept))

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write config.json: every setting, and what the run was made with."""
        with left_in_order(self), naming_disk(self.path):
            write_aside(self.path / "config.json", json.dumps(settings, indent=2, default=str) + "\n")

    def log(self, row: dict[str, float]) -> None:
        """Append an epoch's row to metrics.jsonl, TensorBoard and, in a tenth of the time at most, curves.png."""
        with naming_disk(self.path):
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            for name, value in row.items():
                if name != "epoch":
                    self._board.add_scalar(name, value, row["epoch"])
            self._board.flush()
        self._is_drawn = False
        if time.monotonic() - self._drawn_at >= 10 * self._drawing:
            self.draw()

    def draw(self) -> None:
        """Draw curves.png, unless it shows all epochs."""
        if self._is_drawn:
            return
        started = time.monotonic()
        with naming_disk(self.path):
            draw_curves(read_metrics(self._metrics), self.path / "curves.png")
        self._drawn_at, self._is_drawn = time.monotonic(), True
        self._drawing = self._drawn_at - started

    def holds_results(self) -> bool:
        """Whether there is a checkpoint or an epoch's row."""
        files = (self.latest, self.best, self.previous, self._metrics)
        return any(path.exists() and path.stat().st_size > 0 for path in files)

    def close(self) -> None:
        """Close TensorBoard's file, and draw what is not drawn yet."""
        self._board.close()
        self.draw()


def create_run_dir(out_dir: Path, name: str) -> RunDir:
    """Make a new folder ``out_dir/name``, or ``name-2`` … where that is taken: runs never mix.

    Raises:
        UsageError: if it cannot be made.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            path = out_dir / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return RunDir(path, is_new=True)
    except OSError as error:
        raise UsageError(f"cannot write to -out_dir {out_dir}: {error.strerror}") from None
    raise UsageError(f"{out_dir} holds ten thousand runs named {name}; choose another -name")


@contextmanager
def left_in_order(run: RunDir | None) -> Iterator[None]:
    """See to a run's folder when an error ends the run.

    A new one goes if the error comes before the run has saved anything: bad data, a full memory or disk. Another gets
    its picture. If the run stopped being a number, a line in it says so: reports would count a seed less, and no more.
    """
    try:
        yield
    except Exception as error:
        if run is None:
            raise
        diverged = isinstance(error, NonFiniteLossError)
        if diverged:
            with suppress(OSError):  # a full disk is not what ended it
                write_aside(run.path / DIVERGED, str(error).split(";")[0] + "\n")
        if run.is_new and not diverged and not run.holds_results():
            with suppress(OSError):
                run.close()
            shutil.rmtree(run.path, ignore_errors=True)
        else:
            with suppress(UsageError):  # what ended it is said
                run.draw()
        raise


def row_of(state: TrainState, trained: Mapping[str, float], seen: Results, seconds: float) -> dict[str, float]:
    """An epoch's row of metrics.jsonl."""
    row = {"epoch": state.epoch, "lr": state.optimizer.param_groups[0]["lr"]}
    for (part, column), result in {("train", ""): trained, **seen}.items():
        row |= {f"{part}_{quantity}{column}": result[quantity] for quantity in ("loss", "acc")}
    return row | {
        "best_test_acc": state.best_test_acc,
        "seconds": seconds,
        "images_per_second": trained["images_per_second"],
        "peak_memory_gb": peak_memory_gb(state.device),
    }


def line_of(row: dict[str, Any], epochs: int) -> str:
    """An epoch's row of metrics.jsonl as a line to read."""
    of_steps = f", per step {row['test_acc_per_step']:.2f}%" if "test_acc_per_step" in row else ""
    return (
        f"epoch {row['epoch']} of {epochs}  lr {row['lr']:.4f}  "
        f"train loss {row['train_loss']:.4f} acc {row['train_acc']:.2f}%  "
        f"test loss {row['test_loss']:.4f} acc {row['test_acc']:.2f}%{of_steps} (best {row['best_test_acc']:.2f}%)  "
        f"{row['seconds']:.1f} s, {row['images_per_second']:.0f} images/s, {row['peak_memory_gb']:.2f} GiB"
    )


def lock(path: Path) -> BinaryIO:
    """Hold a run's folder for as long as this process lives: two processes never write to one.

    Raises:
        UsageError: if another process holds it.
    """
    file = path.open("ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked loaders do not inherit it, unlike flock's
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UsageError(f"{path.parent} belongs to a run that is still going; stop it, or wait") from None
        # a file system without locks: nothing can be said of others
    return file


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, none if there is no such file; a last line that broke off is not one.

    Raises:
        UsageError: naming another line that is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_text(errors="replace", encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            row = () if number < len(lines) else None  # no row; or the one that was being written
        if row is not None and not is_epoch(row):
            raise UsageError(
                f"line {number} of {path} is damaged: it is no epoch's; mend it or take it out, then resume"
            )
        rows += [row] if row is not None else []
    return rows


def is_epoch(row: Any) -> bool:
    """Whether a line is an epoch's: finite numbers by name, whole ones as far as a float counts (figures are drawn)."""
    if not isinstance(row, dict) or type(row.get("epoch")) is not int or row["epoch"] < 0:
        return False
    most = {int: 2**53 - 1, float: sys.float_info.max}
    return all(type(value) in most and abs(value) <= most[type(value)] for value in row.values())


@contextmanager
def naming_disk(path: Path, errnos: Container[int | None] | None = None) -> Iterator[None]:
    """Turn a write that the disk refuses (given ``errnos``, for one of them) into a UsageError that names ``path``."""
    try:
        yield
    except OSError as error:
        if errnos is not None and error.errno not in errnos:
            raise
        raise UsageError(f"cannot write to {path}: {error.strerror or error}; what was saved before is kept") from None


def peak_memory_gb(device: torch.device) -> float:
    """Most memory held so far, in GiB: the device's on CUDA, the process's elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB on Linux
