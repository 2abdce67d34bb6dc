"""Bars by neuron (Figure 4), bars by part (Table 7), a value by two settings (Figure 2a)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .panels import NAMES, Line, Panel, finish, make_figure, shown, standard_error, style_of
from .style import HATCHES, WIDTH, in_style, save_figure

LOOK_OF = {name: neuron for neuron, name in NAMES.items()}


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
                    axes.bar(place, height, 0.7, hatch=HATCHES.get(line.label, ""), **look)
                    if error:  # of several seeds
                        axes.errorbar(place, height, error, capsize=2, color="black")
                    axes.annotate(f"{height:.2f}", (place, height + error), ha="center", fontsize=6,
                                  xytext=(0, 2), textcoords="offset points")  # fmt: skip
                for height in line.paper.values():
                    heights.append(height)
                    axes.plot([place - 0.42, place + 0.42], [height, height], color="black", linewidth=1.6)
                    if not line.points:
                        axes.annotate(f"{height:.2f}", (place, height), ha="center", fontsize=6, xytext=(0, 2),
                                      textcoords="offset points")  # fmt: skip
            names = [shown(line.label) for line in panel.lines]
            axes.set_xticks(range(len(names)), names, fontsize=6 if len(names) > 5 else 7)
            axes.grid(visible=False, axis="x")
            if heights:
                room = max(max(heights) - min(heights), 0.4)
                axes.set_ylim(max(0.0, min(heights) - 0.6 * room), max(heights) + 0.3 * room)
            finish(axes, panel, "", y_label)
        if any(line.paper for panel in panels for line in panel.lines):
            key = [Line2D([], [], color="black", linewidth=1.6, label="paper")]
            figure.legend(handles=key, loc="outside lower center")
        save_figure(figure, path)


def draw_parts(rows: Mapping[str, Sequence[float]], parts: Sequence[str], path: Path, *, y_label: str) -> None:
    """A group of bars for each part, a bar for each row, on a logarithmic axis; a 0 has no bar. Writes PNG and PDF.

    Args:
        rows: label → the value of each part; a neuron's name takes the neuron's look.
        parts: their names.
        path: without a suffix.
    """
    with in_style():
        figure = Figure(figsize=(WIDTH, 3.2))
        axes = figure.subplots()
        width = 0.8 / len(rows)
        for number, (label, heights) in enumerate(rows.items()):
            look = LOOK_OF.get(label, label)
            style = style_of(Line(label, look=look), number)
            places = [k + (number - (len(rows) - 1) / 2) * width for k in range(len(parts))]
            bars = axes.bar(places, heights, width, label=shown(label), color=style["color"], alpha=0.75,
                            hatch=HATCHES.get(look, ""), edgecolor="black", linewidth=0.6)  # fmt: skip
            axes.bar_label(bars, [f"{h:.3g}" if h else "" for h in heights], fontsize=6, rotation=90, padding=3)
        axes.set_yscale("log")
        axes.set_xticks(range(len(parts)), list(parts))
        axes.set_ylabel(y_label)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.14)
        axes.legend()
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
            axes.set_yticks(range(len(panel.lines)), [shown(line.label) for line in panel.lines])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            figure.colorbar(image, ax=axes, label=value_label)
            finish(axes, panel, x_label, line_label)
        save_figure(figure, path)
