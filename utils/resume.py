"""Going on from a checkpoint: which one, whether it is this run's, and what it puts back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from .checkpoint import CheckpointError, read_checkpoint
from .run_dir import LATEST, PREVIOUS

# settings that may change between the parts of one run
MAY_CHANGE = {
    *("out_dir", "name", "resume", "save_every", "save_init", "pre_train", "epochs"),
    *("data_dir", "no_download", "j", "device", "backend", "step_mode", "checkpoint"),
}
NO_SUMS = {"loss": 0.0, "hits": 0, "samples": 0}


@dataclass(frozen=True)
class Position:
    """Where a run goes on.

    Args:
        epoch, step: the next epoch, and how many of its batches have been trained on.
        sums: what the meter held after these batches (see :class:`utils.engine.Meter`).
        best_acc: the best accuracy so far on the set that chooses, in percent.
        best_test_acc: the test accuracy of that epoch, in percent.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict(NO_SUMS))
    best_acc: float = float("-inf")
    best_test_acc: float = float("-inf")


def restore(
    state: dict[str, Any],
    path: Path,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    batches: dict[str, int],
) -> Position:
    """Put a checkpoint's optimiser, schedule and scaler back.

    Args:
        state, path: the checkpoint. batches: what an epoch's batches are a function of, besides the epoch.

    Raises:
        CheckpointError: if it is no training checkpoint, or one of another set-up.
    """
    try:
        optimizer.load_state_dict(state["optimizer"])
        if not optimizer.defaults.keys() <= optimizer.param_groups[0].keys():
            raise ValueError("another -opt")
        if not {"T_max", "step_size"} & lr_scheduler.state_dict().keys() <= state["lr_scheduler"].keys():
            raise ValueError("another -lr_scheduler")
        lr_scheduler.load_state_dict(state["lr_scheduler"])
        if state.get("scaler"):  # the published code keeps none
            scaler.load_state_dict(state["scaler"])
        sums = state.get("sums", NO_SUMS)
        position = Position(
            epoch=int(state["epoch"]) + 1,
            step=int(state.get("step", 0)),
            sums={"loss": float(sums["loss"]), "hits": int(sums["hits"]), "samples": int(sums["samples"])},
            best_acc=float(state.get("best_acc", state["max_test_acc"])),
            best_test_acc=float(state["max_test_acc"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        raise CheckpointError(f"{path} cannot be resumed: it is no training checkpoint of this set-up; "
                              "-pre_train starts from its weights") from None  # fmt: skip
    if position.step and state.get("batches") != batches:
        raise CheckpointError(f"{path} was saved in the middle of an epoch with other batches ({state.get('batches')}, "
                              f"here {batches}); resume it with the same -b, -seed and data")  # fmt: skip
    return position


def newest_checkpoint(out_dir: Path, name: str, settings: dict[str, Any]) -> Path | None:
    """The newest checkpoint that is whole, of the runs in ``out_dir/name``, ``name-2`` … with these settings.

    One that is damaged is named on standard output, and the one before it is taken.

    Returns:
        Its path; None if there is none.
    """
    folders = out_dir.iterdir() if out_dir.is_dir() else ()
    runs = [path for path in folders if re.fullmatch(re.escape(name) + r"(-\d+)?", path.name)]
    found = [run / file for run in runs if is_same_run(run, settings) for file in (LATEST, PREVIOUS)]
    there = [path for path in found if path.is_file()]
    for path in sorted(there, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_whole(path):
            return path
        print(f"{path} is damaged; looking for the one before it")
    return None


def is_same_run(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the run in a folder was started with these settings, as far as they may not change."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    here = json.loads(json.dumps(settings, default=str))
    return all(config.get(name, value) == value for name, value in here.items() if name not in MAY_CHANGE)


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
