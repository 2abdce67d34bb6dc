"""A training run's folder read as it is: torn lines are left out and counted, another run's settings noticed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from .commands import Command, settings_differ

NEEDED = ("epoch", "test_acc", "best_test_acc", "test_loss", "train_loss", "seconds")


@dataclass(frozen=True)
class Course:
    """A training run as its metrics.jsonl tells it.

    Args:
        folder: where it stands.
        rows: its good lines by epoch.
        epochs: how many it is to have.
        left_out: lines that are torn or no epoch's.
        other: why it is not the command's run after all, or "".
    """

    folder: Path
    rows: Sequence[Mapping[str, float]]
    epochs: int
    left_out: int
    device: str
    other: str = ""

    @property
    def is_finished(self) -> bool:
        return bool(self.rows) and not self.other and self.rows[-1]["epoch"] == self.epochs - 1

    @property
    def best(self) -> float:
        """Test accuracy (%) of the best epoch."""
        return self.rows[-1]["best_test_acc"]

    @property
    def last(self) -> float:
        """Test accuracy (%) of the last epoch."""
        return self.rows[-1]["test_acc"]

    @property
    def hours(self) -> float:
        """Hours of all epochs; those of lines left out are taken as the others' mean."""
        return mean(row["seconds"] for row in self.rows) * self.epochs / 3600


def read_course(folder: Path, command: Command) -> Course | None:
    """A training run's folder; None if it holds neither config.json nor metrics.jsonl."""
    if not ((folder / "config.json").exists() or (folder / "metrics.jsonl").exists()):
        return None
    try:
        config = json.loads((folder / "config.json").read_text())
        other = settings_differ(config, command) or ""
        device = str(config.get("made_with", {}).get("device", ""))
    except (OSError, ValueError, AttributeError):
        other, device = "config.json is missing or torn", ""
    rows, left_out = read_rows(folder / "metrics.jsonl")
    return Course(folder, rows, command.settings["epochs"], left_out, device, other)


def read_rows(path: Path) -> tuple[list[dict[str, float]], int]:
    """The good lines of a metrics.jsonl by epoch, and how many lines were left out."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    rows: dict[int, dict[str, float]] = {}
    left_out = 0
    for line in filter(bytes.strip, lines):
        try:
            row = json.loads(line)
            if not all(math.isfinite(row[name]) for name in NEEDED):
                raise ValueError("not a number")
            rows[int(row["epoch"])] = row
        except (ValueError, TypeError, KeyError, RecursionError):
            left_out += 1
    return [rows[epoch] for epoch in sorted(rows)], left_out
