"""What a checkpoint holds of a run, and how it is put back; and which checkpoint is the newest that is whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from .checkpoint import CheckpointError, read_checkpoint
from .engine import TrainState
from .meter import Meter

NO_SUMS: Mapping[str, float] = {"loss": 0.0, "hits": 0, "samples": 0}


def checkpoint_of(state: TrainState, sums: Mapping[str, float] = NO_SUMS) -> dict[str, Any]:
    """The checkpoint of a run between two batches.

    Args:
        sums: what the meters of all ranks hold (see :class:`utils.engine.Meter`), in the middle of an epoch.
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


def restore(state: TrainState, checkpoint: dict[str, Any], path: Path, held: Mapping[str, str]) -> None:
    """Put a checkpoint's optimiser, schedule, scaler and place back; the network's weights have been loaded.

    Args:
        path: where it was read, for the messages.
        held: what optimisers and schedules call a value → the option that sets it; these must be the same again.

    Raises:
        CheckpointError: if it is no training checkpoint, or one of another set-up.
    """
    optimizer, lr_scheduler = state.optimizer, state.lr_scheduler
    assert lr_scheduler is not None, "a run that is resumed has a schedule"
    asked = {**optimizer.param_groups[0], **lr_scheduler.state_dict()}
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
        if not optimizer.defaults.keys() <= optimizer.param_groups[0].keys():
            raise ValueError("another -opt")
        if not {"T_max", "step_size"} & lr_scheduler.state_dict().keys() <= checkpoint["lr_scheduler"].keys():
            raise ValueError("another -lr_scheduler")
        lr_scheduler.load_state_dict(checkpoint["lr_scheduler"])
        if checkpoint.get("scaler"):  # the published code keeps none
            state.scaler.load_state_dict(checkpoint["scaler"])
        sums = checkpoint.get("sums", NO_SUMS)
        state.epoch, state.step = int(checkpoint["epoch"]) + 1, int(checkpoint.get("step", 0))
        sums = {"loss": float(sums["loss"]), "hits": int(sums["hits"]), "samples": int(sums["samples"])}
        state.best_acc = float(checkpoint.get("best_acc", checkpoint["max_test_acc"]))
        state.best_test_acc = float(checkpoint["max_test_acc"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        raise CheckpointError(f"{path} cannot be resumed: it is no training checkpoint of this set-up; "
                              "-pre_train starts from its weights") from None  # fmt: skip
    here = {**optimizer.param_groups[0], **lr_scheduler.state_dict()}
    for name, option in held.items():
        if name in asked and asked[name] != here[name]:
            raise CheckpointError(f"{path} was trained with {option} {here[name]:g}, not {asked[name]:g}: resume "
                                  "it with the same, or start from its weights with -pre_train")  # fmt: skip
    if state.step and checkpoint.get("batches") != state.batches:
        raise CheckpointError(
            f"{path} was saved in the middle of an epoch with other batches ({checkpoint.get('batches')}, here "
            f"{state.batches}); resume it with the same -b, -seed and data"
        )
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
    """Whether a checkpoint can be read and every byte is as it was written (torch itself skips the checksums)."""
    try:
        with ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        read_checkpoint(path)
    except (CheckpointError, BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return True
