"""What a checkpoint holds of a run, and how it is put back; and which checkpoint is the newest that is whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from .checkpoint import RECALIBRATED, UNPACKING, CheckpointError, read_checkpoint, weights_of
from .engine import TrainState
from .meter import Meter
from .resumable import (
    NO_SUMS,
    UnfitError,
    checked_accuracies,
    checked_optimizer,
    checked_place,
    checked_scaler,
    checked_schedule,
)


def checkpoint_of(state: TrainState, sums: Mapping[str, float] = NO_SUMS) -> dict[str, Any]:
    """The checkpoint of a run between two batches.

    Args:
        sums: what the meters of all ranks hold (see :class:`utils.engine.Meter`), and the seconds that it took, in the
            middle of an epoch.
    """
    assert state.lr_scheduler is not None, "a run that is saved has a schedule"
    return {
        "net": state.net.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "lr_scheduler": state.lr_scheduler.state_dict(),
        "scaler": state.scaler.state_dict(),
        "epoch": state.epoch - 1,
        "step": state.step,
        "sums": dict(sums),
        "batches": state.batches,
        "max_test_acc": state.best_test_acc,
        "best_acc": state.best_acc,
        "settings": state.identity,
        **state.exchanged,
    }


def restore(state: TrainState, checkpoint: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's optimiser, schedule, scaler and place back; the network's weights have been loaded.

    Args:
        path: where it was read, for the messages.

    Raises:
        CheckpointError: if it is no training checkpoint, or one of another set-up; nothing is put back then.
    """
    assert state.lr_scheduler is not None, "a run that is resumed has a schedule"
    try:
        if RECALIBRATED in checkpoint:
            raise UnfitError("inference.py -save_bn has replaced its running statistics, so it is no place of a run")
        epoch, step, sums = checked_place(checkpoint, state.batches, state.steps)
        best_acc, best_test_acc = checked_accuracies(checkpoint)
        weights = weights_of(checkpoint, path)
        optimizer = checked_optimizer(checkpoint.get("optimizer"), weights, state.net, state.optimizer)
        (group,) = optimizer["param_groups"]
        published = "format" not in checkpoint
        schedule = checked_schedule(checkpoint.get("lr_scheduler"), state.lr_scheduler, group, epoch, published)
        scaler = checked_scaler(checkpoint.get("scaler"), state.scaler)
    except UnfitError as error:
        raise CheckpointError(f"{path} cannot be resumed: {error}; -pre_train starts from its weights") from None
    state.optimizer.load_state_dict(optimizer)
    state.lr_scheduler.load_state_dict(schedule)
    if scaler:
        state.scaler.load_state_dict(scaler)
    state.epoch, state.step, state.seconds = epoch, step, sums["seconds"]
    state.best_acc, state.best_test_acc = best_acc, best_test_acc
    if state.ranks.is_first:  # the sums are of all ranks
        state.meter = Meter(state.device, sums)


def runs_named(out_dir: Path, name: str) -> list[Path]:
    """The folders ``name``, ``name-2`` … in ``out_dir``."""
    folders = out_dir.iterdir() if out_dir.is_dir() else ()
    return sorted(path for path in folders if re.fullmatch(re.escape(name) + r"(-\d+)?", path.name))


def newest_whole(files: Iterable[Path]) -> Path | None:
    """The newest checkpoint that is whole; None if there is none.

    One that is damaged is named on standard output, and the one before it is taken.
    """
    there = [path for path in files if path.is_file()]
    for path in sorted(there, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_whole(path):
            return path
        print(f"{path} is damaged; looking for the one before it")
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read and every byte is as it was written (torch itself skips the checksums).

    Raises:
        PermissionError: if it is another user's alone; it may well be whole.
    """
    try:
        with ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        read_checkpoint(path)
    except PermissionError:
        raise
    except (CheckpointError, *UNPACKING):
        return False
    return True
