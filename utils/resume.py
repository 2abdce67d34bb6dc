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

from .checkpoint import CheckpointError, read_checkpoint
from .run_dir import LATEST, PREVIOUS

# settings that may change between the parts of one run
MAY_CHANGE = {
    *("out_dir", "name", "resume", "save_every", "save_init", "pre_train", "epochs"),
    *("data_dir", "no_download", "j", "device", "backend", "step_mode", "checkpoint"),
}
# as optimisers and schedules call it → the option that says it
OF_THE_CHECKPOINT = {
    "initial_lr": "-lr",
    "momentum": "-momentum",
    "weight_decay": "-weight_decay",
    "T_max": "-T_max",
    "step_size": "-step_size",
    "gamma": "-gamma",
}
NO_SUMS: Mapping[str, float] = {"loss": 0.0, "hits": 0, "samples": 0}


class TrainingState:
    """All that a run is between two batches, as a checkpoint holds it.

    Args:
        net, optimizer, lr_scheduler, scaler: what is trained, and what trains it.
        batches: what an epoch's batches are a function of, besides the epoch.

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
    ):
        self.net, self.optimizer, self.lr_scheduler, self.scaler = net, optimizer, lr_scheduler, scaler
        self.batches = batches
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
            CheckpointError: if it is no training checkpoint, or one of another set-up.
        """
        optimizer, lr_scheduler = self.optimizer, self.lr_scheduler
        asked = {**optimizer.param_groups[0], **lr_scheduler.state_dict()}
        try:
            optimizer.load_state_dict(checkpoint["optimizer"])
            if not optimizer.defaults.keys() <= optimizer.param_groups[0].keys():
                raise ValueError("another -opt")
            if not {"T_max", "step_size"} & lr_scheduler.state_dict().keys() <= checkpoint["lr_scheduler"].keys():
                raise ValueError("another -lr_scheduler")
            lr_scheduler.load_state_dict(checkpoint["lr_scheduler"])
            if checkpoint.get("scaler"):  # the published code keeps none
                self.scaler.load_state_dict(checkpoint["scaler"])
            sums = checkpoint.get("sums", NO_SUMS)
            self.epoch, self.step = int(checkpoint["epoch"]) + 1, int(checkpoint.get("step", 0))
            self.sums = {"loss": float(sums["loss"]), "hits": int(sums["hits"]), "samples": int(sums["samples"])}
            percent = 1 if "best_acc" in checkpoint else 100  # the published code keeps a fraction, and no best_acc
            self.best_test_acc = percent * float(checkpoint["max_test_acc"])
            self.best_acc = float(checkpoint.get("best_acc", self.best_test_acc))
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
            raise CheckpointError(f"{path} cannot be resumed: it is no training checkpoint of this set-up; "
                                  "-pre_train starts from its weights") from None  # fmt: skip
        here = {**optimizer.param_groups[0], **lr_scheduler.state_dict()}
        for name, option in OF_THE_CHECKPOINT.items():
            if name in asked and asked[name] != here[name]:
                raise CheckpointError(f"{path} was trained with {option} {here[name]:g}, not {asked[name]:g}: resume "
                                      "it with the same, or start from its weights with -pre_train")  # fmt: skip
        if self.step and checkpoint.get("batches") != self.batches:
            raise CheckpointError(
                f"{path} was saved in the middle of an epoch with other batches ({checkpoint.get('batches')}, here "
                f"{self.batches}); resume it with the same -b, -seed and data"
            )


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
