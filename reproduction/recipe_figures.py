"""A recipe's figure: its runs sorted into panels and lines by their settings, then drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data import describe
from deploy import table8
from figures.bars import draw_bars, draw_heat
from figures.lines import draw_curves, draw_lines, draw_rates
from figures.panels import Line, Panel
from utils.cli import exchange_of

from .evaluation import OF_EACH_STEP
from .recipe import ACCURACY, FigureSpec, Recipe, Run
from .results import Outcome, Results

AXES = {"T": "time steps T", "tau": "τ", "bptt_k": "BPTT depth k", "neuron": "neuron"}
EXCHANGED = ("PLIF", "KLIF", "GLIF", "PSN")  # whose looks lines with an exchange take
OF_ACCURACY = ("lines", "heat", "bars")  # kinds of figures that show accuracies
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
    path = folder / recipe.name
    if spec.kind == "resets":
        rows = {run.label: resets_of(outcomes[run.id]) for run in recipe.runs}
        if not any(rows.values()):
            return []
        table8.draw({label: row for label, row in rows.items() if row}, path)
    else:
        panels = panels_of(recipe, spec, outcomes, results)
        if not panels:
            return []
        draw_panels(recipe, spec, panels, path)
    return [path.with_name(path.name + suffix) for suffix in (".png", ".pdf")]


def resets_of(outcome: Outcome) -> dict[str, Sequence[float]]:
    """Column of Table 8 → accuracies; nothing if the run was not swept over reset values."""
    if table8.AS_TRAINED not in outcome.values:
        return {}
    return {c: v for c, v in outcome.values.items() if c != ACCURACY and not c.endswith(OF_EACH_STEP)}


def panels_of(recipe: Recipe, spec: FigureSpec, outcomes: Mapping[str, Outcome], results: Results) -> list[Panel]:
    """The figure's panels; accuracies with the running statistics of each step stand in panels of their own."""
    panels: Panels = {}
    for evaluated in ("", OF_EACH_STEP) if spec.kind in OF_ACCURACY else ("",):
        for run in recipe.runs:
            if run.command is not None and run.command.trains == (spec.kind != "rates"):
                add(panels, spec, recipe, run, settings_of(run, results), outcomes[run.id], evaluated)
    shown = [
        Panel(title, [line for line in lines.values() if line.points or line.paper]) for title, lines in panels.items()
    ]
    return [panel for panel in shown if panel.lines]


def draw_panels(recipe: Recipe, spec: FigureSpec, panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels as the recipe says."""
    accuracy = f"test accuracy (%), {recipe.value} epoch"
    x_label = AXES.get(spec.x, spec.x)
    if spec.kind == "lines":
        draw_lines(panels, path, x_label=x_label, y_label=accuracy, powers_of_two=spec.x == "T")
    elif spec.kind == "heat":
        draw_heat(panels, path, x_label=x_label, line_label=AXES.get(spec.line, spec.line), value_label=accuracy)
    elif spec.kind == "bars":
        draw_bars(panels, path, y_label=accuracy)
    elif spec.kind == "curves":
        draw_curves(panels, path, y_label=LOSSES[spec.quantity])
    else:
        draw_rates(panels, path)


def settings_of(run: Run, results: Results) -> Mapping[str, Any]:
    """The settings of a training run, or of the one that a measurement reads."""
    trained = results.runs[run.of[0]] if run.of else run
    assert trained.command is not None
    return trained.command.settings


def title_of(spec: FigureSpec, settings: Mapping[str, Any], evaluated: str) -> str:
    """A panel's title: the data set's own in figures, or the value of another setting."""
    value = str(settings[spec.panel]) if spec.panel else ""
    title = (describe(value).title or value) if spec.panel == "dataset" else value
    return title + ("\nrunning statistics of each step" if evaluated else "")


def add(
    panels: Panels,
    spec: FigureSpec,
    recipe: Recipe,
    run: Run,
    settings: Mapping[str, Any],
    outcome: Outcome,
    evaluated: str = "",
) -> None:
    """Put a run where it belongs in the figure.

    Args:
        evaluated: "" for accuracies with shared running statistics, else the end of the quantity's name.
    """
    panel = panels.setdefault(title_of(spec, settings, evaluated), {})
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
        x, found = settings[spec.x], outcome.values.get(f"{ACCURACY}, {recipe.value}{evaluated}")
        if found:
            line.points[x] = found
        if run.paper.get(ACCURACY) is not None and not evaluated:
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
