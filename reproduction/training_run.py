"""A training run as its folder or the evidence has it: torn lines are left out and counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from settings.record import CONFIG
from utils.cli import UsageError
from utils.run_dir import DIVERGED, LATEST, is_epoch

NEEDED = ("epoch", "test_acc", "best_test_acc", "test_loss", "train_loss", "seconds")
METRICS = "metrics.jsonl"
ABOUT = ("samples", "split", "ranks")  # what config.json holds besides settings and ``made_with``
# test accuracy with the running statistics that all steps share, and with those of each step
SHARED, PER_STEP = "test_acc", "test_acc_per_step"


def made_on(environment: Mapping[str, Any]) -> str:
    """The GPU, or where there was none the processor, as far as it was written down."""
    device = str(environment.get("device", ""))
    return str(environment.get("processor", device)) if device == "cpu" else device


@dataclass(frozen=True)
class TrainingRun:
    """A training run.

    Args:
        where: its folder, or the file of the evidence.
        rows: its good lines by epoch.
        epochs: how many it is to have.
        settings: as its config.json has them.
        about: samples, split, ranks; versions, commit and device under ``made_with``; ``date``.
        left_out: lines that are torn or no epoch's.
        other: why it is not the command's run after all, or "".
        diverged: the line it ended with, if it stopped being a number, or "".
    """

    where: Path
    rows: Sequence[Mapping[str, float]]
    epochs: int
    settings: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    left_out: int = 0
    other: str = ""
    diverged: str = ""

    @property
    def is_finished(self) -> bool:
        return bool(self.rows) and not self.other and self.rows[-1]["epoch"] == self.epochs - 1

    @property
    def best_row(self) -> Mapping[str, float]:
        """The epoch that was chosen as the best: the first of the highest accuracy on the set that chooses.

        Where its line is torn, what the last line knows of it.
        """
        last, of_each_step = self.rows[-1], self.settings.get("bn_eval") == "per_step"
        column = PER_STEP if of_each_step and PER_STEP in last else SHARED
        chosen_by = column.replace("test", "val") if "val_acc" in last else column
        best = max((row for row in self.rows if chosen_by in row), key=lambda row: row[chosen_by], default=last)
        return best if best.get(column) == last["best_test_acc"] else {column: last["best_test_acc"]}

    @property
    def last_row(self) -> Mapping[str, float]:
        return self.rows[-1]

    @property
    def device(self) -> str:
        return made_on(self.about.get("made_with", {}))

    @property
    def hours(self) -> float:
        """Hours of all epochs; those of lines left out are taken as the others' mean."""
        if self.diverged:
            return sum(row["seconds"] for row in self.rows) / 3600
        return mean(row["seconds"] for row in self.rows) * self.epochs / 3600

    @property
    def memory_gb(self) -> float | None:
        """Most memory held, in GiB; None where it was not measured."""
        return max((row["peak_memory_gb"] for row in self.rows if "peak_memory_gb" in row), default=None)


def folders_in(path: Path) -> tuple[list[Path], list[Path]]:
    """A run's folder itself, or the run folders that stand in a folder; and what stands there of a run without its
    config.json: nobody knows which run that is.

    Raises:
        UsageError: if there is none. OSError: if a folder may not be looked at.
    """
    if (path / CONFIG).is_file():
        return [path], []
    folders = sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []
    found = [each for each in folders if (each / CONFIG).is_file()]
    if not found:
        raise UsageError(f"{path} holds no run: neither {CONFIG} nor folders with one")
    rest = [each for each in folders if any((each / file).exists() for file in (METRICS, LATEST))]
    return found, [each for each in rest if each not in found]


def read_training_run(folder: Path, epochs: int) -> TrainingRun | None:
    """A training run's folder; None if it holds neither config.json nor metrics.jsonl."""
    note = folder / DIVERGED
    metrics = folder / METRICS
    if not ((folder / CONFIG).exists() or metrics.exists()):
        return None
    rows, left_out = read_rows(metrics)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        about = {name: config.pop(name) for name in (*ABOUT, "made_with", "date") if name in config}
        if not isinstance(about.get("made_with", {}), dict):
            raise ValueError("versions and device are to be a mapping")
    except (OSError, ValueError, AttributeError, TypeError):
        return TrainingRun(folder, rows, epochs, {}, {}, left_out, "config.json is missing or torn")
    if metrics.exists():
        about = {"date": datetime.fromtimestamp(metrics.stat().st_mtime, UTC).isoformat(timespec="seconds"), **about}
    diverged = note.read_text(encoding="utf-8", errors="replace").strip() if note.is_file() else ""
    return TrainingRun(folder, rows, epochs, config, about, left_out, diverged=diverged)


def read_rows(path: Path) -> tuple[list[dict[str, float]], int]:
    """The good lines of a metrics.jsonl by epoch, and how many lines were left out."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    rows: dict[int, dict[str, float]] = {}
    left_out = 0
    for line in filter(bytes.strip, lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if is_epoch(row) and row.keys() >= {*NEEDED}:
            rows[row["epoch"]] = row
        else:
            left_out += 1
    return [rows[epoch] for epoch in sorted(rows)], left_out
