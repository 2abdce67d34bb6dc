"""What the paper's figures are made of: panels, lines and their looks, the legend (drawn in lines.py and bars.py).

What is measured here is solid and filled; what the paper prints is hollow and thin beside it. Where there are
several seeds, error bars and bands are one standard error of the mean, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .style import GREY, NEURON_STYLES, SERIES_STYLES, WIDTH

HEIGHT = 2.3  # inches of a row of panels
IN_A_ROW = 3
WIDTHS = {1: 0.58 * WIDTH, 2: 0.85 * WIDTH, 3: WIDTH}  # inches, by panels in a row
NAMES = {"relu": "ReLU"}


@dataclass(frozen=True)
class Line:
    """One line, or one group of bars.

    Args:
        label: what the legend says.
        points: x → the value of each seed.
        paper: x → the paper's value.
        look: the neuron whose style it takes; "" takes the label's, or else one by its place.
        event: an x at which something happens to it, marked by a vertical line.
    """

    label: str
    points: dict[Any, Sequence[float]] = field(default_factory=dict)
    paper: dict[Any, float] = field(default_factory=dict)
    look: str = ""
    event: float | None = None


@dataclass(frozen=True)
class Panel:
    """One of a figure's panels; its lines are drawn in order."""

    title: str
    lines: Sequence[Line]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; 0 for one value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def standard_deviation(values: Sequence[float]) -> float:
    """Over the seeds; 0 for one value."""
    return stdev(values) if len(values) > 1 else 0.0


def shown(label: str) -> str:
    """A label as it is read: a dollar sign in the name of a run starts no formula."""
    return NAMES.get(label, label).replace("$", r"\$")


def style_of(line: Line, number: int) -> dict[str, Any]:
    """A neuron's own style, else one by its place."""
    return dict(NEURON_STYLES.get(line.look or line.label) or SERIES_STYLES[number % len(SERIES_STYLES)])


def hollow(style: dict[str, Any]) -> dict[str, Any]:
    """The style of the paper's values beside what was measured."""
    return {**style, "markerfacecolor": "white", "linewidth": 0.7, "alpha": 0.9}


def make_figure(panels: int, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure as wide as its panels need, and their axes in reading order."""
    rows = math.ceil(panels / IN_A_ROW)
    columns = math.ceil(panels / rows)
    figure = Figure(figsize=(WIDTHS[columns], height * rows + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = [each for row in grid for each in row]
    for spare in axes[panels:]:
        spare.set_axis_off()
    return figure, axes[:panels]


def finish(axes: Axes, panel: Panel, x_label: str, y_label: str) -> None:
    axes.set_title(shown(panel.title))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def add_legend(figure: Figure, panels: Sequence[Panel]) -> None:
    """One legend for all panels, under them; a key for the paper's values where there are some."""
    lines = {line.label: style_of(line, number) for panel in panels for number, line in enumerate(panel.lines)}
    keys = [Line2D([], [], **style, label=shown(label)) for label, style in lines.items()]
    if any(line.paper for panel in panels for line in panel.lines):
        keys.append(Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linewidth=0.7, label="paper"))
    key_width = 0.6 + 0.065 * max(len(str(key.get_label())) for key in keys)  # inches
    columns = max(1, int(figure.get_figwidth() / key_width))
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), columns), handlelength=3.2)
