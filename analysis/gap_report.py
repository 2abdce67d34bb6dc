"""The evaluation gap as a table of accuracies and as a figure: by layer, a line for each step, how far its statistics
are from the shared ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .figure_style import BLACK, WIDTH, in_style, save_figure
from .report import markdown_table

PARTS = {"train": "training", "test": "test"}
WAYS = {
    "batch": "batch statistics of each step, as in training",
    "shared": "running statistics shared by all steps, as published",
    "shared_again": "the same, taken again with frozen weights",
    "mean_of_steps": "mean over the steps of statistics over the training set",
    "per_step": "running statistics of each step",
    "per_step_again": "statistics of each step over the training set",
}
"""How batch norm is fed, key → words."""
SAME = 1e-6  # standard deviations: a shift below is rounding
MARKERS = "osD^vP*X"
# what is drawn, a row of panels each: title, place in the layer's statistics, quantity
ROWS = (
    ("mean, training data", "train", "shift", "shift of the mean\n(standard deviations)"),
    ("variance, training data", "train", "ratio", "variance / shared one"),
    ("variance that arrives in evaluation, test data", "test_shared", "ratio", "variance / shared one"),
)


def table(networks: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy (%) by way and network, and the range over layers of the last and the first step's statistics."""
    header = ["batch norm normalises by", *(f"{label_of(n)}: {PARTS[part]}" for n in networks for part in PARTS)]
    rows = []
    for way, words in WAYS.items():
        accs = [network["accuracy"][part].get(way) for network in networks for part in PARTS]
        rows.append([words, *("–" if acc is None else f"{acc:.2f}" for acc in accs)])
    lines = [markdown_table(header, rows)]
    for network in networks:
        moving = [layer["train"] for layer in network["layers"] if max(layer["train"]["shift"]) > SAME]
        if not moving:
            continue
        first = [layer["ratio"][0] / layer["ratio"][-1] for layer in moving]
        widest = [max(layer["shift"]) for layer in moving]
        lines.append(
            f"- {label_of(network)}: in {len(moving)} layers whose input changes from step to step, the variance at "
            f"t = 0 is {min(first):.2f} to {max(first):.2f} of that at the last step, and the step that is furthest "
            f"off has its mean {min(widest):.2f} to {max(widest):.2f} standard deviations from the shared one.\n"
        )
    return "\n".join(lines)


def label_of(network: Mapping[str, Any]) -> str:
    return f"{network['neuron']}, seed {network['seed']}"


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
