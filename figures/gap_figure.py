"""The evaluation gap as a figure: by layer, a line for each step, how far its statistics are from the shared ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import BLACK, WIDTH, in_style, save_figure

MARKERS = "osD^vP*X"
# what is drawn, a row of panels each: title, place in the layer's statistics, quantity
ROWS = (
    ("mean, training data", "train", "shift", "shift of the mean\n(standard deviations)"),
    ("variance, training data", "train", "ratio", "variance / shared one"),
    ("variance that arrives in evaluation, test data", "test_shared", "ratio", "variance / shared one"),
)


def draw(networks: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the gap of some networks, a column each, in one scale a row: first step dark, last one light.

    Args:
        networks: as ``evaluation_gap`` measures them.
        path: without a suffix; a PNG and a PDF are written.
    """
    with in_style():
        width = WIDTH if len(networks) > 1 else 0.6 * WIDTH
        figure = Figure(figsize=(width, 1.75 * len(ROWS) + 0.4))
        panels = figure.subplots(len(ROWS), len(networks), squeeze=False, sharex="col", sharey="row")
        for row, (title, where, quantity, label) in zip(panels, ROWS, strict=True):
            for axes, network in zip(row, networks, strict=True):
                draw_steps(axes, [layer[where][quantity] for layer in network["layers"]])
                axes.set_title(f"{network['neuron']}: {title}")
                axes.axhline(0.0 if quantity == "shift" else 1.0, color=BLACK, linewidth=0.8)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            row[0].set_ylabel(label)
        for axes in panels[-1]:
            axes.set_xlabel("batch norm, in the order of the network")
        handles, labels = max((axes.get_legend_handles_labels() for axes in panels[0]), key=lambda pair: len(pair[1]))
        figure.legend(handles, labels, loc="outside upper center", ncols=min(8, len(labels)))
        save_figure(figure, path)


def draw_steps(axes: Axes, layers: Sequence[Sequence[float]]) -> None:
    """A line for each step through its value in each layer."""
    colours = matplotlib.colormaps["viridis"]
    T = len(layers[0])
    for t, values in enumerate(zip(*layers, strict=True)):
        axes.plot(
            range(1, len(values) + 1),
            values,
            color=colours(0.9 * t / max(1, T - 1)),
            marker=MARKERS[t % len(MARKERS)],
            markersize=3,
            label=f"t = {t}",
        )
