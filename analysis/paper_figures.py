"""The paper's figures from numbers: lines, heat maps, bars, loss curves and firing rates, several panels to a figure.

What is measured here is solid and filled; what the paper prints is hollow and thin beside it. Where there are
several seeds, error bars and bands are one standard error of the mean, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .figure_style import GREY, HATCHES, NEURON_STYLES, SERIES_STYLES, WIDTH, in_style, save_figure

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


def style_of(line: Line, number: int) -> dict[str, Any]:
    """A neuron's own style, else one by its place."""
    return dict(NEURON_STYLES.get(line.look or line.label) or SERIES_STYLES[number % len(SERIES_STYLES)])


def draw_lines(panels: Sequence[Panel], path: Path, *, x_label: str, y_label: str, powers_of_two: bool) -> None:
    """A value against a setting (Figures 2b, 3b, 6); writes PNG and PDF.

    Args:
        path: without a suffix.
        powers_of_two: the axis doubles from tick to tick.
    """
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            for number, line in enumerate(panel.lines):
                style = style_of(line, number)
                if line.points:
                    means = [mean(values) for values in line.points.values()]
                    errors = [standard_error(values) for values in line.points.values()]
                    axes.errorbar(list(line.points), means, errors, **style, capsize=2)
                if line.paper:
                    axes.plot(list(line.paper), list(line.paper.values()), **hollow(style))
            if powers_of_two:
                axes.set_xscale("log", base=2)
            ticks = sorted({x for line in panel.lines for x in (*line.points, *line.paper)})
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
            finish(axes, panel, x_label, y_label)
        add_legend(figure, panels)
        save_figure(figure, path)


