"""Values against a setting, an epoch, a layer or a named column (Figures 2b, 3, 6, 10, 11, Table 8)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .panels import (
    Line,
    Panel,
    add_legend,
    finish,
    hollow,
    make_figure,
    shown,
    standard_deviation,
    standard_error,
    style_of,
)
from .style import SERIES_STYLES, WIDTH, in_style, save_figure


def draw_lines(panels: Sequence[Panel], path: Path, *, x_label: str, y_label: str, powers_of_two: bool) -> None:
    """A value against a setting (Figures 2b, 3b, 6); writes PNG and PDF.

    Args:
        path: without a suffix.
        powers_of_two: the axis doubles from tick to tick.
    """
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            draw_points(panel, axes)
            if powers_of_two:
                axes.set_xscale("log", base=2)
            ticks = sorted({x for line in panel.lines for x in (*line.points, *line.paper)})
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
            finish(axes, panel, x_label, y_label)
        add_legend(figure, panels)
        save_figure(figure, path)


def draw_points(panel: Panel, axes: Axes) -> None:
    """Lines through means with error bars of one standard error, the paper's values hollow beside them."""
    for number, line in enumerate(panel.lines):
        style = style_of(line, number)
        if line.points:
            means = [mean(values) for values in line.points.values()]
            errors = [standard_error(values) for values in line.points.values()]
            axes.errorbar(list(line.points), means, errors, **style, capsize=2)
        if line.paper:
            axes.plot(list(line.paper), list(line.paper.values()), **hollow(style))


def draw_curves(panels: Sequence[Panel], path: Path, *, y_label: str) -> None:
    """A loss against the epoch, mean and standard error over seeds (Figures 3a, 10); writes PNG and PDF."""
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            draw_by_epoch(panel, axes, is_loss=True)
            finish(axes, panel, "epoch", y_label)
        add_legend(figure, panels)
        save_figure(figure, path)


def draw_runs(panels: Sequence[Panel], path: Path) -> None:
    """Curves of any runs, a panel for each quantity, which its title names; writes PNG and PDF."""
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            draw_by_epoch(panel, axes, is_loss="loss" in panel.title)
            finish(axes, panel, "epoch", "")
        add_legend(figure, panels)
        save_figure(figure, path)


def draw_by_epoch(panel: Panel, axes: Axes, *, is_loss: bool) -> None:
    """Lines with bands of one standard error; a loss that falls far has a logarithmic axis."""
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    values = [mean(values) for line in panel.lines for values in line.points.values()]
    if is_loss and values and min(values) > 0 and max(values) > 8 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def draw_rates(panels: Sequence[Panel], path: Path) -> None:
    """Firing rate by layer (Figure 11); the legend's means are over the layers; writes PNG and PDF."""
    with in_style():
        figure, all_axes = make_figure(len(panels))
        for panel, axes in zip(panels, all_axes, strict=True):
            draw_points(panel, axes)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set_ylim(bottom=0)
            finish(axes, panel, "neuron layer", "firing rate (spikes per step)")
        add_legend(figure, panels)
        save_figure(figure, path)


def draw_columns(
    lines: Sequence[Line],
    levels: Mapping[str, float],
    apart: Collection[str],
    path: Path,
    *,
    x_label: str,
    y_label: str,
) -> None:
    """A value in each of several named columns, mean ± standard deviation over seeds (Table 8); writes PNG and PDF.

    Args:
        lines: their points are column → the value of each seed.
        levels: label of a line → a value that is drawn as a dashed line across.
        apart: columns that are not joined to the others.
        path: without a suffix.

    Raises:
        ValueError: if there are more lines than looks.
    """
    if len(lines) > len(SERIES_STYLES):
        raise ValueError(f"a picture tells {len(SERIES_STYLES)} networks apart, not {len(lines)}")
    columns = list(dict.fromkeys(column for line in lines for column in line.points))
    with in_style():
        figure = Figure(figsize=(WIDTH, 3.4))
        axes = figure.subplots()
        for number, line in enumerate(lines):
            style = style_of(line, number)
            for joined in (True, False):
                part = {c: values for c, values in line.points.items() if (c not in apart) == joined}
                means, deviations = [[f(v) for v in part.values()] for f in (mean, standard_deviation)]
                look = style if joined else {**style, "linestyle": "none"}
                label = shown(line.label) if joined else None
                axes.errorbar([columns.index(c) for c in part], means, deviations, **look, capsize=2, label=label)
            if line.label in levels:
                axes.axhline(levels[line.label], color=style["color"], linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(columns)), [column.replace(", ", ",\n") for column in columns])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        save_figure(figure, path)
