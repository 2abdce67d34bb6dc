"""Any runs side by side: what differs in their settings, what came of it, and their curves."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from figures.lines import draw_runs
from figures.panels import Line, Panel
from settings.record import CONFIG, read_config
from settings.resume import MUST_STAY
from settings.training import DEFAULTS, OPTIONS
from utils.cli import UsageError
from utils.output import in_markdown, markdown_table, write_json, written_aside

from .markdown import NONE
from .pairs import Member, grouped, pairs_of, pairs_table, setting_in_words
from .training_run import PER_STEP, SHARED, TrainingRun, folders_in, read_training_run

NAME = "compare"  # of the files that are written
# what inference.py -profile leaves in a run's folder; older versions wrote it in the last of these
ACCOUNTS = tuple(Path("inference") / of / "account.json" for of in ("checkpoint_latest", "checkpoint_max", ""))
COMPARED = sorted(MUST_STAY | {"epochs", "seed"})
# column of metrics.jsonl → a panel's title
PANELS = {
    SHARED: "test accuracy (%), shared",
    PER_STEP: "test accuracy (%), per step",
    "train_loss": "training loss",
}
RESULTS = {
    "last": "last",
    "last_per_step": "last, per step",
    "best": "best",
    "best_per_step": "best, per step",
    "train_acc": "training",
    "train_loss": "training loss",
    "hours": "hours",
    "firing_rate": "firing rate",
}
NOTE = (
    "Test accuracy in %: of the last epoch and of the one that was chosen as the best, with the running statistics of "
    "batch norm that all steps share and, *per step*, with those of each step. Training accuracy (%) and loss: of the "
    "last epoch. Hours: of the epochs that there are. Firing rate: mean over the layers, where `inference.py -profile` "
    f"has measured it. {NONE}: not measured.\n"
)


@dataclass(frozen=True)
class Shown:
    """A run as it is shown.

    Args:
        name: its folder's, or its path where two folders have one name.
        settings: those that tell runs apart, defaults filled in.
        firing_rate: mean over the layers; None where it was not measured.
    """

    name: str
    run: TrainingRun
    settings: Mapping[str, Any]
    firing_rate: float | None

    @property
    def results(self) -> dict[str, float | None]:
        """What the table shows, by the names of :data:`RESULTS`."""
        best, last = self.run.best_row, self.run.last_row
        return {
            "last": last[SHARED],
            "last_per_step": last.get(PER_STEP),
            "best": best.get(SHARED),
            "best_per_step": best.get(PER_STEP),
            "train_acc": last.get("train_acc"),
            "train_loss": last["train_loss"],
            "hours": sum(row["seconds"] for row in self.run.rows) / 3600,
            "firing_rate": self.firing_rate,
        }


def compare(paths: Sequence[Path], out_dir: Path) -> str:
    """Write ``compare.md``, ``.json``, ``.png`` and ``.pdf`` into ``out_dir``; returns the Markdown.

    Args:
        paths: run folders, or folders of run folders; of the latter, runs without a finished epoch are left out.

    Raises:
        UsageError: naming a folder that holds no run, or a run that cannot be read.
    """
    folders: dict[Path, Path] = {}  # where it really is → as it was named first
    nameless: dict[Path, str] = {}  # the same of those without a config.json
    for known, unknown in map(folders_in, paths):
        for folder in known:
            folders.setdefault(folder.resolve(), folder)
        for folder in unknown:
            nameless.setdefault(folder.resolve(), in_markdown(str(folder)))
    names = [real.name for real in folders]
    found = {real: read_run(folder, real.name if names.count(real.name) == 1 else str(folder))
             for real, folder in folders.items()}  # fmt: skip
    runs = [run for run in found.values() if run is not None]
    begun = {real: str(folders[real]) for real, run in found.items() if run is None}
    if begun and (not runs or begun.keys() & {path.resolve() for path in paths}):
        raise UsageError(f"{next(iter(begun.values()))} has no finished epoch to compare")
    differing = [name for name in COMPARED if len({run.settings[name] for run in runs}) > 1]
    groups = grouped(runs, differing)
    twice = [in_markdown(run.name) for _, group in groups for run in group
             if [each.settings["seed"] for each in group].count(run.settings["seed"]) > 1]  # fmt: skip
    pairs = pairs_of([Member(label, group[0].settings, {run.settings["seed"]: run.run.last_row for run in group
                                                        if in_markdown(run.name) not in twice})
                      for label, group in groups])  # fmt: skip
    torn = [f"{in_markdown(run.name)} ({run.run.left_out})" for run in runs if run.run.left_out]
    text = "\n".join([
        f"## {len(runs)} {'run' if len(runs) == 1 else 'runs'} side by side\n",
        table(runs, differing),
        *([pairs_table(pairs, in_markdown)] if pairs else []),
        *([f"Not paired, as others have the same settings and seed: {', '.join(twice)}.\n"] if twice else []),
        *([f"Left out, as no epoch is finished: {', '.join(map(in_markdown, begun.values()))}.\n"] if begun else []),
        *([f"Left out, as {CONFIG} is missing: {', '.join(nameless.values())}.\n"] if nameless else []),
        *([f"Lines of metrics.jsonl torn or no epoch's, and left out: {', '.join(torn)}.\n"] if torn else []),
        NOTE,
        f"![Accuracy and loss by epoch]({NAME}.png)\n",
    ])  # fmt: skip
    in_common = {name: runs[0].settings[name] for name in COMPARED if name not in differing}
    with written_aside(out_dir) as folder:
        draw_runs(panels_of(groups), folder / NAME)
        (folder / f"{NAME}.md").write_text(text, encoding="utf-8")
        write_json(folder / f"{NAME}.json", {"in_common": in_common, "differing": differing,
                                             "runs": [as_dict(run) for run in runs],
                                             "paired": [pair.as_dict() for pair in pairs]})  # fmt: skip
    return text


def read_run(folder: Path, name: str) -> Shown | None:
    """A run's folder; None if no epoch is finished.

    Raises:
        UsageError: if its config.json is damaged.
    """
    settings = {**DEFAULTS, **read_config(folder / CONFIG)}
    for each in COMPARED:
        try:
            settings[each] = as_option(each, settings[each])
        except ArgumentTypeError:
            what = f"{each} is {settings[each]!r:.40}"
            raise UsageError(f"{folder / CONFIG} is damaged: {what}; mend it, or take it out") from None
    run = read_training_run(folder, settings["epochs"])
    if run is None or not run.rows:
        return None
    return Shown(name, run, {each: settings[each] for each in COMPARED}, firing_rate_in(folder))


def as_option(name: str, value: Any) -> Any:
    """A setting of a config.json as its option reads it, so that 1 and 1.0 are one; names of other versions stay.

    Raises:
        ArgumentTypeError: if it is nothing that the option takes.
    """
    known = OPTIONS[name]
    if name == "seed" and isinstance(value, list):  # of older runs: the seeds of a command line
        if len(value) != 1:
            return str(value)
        (value,) = value
    if value is None or known.type is None or known.choices:
        if not isinstance(value, type(DEFAULTS[name])):
            raise ArgumentTypeError(name)
        return value
    read = known.type(str(value))
    return read if isinstance(read, int | float) else str(read)


def firing_rate_in(folder: Path) -> float | None:
    """Mean over the layers of what the account of a run's network measured; None where there is none.

    Raises:
        UsageError: if it is damaged.
    """
    path = next((folder / account for account in ACCOUNTS if (folder / account).is_file()), None)
    if path is None:
        return None
    try:
        rates = [float(rate) for rate in json.loads(path.read_text(encoding="utf-8"))["firing_rates"].values()]
        if not all(0 <= rate < float("inf") for rate in rates):
            raise ValueError("no rate")
        return mean(rates)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UsageError(f"{path} is damaged; delete it, or measure again with -profile") from None


def table(runs: Sequence[Shown], differing: Sequence[str]) -> str:
    """A row for each run: the settings that differ, then the results that any of them has."""
    results = [run.results for run in runs]
    columns = [name for name in RESULTS if any(each[name] is not None for each in results)]
    rows = [
        [in_markdown(run.name), *(in_markdown(setting_in_words(run.settings[name])) for name in differing),
         f"{len(run.run.rows)} of {run.run.epochs}" + ", diverged" * bool(run.run.diverged),
         *(number(name, each[name]) for name in columns)]
        for run, each in zip(runs, results, strict=True)
    ]  # fmt: skip
    header = ["run", *differing, "epochs done", *(RESULTS[name] for name in columns)]
    return markdown_table(header, rows)


def panels_of(groups: Sequence[tuple[str, Sequence[Shown]]]) -> list[Panel]:
    """A panel for each quantity that is there, a line for each group; a neuron's own look where it is one group's."""
    neurons = [group[0].settings["neuron"] for _, group in groups]
    panels = []
    for column, title in PANELS.items():
        lines = []
        for label, group in groups:
            points: dict[Any, list[float]] = {}
            for row in (row for run in group for row in run.run.rows if column in row):
                points.setdefault(int(row["epoch"]) + 1, []).append(row[column])
            neuron = group[0].settings["neuron"]
            look = neuron if len(set(neurons)) == len(neurons) else "by its place"
            lines.append(Line(label, dict(sorted(points.items())), look=look))
        if any(line.points for line in lines):
            panels.append(Panel(title, lines))
    return panels


def as_dict(run: Shown) -> dict[str, Any]:
    """A run ready for JSON, every epoch of it included."""
    return {
        "name": run.name,
        "folder": str(run.run.where),
        "settings": dict(run.settings),
        "made_with": run.run.about.get("made_with", {}),
        **run.results,
        "left_out": run.run.left_out,
        "epochs": list(run.run.rows),
    }


def number(name: str, value: float | None) -> str:
    """A result as the table shows it."""
    if value is None:
        return NONE
    return f"{value:.3g}" if name == "hours" else f"{value:.{4 if name in ('train_loss', 'firing_rate') else 2}f}"
