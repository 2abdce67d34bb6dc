"""Finds what runs have left: in their folders, known by their settings and not by their names, else in the evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean

from . import evidence
from .commands import TRAIN, identity, settings_differ
from .evaluation import DONE, OF_EACH_STEP, key_of, quantities_of, read_evaluation
from .evidence import EVIDENCE, Key, Line
from .recipe import ACCURACY, Run
from .training_run import PER_STEP, SHARED, TrainingRun, made_on, read_training_run

BEST, LAST, TRAINED = f"{ACCURACY}, best", f"{ACCURACY}, last", f"{ACCURACY}, training set"


@dataclass(frozen=True)
class Outcome:
    """What there is of a run, over its seeds.

    Args:
        seeds: the seeds that are finished.
        values: quantity → value for each of them. Accuracy has several: best and last epoch, both also with the
            running statistics of each step, and that of the training set; and there is one of each epoch.
        rows: metrics by epoch for each of them (training runs).
        hours, memory_gb: of one seed; None where it was not measured.
        notes: what is missing or was left out, in words.
        where: folders, or files of the evidence.
    """

    seeds: tuple[int, ...] = ()
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rows: Sequence[Sequence[Mapping[str, float]]] = ()
    hours: float | None = None
    memory_gb: float | None = None
    device: str = ""
    notes: tuple[str, ...] = ()
    where: tuple[Path, ...] = ()


class Results:
    """Finds what runs have left under ``runs_dir``, else in the committed evidence."""

    def __init__(self, runs_dir: Path, runs: Mapping[str, Run], evidence_dir: Path = EVIDENCE):
        self.runs_dir, self.runs, self.evidence = runs_dir, runs, evidence_dir
        self._keys: dict[Path, tuple[int, Key | None]] = {}  # folder → when its settings were written, and its key

    def read_by(self, run: Run) -> list[Run]:
        """The training runs that a run reads."""
        return [self.runs[name] for name in run.of]

    def key(self, run: Run, seed: int) -> Key:
        """What tells a run from others, in whichever recipe it stands."""
        assert run.command is not None
        return run.command.identity, tuple(of.command.identity for of in self.read_by(run) if of.command), seed

    def name(self, run: Run, seed: int) -> str:
        """The name of a folder that is made for a run."""
        return f"{self._stem(run)}_seed{seed}"

    def _stem(self, run: Run) -> str:
        assert run.command is not None
        return run.command.stem([self._stem(of) for of in self.read_by(run)])

    def folders(self, run: Run, seed: int) -> list[Path]:
        """Where a run may stand: folders with its settings, and those with its name whatever they hold."""
        name, key = self.name(run, seed), self.key(run, seed)
        there = sorted(path for path in self.runs_dir.iterdir() if path.is_dir()) if self.runs_dir.is_dir() else []
        named = re.compile(re.escape(name) + r"(-\d+)?")  # name-2: the first was stopped before it had saved
        return [path for path in there if named.fullmatch(path.name) or self._key_of(path) == key]

    def _key_of(self, folder: Path) -> Key | None:
        path = next((each for each in (folder / "config.json", folder / DONE) if each.is_file()), None)
        if path is None:
            return None
        written = path.stat().st_mtime_ns
        if self._keys.get(folder, (0, None))[0] != written:
            self._keys[folder] = written, key_of(folder) if path.name == DONE else key_of_training(path)
        return self._keys[folder][1]

    @cached_property
    def kept(self) -> dict[Key, tuple[Path, Line]]:
        """The evidence: what tells a run from others → file and line."""
        return {
            evidence.key_of_line(line): (path, line)
            for path in sorted(self.evidence.glob("*.jsonl"))
            for line in evidence.read_lines(path)
        }

    def trained(self, run: Run, seed: int) -> TrainingRun | None:
        """The folder under ``runs_dir`` in which a training run is furthest; None if there is none."""
        assert run.command is not None
        found = []
        for folder in self.folders(run, seed):
            trained = read_training_run(folder, run.command.settings["epochs"])
            if trained is not None:
                other = trained.other or settings_differ(trained.settings, run.command)
                found.append(TrainingRun(**{**vars(trained), "other": other}))
        return max(found, key=lambda each: (each.is_finished, not each.other, len(each.rows)), default=None)

    def evaluated(self, run: Run, seed: int) -> Path | None:
        """The folder under ``runs_dir`` of a finished run that trains nothing; None if there is none."""
        return next((path for path in self.folders(run, seed) if (path / DONE).is_file()), None)

    def is_finished(self, run: Run, seed: int) -> bool:
        """Whether a run need not be run (again): it has its folder under ``runs_dir``, to the last epoch."""
        assert run.command is not None
        if run.command.trains:
            trained = self.trained(run, seed)
            return trained is not None and trained.is_finished
        return self.evaluated(run, seed) is not None

    def diverged(self, run: Run, seed: int) -> TrainingRun | None:
        """The training run under ``runs_dir``, if it has stopped being a number: the same again would, too."""
        trained = self.trained(run, seed) if run.command and run.command.trains else None
        return trained if trained and trained.diverged and not trained.other else None

    def keep(self, run: Run, seed: int) -> Line | None:
        """A run under ``runs_dir`` that is finished, or diverged, as a line of the evidence; None if there is none."""
        assert run.command is not None
        if not run.command.trains:
            folder = self.evaluated(run, seed)
            of = self.read_by(run)
            return evidence.line_of_evaluation(run, seed, read_evaluation(folder), of) if folder else None
        trained = self.trained(run, seed)
        has_ended = trained is not None and (trained.is_finished or trained.diverged)
        return evidence.line_of_training(run, seed, trained) if trained and has_ended else None

    def outcome(self, run: Run, seeds: Sequence[int]) -> Outcome:
        """What there is of a run over its seeds."""
        if run.command is None:
            return Outcome(notes=(f"not covered: {run.not_covered}",))
        return self._of_training(run, seeds) if run.command.trains else self._of_evaluations(run, seeds)

    def _of_training(self, run: Run, seeds: Sequence[int]) -> Outcome:
        """What there is of a training run: its folder where that is finished, else its line of the evidence."""
        notes, done = [], {}
        for seed in seeds:
            trained, kept = self.trained(run, seed), self.kept.get(self.key(run, seed))
            if kept and not (trained and trained.is_finished):
                trained = evidence.training_run(kept[1], kept[0])
            if trained is None:
                continue
            if trained.left_out:
                lines = "1 line" if trained.left_out == 1 else f"{trained.left_out} lines"
                notes.append(f"seed {seed}: {lines} of metrics.jsonl torn and left out")
            if trained.is_finished:
                done[seed] = trained
            elif trained.diverged:
                notes.append(f"seed {seed} diverged: {trained.diverged.split(',')[0]}")
            elif trained.other:
                notes.append(f"seed {seed}: {trained.where} is another run ({trained.other})")
            else:
                notes.append(f"seed {seed}: {len(trained.rows)} of {trained.epochs} epochs")
        notes += seeds_left(len(done), len(seeds))
        finished = list(done.values())
        of_steps = [seed for seed, each in done.items() if PER_STEP in each.last_row]
        if 0 < len(of_steps) < len(done):
            notes.append(f"statistics of each step: seed {', '.join(map(str, of_steps))} alone")
        memory = [each.memory_gb for each in finished if each.memory_gb is not None]
        return Outcome(
            seeds=tuple(done),
            values=accuracies(finished) | by_epoch(finished),
            rows=[each.rows for each in finished],
            hours=mean(each.hours for each in finished) if finished else None,
            memory_gb=max(memory, default=None),
            device=", ".join(dict.fromkeys(each.device for each in finished if each.device)),
            notes=tuple(notes),
            where=tuple(each.where for each in finished),
        )

    def _of_evaluations(self, run: Run, seeds: Sequence[int]) -> Outcome:
        """What there is of a run that trains nothing; one that reads no training run has one seed."""
        assert run.command is not None
        values: dict[str, list[float]] = {}
        notes, done = [], {}
        wanted = seeds if run.of else seeds[:1]
        for seed in wanted:
            folder, kept = self.evaluated(run, seed), self.kept.get(self.key(run, seed))
            if not (folder or kept):
                continue
            try:
                found = read_evaluation(folder) if folder else evidence.evaluation(kept[1], kept[0])  # type: ignore[index]
                seen = quantities_of(run.command.program, found.results)
                done[seed] = found
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                notes.append(f"seed {seed}: {folder} is damaged ({error!r:.60}); move it away and run it again")
                continue
            for quantity, value in seen.items():
                values.setdefault(quantity, []).append(value)
        notes += seeds_left(len(done), len(wanted))
        hours = [found.about["seconds"] / 3600 for found in done.values() if "seconds" in found.about]
        return Outcome(
            seeds=tuple(done),
            values=values,
            hours=mean(hours) if hours else None,
            device=", ".join(dict.fromkeys(made_on(found.about) for found in done.values())),
            notes=tuple(notes),
            where=tuple(found.where for found in done.values()),
        )


def key_of_training(config: Path) -> Key | None:
    """What tells the run of a config.json from others; None if it is torn."""
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        return identity(TRAIN, settings), (), settings["seed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def accuracies(finished: Sequence[TrainingRun]) -> dict[str, list[float]]:
    """Test accuracy (%) of best and last epoch, both ways of evaluating, and training accuracy of the last one.

    What one of the runs has not measured is left out: a mean is one over all of them.
    """
    rows = [(each.best_row, each.last_row) for each in finished]
    values = {
        BEST: [best[SHARED] for best, _ in rows if SHARED in best],
        LAST: [last[SHARED] for _, last in rows],
        BEST + OF_EACH_STEP: [best[PER_STEP] for best, _ in rows if PER_STEP in best],
        LAST + OF_EACH_STEP: [last[PER_STEP] for _, last in rows if PER_STEP in last],
        TRAINED: [last["train_acc"] for _, last in rows if "train_acc" in last],
    }
    return {quantity: each for quantity, each in values.items() if len(each) == len(rows) > 0}


def by_epoch(finished: Sequence[TrainingRun]) -> dict[str, list[float]]:
    """Test accuracy (%) after each epoch, counted from 1, and the best until then."""
    values: dict[str, list[float]] = {}
    for row in (row for each in finished for row in each.rows):
        epoch = int(row["epoch"]) + 1
        values.setdefault(f"after epoch {epoch}", []).append(row[SHARED])
        values.setdefault(f"best by epoch {epoch}", []).append(row["best_test_acc"])
    return values


def seeds_left(done: int, wanted: int) -> list[str]:
    """A note where some seeds are finished and others are not."""
    return [f"{done} of {wanted} seeds"] if 0 < done < wanted else []
