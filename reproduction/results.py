"""What a run has left behind: read from its folder, or from the evidence that is committed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from analysis.table8 import columns_of
from utils.run_dir import naming_disk

from .commands import GAP, INFER, ROOT, Command
from .course import Course, read_course
from .recipe import ACCURACY, Run

EVIDENCE = ROOT / "results" / "evidence"
DONE = "done.json"  # the last file of a run that trains nothing
KEPT = (
    "config.json",
    "metrics.jsonl",
    "evaluation.json",
    "sweep.json",
    "account.json",
    "neurons.json",
    "evaluation_gap.json",
    DONE,
)
ENERGY_PARTS = ("potential_mJ", "params_mJ", "inout_mJ", "op_mJ", "addr_uJ", "total_mJ")


@dataclass(frozen=True)
class Outcome:
    """What there is of a run, over its seeds.

    Args:
        seeds: the seeds that are finished.
        values: quantity → value for each of them. Accuracy has two: ``accuracy, best`` and ``accuracy, last``.
        rows: metrics by epoch for each of them (training runs).
        notes: what is missing or was left out, in words.
        folders: where they stand.
    """

    seeds: tuple[int, ...] = ()
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rows: Sequence[Sequence[Mapping[str, float]]] = ()
    hours: float | None = None
    device: str = ""
    notes: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()


class Results:
    """Finds what runs have left under ``runs_dir``, else in the committed evidence."""

    def __init__(self, runs_dir: Path, runs: Mapping[str, Run], evidence: Path = EVIDENCE):
        self.runs_dir, self.runs, self.evidence = runs_dir, runs, evidence

    def name(self, run: Run, seed: int) -> str:
        """The folder's name of one run and seed; equal commands share it."""
        return f"{self.stem(run)}_seed{seed}"

    def stem(self, run: Run) -> str:
        assert run.command is not None
        return run.command.stem(self.stem(self.runs[run.of]) if run.of else "")

    def folders(self, run: Run, seed: int) -> list[Path]:
        """Where a run may stand: under its name, or ``name-2`` … (one that was stopped before it had saved)."""
        name = self.name(run, seed)
        here = self.runs_dir.glob(f"{name}*") if self.runs_dir.is_dir() else ()
        own = [path for path in here if path.is_dir() and re.fullmatch(re.escape(name) + r"(-\d+)?", path.name)]
        return [*sorted(own), *sorted(self.evidence.glob(f"*/{name}"))]

    def course(self, run: Run, seed: int, *, own: bool = False) -> Course | None:
        """The training run of a seed that is furthest; None if there is none.

        Args:
            own: leave the committed evidence aside, which has no checkpoints.
        """
        assert run.command is not None
        folders = [path for path in self.folders(run, seed) if not own or path.parent == self.runs_dir]
        found = [read_course(path, run.command) for path in folders]
        there = [course for course in found if course is not None]
        return max(there, key=lambda course: (course.is_finished, not course.other, len(course.rows)), default=None)

    def made(self, run: Run, seed: int, *, own: bool = False) -> Path | None:
        """The folder of a finished run that trains nothing; None if there is none."""
        for path in self.folders(run, seed):
            if (path / DONE).is_file() and not (own and path.parent != self.runs_dir):
                return path
        return None

    def is_finished(self, run: Run, seed: int, *, own: bool = False) -> bool:
        assert run.command is not None
        if run.command.trains:
            course = self.course(run, seed, own=own)
            return course is not None and course.is_finished
        return self.made(run, seed, own=own) is not None

    def keep(self, run: Run, seed: int) -> Path | None:
        """Copy what is small of a finished run of one's own to the evidence; None if there is none."""
        assert run.command is not None
        course = self.course(run, seed, own=True) if run.command.trains else None
        folder = course.folder if course and course.is_finished else self.made(run, seed, own=True)
        if folder is None:
            return None
        to = self.evidence / run.recipe / self.name(run, seed)
        with naming_disk(to):
            to.mkdir(parents=True, exist_ok=True)
            drawn = () if run.command.trains or run.of else folder.glob("*.png")
            for path in (*(folder / name for name in KEPT), *drawn):
                if path.is_file():
                    shutil.copy(path, to)
        return to

    def outcome(self, run: Run, seeds: Sequence[int]) -> Outcome:
        """What there is of a run over its seeds."""
        if run.command is None:
            return Outcome(notes=(f"not covered: {run.not_covered}",))
        return self._trained(run, seeds) if run.command.trains else self._measured(run, seeds)

    def _trained(self, run: Run, seeds: Sequence[int]) -> Outcome:
        notes, done = [], {}
        for seed in seeds:
            course = self.course(run, seed)
            if course is None:
                continue
            if course.left_out:
                lines = "1 line" if course.left_out == 1 else f"{course.left_out} lines"
                notes.append(f"seed {seed}: {lines} of metrics.jsonl torn and left out")
            if course.is_finished:
                done[seed] = course
            elif course.other:
                notes.append(f"seed {seed}: {course.folder} is another run ({course.other})")
            else:
                notes.append(f"seed {seed}: {len(course.rows)} of {course.epochs} epochs")
        notes += seeds_left(len(done), len(seeds))
        courses = list(done.values())
        return Outcome(
            seeds=tuple(done),
            values={
                f"{ACCURACY}, best": [course.best for course in courses],
                f"{ACCURACY}, last": [course.last for course in courses],
            },
            rows=[course.rows for course in courses],
            hours=mean(course.hours for course in courses) if courses else None,
            device=", ".join(dict.fromkeys(course.device for course in courses)),
            notes=tuple(notes),
            folders=tuple(course.folder for course in courses),
        )

    def _measured(self, run: Run, seeds: Sequence[int]) -> Outcome:
        assert run.command is not None
        values: dict[str, list[float]] = {}
        notes, done, folders, devices, hours = [], [], [], [], []
        wanted = seeds if run.of else seeds[:1]
        for seed in wanted:
            folder = self.made(run, seed)
            if folder is None:
                continue
            try:
                about = json.loads((folder / DONE).read_text())
                seen = measured(folder, run.command)
                hours.append(about["seconds"] / 3600)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                notes.append(f"seed {seed}: {folder} is damaged ({error!r:.60}); delete it and run it again")
                continue
            for quantity, value in seen.items():
                values.setdefault(quantity, []).append(value)
            done.append(seed)
            folders.append(folder)
            devices.append(str(about["device"]))
        notes += seeds_left(len(done), len(wanted))
        device = ", ".join(dict.fromkeys(devices))
        return Outcome(tuple(done), values, (), mean(hours) if hours else None, device, tuple(notes), tuple(folders))


