"""A recipe's figure: its runs sorted into panels and lines by their settings, then drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import gap_report, paper_figures
from analysis.paper_figures import Line, Panel
from utils.cli import exchange_of

from .commands import GAP
from .recipe import ACCURACY, FigureSpec, Recipe, Run
from .results import Outcome, Results

TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny_imagenet": "Tiny-ImageNet",
    "DVSCIFAR10": "DVS-CIFAR10",
    "dvsgesture": "DVS-Gesture",
    "digits": "digits",
    "digits_dvs": "digits as events",
    "digits_seq": "digits piece by piece",
}
AXES = {"T": "time steps T", "tau": "τ", "bptt_k": "BPTT depth k", "neuron": "neuron"}
EXCHANGED = ("PLIF", "KLIF", "GLIF", "PSN")  # whose looks lines with an exchange take
LOSSES = {"train_loss": "training loss", "test_loss": "test loss"}
Panels = dict[str, dict[str, Line]]


def draw(recipe: Recipe, outcomes: Mapping[str, Outcome], results: Results, folder: Path) -> list[Path]:
    """Draw a recipe's figure into ``folder``; nothing if there is neither a number of ours nor of the paper.

    Returns:
        The pictures.
    """
    spec = recipe.figure
    if spec is None:
        return []
    path, accuracy = folder / recipe.name, f"test accuracy (%), {recipe.value} epoch"
    pictures = [path.with_name(path.name + suffix) for suffix in (".png", ".pdf")]
    if spec.kind == "gap":
        networks = networks_of(recipe, outcomes)
        if networks:
            gap_report.draw(networks, path)
        return pictures if networks else []
    panels: Panels = {}
    for run in recipe.runs:
        if run.command is not None and run.command.trains == (spec.kind != "rates"):
            add(panels, spec, recipe, run, settings_of(run, results), outcomes[run.id])
    shown = [
        Panel(TITLES.get(title, title), [line for line in lines.values() if line.points or line.paper])
        for title, lines in panels.items()
    ]
    shown = [panel for panel in shown if panel.lines]
    if not shown:
        return []
    if spec.kind == "lines":
        paper_figures.draw_lines(
            shown, path, x_label=AXES.get(spec.x, spec.x), y_label=accuracy, powers_of_two=spec.x == "T"
        )
    elif spec.kind == "heat":
        paper_figures.draw_heat(
            shown,
            path,
            x_label=AXES.get(spec.x, spec.x),
            line_label=AXES.get(spec.line, spec.line),
            value_label=accuracy,
        )
    elif spec.kind == "bars":
        paper_figures.draw_bars(shown, path, y_label=accuracy)
    elif spec.kind == "curves":
        paper_figures.draw_curves(shown, path, y_label=LOSSES[spec.quantity])
    else:
        paper_figures.draw_rates(shown, path)
    return pictures


def networks_of(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """What :mod:`analysis.evaluation_gap` measured of a recipe's runs, of the first seed of each."""
    measured = [run for run in recipe.runs if run.command is not None and run.command.program == GAP]
    folders = [outcomes[run.id].folders[0] for run in measured if outcomes[run.id].folders]
    return [
        network
        for folder in folders
        for network in json.loads((folder / "evaluation_gap.json").read_text())["networks"]
    ]


def settings_of(run: Run, results: Results) -> Mapping[str, Any]:
    """The settings of a training run, or of the one that a measurement reads."""
    trained = results.runs[run.of] if run.of else run
    assert trained.command is not None
    return trained.command.settings


def add(
    panels: Panels, spec: FigureSpec, recipe: Recipe, run: Run, settings: Mapping[str, Any], outcome: Outcome
) -> None:
    """Put a run where it belongs in the figure."""
    panel = panels.setdefault(str(settings[spec.panel]) if spec.panel else "", {})
    new = line_of(spec.line, settings, len(panel))
    line = panel.setdefault(new.label, new)
    if spec.kind == "curves":
        for row in (row for rows in outcome.rows for row in rows):
            values = line.points.setdefault(int(row["epoch"]), [])
            assert isinstance(values, list)
            values.append(row[spec.quantity])
    elif spec.kind == "rates":
        for quantity in (name for name in {**run.paper, **outcome.values} if name.startswith("firing rate ")):
            layer = int(quantity.rpartition(" ")[2])
            if outcome.values.get(quantity):
                line.points[layer] = outcome.values[quantity]
            if run.paper.get(quantity) is not None:
                line.paper[layer] = run.paper[quantity]  # type: ignore[assignment]
    else:
        x = settings[spec.x]
        if outcome.seeds:
            line.points[x] = outcome.values[f"{ACCURACY}, {recipe.value}"]
        if run.paper.get(ACCURACY) is not None:
            line.paper[x] = run.paper[ACCURACY]  # type: ignore[assignment]


def line_of(setting: str, settings: Mapping[str, Any], place: int) -> Line:
    """A line without points: its name in the legend, and its look."""
    value = settings[setting]
    if setting == "neuron":
        return Line(str(value))
    if setting == "tau":
        return Line(f"τ = {value:g}")
    if setting == "bptt_k":
        return Line("all" if value is None else f"k = {value}")
    if setting == "switch_neuron":
        if value is None:
            return Line(f"{settings['neuron']} throughout", look=settings["neuron"])
        epoch, neuron = exchange_of(value)
        return Line(f"{neuron} from epoch {epoch}", look=EXCHANGED[place % len(EXCHANGED)], event=epoch)
    return Line(f"{setting} {value}")