def draw_curves(panels: Sequence[Panel], path: Path, *, y_label: str) -> None:
    """A loss against the epoch, mean and standard error over seeds (Figures 3a, 10); writes PNG and PDF."""
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            for number, line in enumerate(panel.lines):
                style = style_of(line, number)
                epochs = list(line.points)
                means = [mean(values) for values in line.points.values()]
                errors = [standard_error(values) for values in line.points.values()]
                between = max(1, len(epochs) // 6)  # markers, and not at the same place on every line
                axes.plot(epochs, means, **style, markevery=(number * between // len(panel.lines), between))
                if line.event is not None:
                    axes.axvline(line.event, color=style["color"], linestyle=":", linewidth=0.9)
                low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
                axes.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            values = [mean(values) for line in panel.lines for values in line.points.values()]
            if values and min(values) > 0 and max(values) > 8 * min(values):
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
                axes.yaxis.set_minor_locator(NullLocator())
            finish(axes, panel, "epoch", y_label)
        add_legend(figure, panels)
        save_figure(figure, path)


def draw_bars(panels: Sequence[Panel], path: Path, *, y_label: str) -> None:
    """A bar for each line's one value, named by its label (Figure 4); writes PNG and PDF."""
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            heights: list[float] = []
            for place, line in enumerate(panel.lines):
                style = style_of(line, place)
                for values in line.points.values():
                    height, error = mean(values), standard_error(values)
                    heights += [height - error, height + error]
                    look = {"color": style["color"], "alpha": 0.75, "edgecolor": "black", "linewidth": 0.6}
                    axes.bar(place, height, 0.7, yerr=error, capsize=2, hatch=HATCHES.get(line.label, ""), **look)
                    axes.annotate(f"{height:.2f}", (place, height + error), ha="center", fontsize=6,
                                  xytext=(0, 2), textcoords="offset points")  # fmt: skip
                for height in line.paper.values():
                    heights.append(height)
                    axes.plot([place - 0.42, place + 0.42], [height, height], color="black", linewidth=1.6)
                    if not line.points:
                        axes.annotate(f"{height:.2f}", (place, height), ha="center", fontsize=6, xytext=(0, 2),
                                      textcoords="offset points")  # fmt: skip
            names = [NAMES.get(line.label, line.label) for line in panel.lines]
            axes.set_xticks(range(len(names)), names, fontsize=6 if len(names) > 5 else 7)
            axes.grid(visible=False, axis="x")
            if heights:
                room = max(max(heights) - min(heights), 0.4)
                axes.set_ylim(min(heights) - 0.6 * room, max(heights) + 0.3 * room)
            finish(axes, panel, "", y_label)
        if any(line.paper for panel in panels for line in panel.lines):
            key = [Line2D([], [], color="black", linewidth=1.6, label="paper")]
            figure.legend(handles=key, loc="outside lower center")
        save_figure(figure, path)


def draw_heat(panels: Sequence[Panel], path: Path, *, x_label: str, line_label: str, value_label: str) -> None:
    """A value by two settings (Figure 2a): a row for each line, a column for each x; writes PNG and PDF."""
    with in_style():
        figure, all_axes = make_figure(len(panels), height=2.8)
        for panel, axes in zip(panels, all_axes, strict=True):
            columns = sorted({x for line in panel.lines for x in (*line.points, *line.paper)})
            grid = [
                [mean(line.points[x]) if x in line.points else line.paper.get(x, math.nan) for x in columns]
                for line in panel.lines
            ]
            known = [value for row in grid for value in row if not math.isnan(value)]
            lowest, highest = min(known), max(known)
            image = axes.imshow(grid, cmap="cividis", aspect="auto", origin="lower", vmin=lowest, vmax=highest)
            for y, row in enumerate(grid):
                for x, value in enumerate(row):
                    if not math.isnan(value):
                        dark = value < (lowest + highest) / 2
                        axes.text(x, y, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black",
                                  fontsize=7)  # fmt: skip
            axes.set_xticks(range(len(columns)), [f"{x:g}" for x in columns])
            axes.set_yticks(range(len(panel.lines)), [line.label for line in panel.lines])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            figure.colorbar(image, ax=axes, label=value_label)
            finish(axes, panel, x_label, line_label)
        save_figure(figure, path)


def draw_rates(panels: Sequence[Panel], path: Path) -> None:
    """Firing rate by layer (Figure 11); the legend's means are over the layers; writes PNG and PDF."""
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            for number, line in enumerate(panel.lines):
                style = style_of(line, number)
                if line.points:
                    means = [mean(values) for values in line.points.values()]
                    errors = [standard_error(values) for values in line.points.values()]
                    axes.errorbar(list(line.points), means, errors, **style, capsize=2)
                if line.paper:
                    axes.plot(list(line.paper), list(line.paper.values()), **hollow(style))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0)
            finish(axes, panel, "neuron layer", "firing rate (spikes per step)")
        add_legend(figure, panels)
        save_figure(figure, path)


def hollow(style: dict[str, Any]) -> dict[str, Any]:
    """The style of the paper's values beside what was measured."""
    return {**style, "markerfacecolor": "white", "linewidth": 0.7, "alpha": 0.9}


def make_figure(panels: int, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure as wide as its panels need, and their axes in reading order."""
    columns = min(panels, IN_A_ROW)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(WIDTHS[columns], height * rows + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = [each for row in grid for each in row]
    for spare in axes[panels:]:
        spare.set_axis_off()
    return figure, axes[:panels]


def finish(axes: Axes, panel: Panel, x_label: str, y_label: str) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def add_legend(figure: Figure, panels: Sequence[Panel]) -> None:
    """One legend for all panels, under them; a key for the paper's values where there are some."""
    lines = {line.label: style_of(line, number) for panel in panels for number, line in enumerate(panel.lines)}
    keys = [Line2D([], [], **style, label=NAMES.get(label, label)) for label, style in lines.items()]
    if any(line.paper for panel in panels for line in panel.lines):
        keys.append(Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linewidth=0.7, label="paper"))
    key_width = 0.6 + 0.065 * max(len(str(key.get_label())) for key in keys)  # inches
    columns = max(1, int(figure.get_figwidth() / key_width))
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), columns), handlelength=3.2)