def seeds_left(done: int, wanted: int) -> list[str]:
    """A note where some seeds are finished and others are not."""
    return [f"{done} of {wanted} seeds"] if 0 < done < wanted else []


def measured(folder: Path, command: Command) -> dict[str, float]:
    """What a run that trains nothing measured, by quantity."""
    if command.program == GAP:
        (network,) = json.loads((folder / "evaluation_gap.json").read_text())["networks"]
        return {f"{part}, {way}": acc for part, ways in network["accuracy"].items() for way, acc in ways.items()}
    if command.program != INFER:
        path = folder / "neurons.json"
        rates = json.loads(path.read_text())["firing_rate"] if path.is_file() else {}
        return {f"spikes per step of {neuron}": rate for neuron, rate in rates.items()}
    values: dict[str, float] = {}
    if command.settings["sweep"] or command.settings["calibrate"]:
        values |= columns_of(json.loads((folder / "sweep.json").read_text()))
    if command.settings["profile"]:
        values |= account_values(json.loads((folder / "account.json").read_text()))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return {ACCURACY: evaluation["test"]["acc"], **values}


def account_values(account: Mapping[str, Any]) -> dict[str, float]:
    """The quantities of Tables 6 and 7 and of Figure 11 in an account.json."""
    neuron = account["neuron"]
    row = "ReLU" if neuron == "relu" else neuron
    counted = account["operations"]["ReLU" if neuron == "relu" else f"{neuron}, one time step (as Table 6 prints)"]
    energy = account["energy"][row]
    rates = list(account["firing_rates"].values())
    return {
        "params (M)": account["parameters"] / 1e6,
        "ACs (M)": counted["acs"] / 1e6,
        "MACs (M)": counted["macs"] / 1e6,
        "energy (µJ)": counted["microjoules"],
        **{part: energy[part] for part in ENERGY_PARTS},
        "firing rate": mean(rates),
        **{f"firing rate {number}": rate for number, rate in enumerate(rates, 1)},
    }
