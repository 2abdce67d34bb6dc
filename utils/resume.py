"""Going on from a checkpoint: which one, whether it is this run's, and what it puts back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

from .checkpoint import CheckpointError, read_checkpoint, weights_of
from .resumable import (
    NO_SUMS,
    UnfitError,
    checked_accuracies,
    checked_optimizer,
    checked_place,
    checked_scaler,
    checked_schedule,
)
from .run_dir import LATEST, PREVIOUS

# settings that may change between the parts of one run
MAY_CHANGE = {
    *("out_dir", "name", "resume", "save_every", "save_init", "pre_train", "epochs"),
    *("data_dir", "no_download", "j", "device", "backend", "step_mode", "checkpoint"),
}


class TrainingState:
    """All that a run is between two batches, as a checkpoint holds it.

    Args:
        net, optimizer, lr_scheduler, scaler: what is trained, and what trains it.
        batches: what an epoch's batches are a function of, besides the epoch.
        steps: how many batches an epoch has.

    ``epoch`` and ``step`` say where the run begins: the next epoch, and how many of its batches have been trained on;
    ``sums`` is what the meter held after these (see :class:`utils.engine.Meter`). ``best_acc`` is the best accuracy so
    far on the set that chooses, ``best_test_acc`` the test accuracy of that epoch, both in percent.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
        scaler: torch.amp.GradScaler,
        batches: dict[str, int],
        steps: int,
    ):
        self.net, self.optimizer, self.lr_scheduler, self.scaler = net, optimizer, lr_scheduler, scaler
        self.batches, self.steps = batches, steps
        self.epoch, self.step = 0, 0
        self.sums: Mapping[str, float] = NO_SUMS
        self.best_acc = self.best_test_acc = float("-inf")

    def is_best(self, acc: float, test_acc: float) -> bool:
        """Whether an epoch is the best so far on the set that chooses; notes it if so."""
        if acc <= self.best_acc:
            return False
        self.best_acc, self.best_test_acc = acc, test_acc
        return True

    def after(self, epochs: int, step: int = 0, sums: Mapping[str, float] = NO_SUMS) -> dict[str, Any]:
        """The checkpoint after so many whole epochs and ``step`` batches of the next."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": epochs - 1,
            "step": step,
            "sums": dict(sums),
            "batches": self.batches,
            "max_test_acc": self.best_test_acc,
            "best_acc": self.best_acc,
        }

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Put a checkpoint's optimiser, schedule, scaler and place back; the network's weights have been loaded.

        Raises:
            CheckpointError: if it is no training checkpoint, or one of another set-up; nothing is put back then.
        """
        try:
            epoch, step, sums = checked_place(checkpoint, self.batches, self.steps)
            best_acc, best_test_acc = checked_accuracies(checkpoint)
            weights = weights_of(checkpoint, path)
            optimizer = checked_optimizer(checkpoint.get("optimizer"), weights, self.net, self.optimizer)
            (group,) = optimizer["param_groups"]
            published = "format" not in checkpoint
            schedule = checked_schedule(checkpoint.get("lr_scheduler"), self.lr_scheduler, group, epoch, published)
            scaler = checked_scaler(checkpoint.get("scaler"), self.scaler)
        except UnfitError as error:
            raise CheckpointError(f"{path} cannot be resumed: {error}; -pre_train starts from its weights") from None
        self.optimizer.load_state_dict(optimizer)
        self.lr_scheduler.load_state_dict(schedule)
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.epoch, self.step, self.sums = epoch, step, sums
        self.best_acc, self.best_test_acc = best_acc, best_test_acc


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
