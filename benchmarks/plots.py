"""Pictures of the results in the project's style: told apart by place, hatch and marker, so that they read in grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from figures.style import BLUE, GREY, HATCHES, ORANGE, SERIES_STYLES, WIDTH, in_style

from .layers import FORWARD_BACKWARD, growth_name
from .measuring import FLAT_FROM
from .tables import number

Result = dict[str, Any]
OURS, RIVAL, BOUND = (BLUE, HATCHES["CLIF"]), (ORANGE, HATCHES["LIF"]), (GREY, HATCHES["KLIF"])
BOUNDS = ("memory floor", "convolutions alone", "the linear layer alone", "ReLU, ", "no loading")


def draw(group: str, cases: list[Result], path: Path) -> None:
    """The picture of a group's cases, a PNG."""
    with in_style():
        figure = {"growth": growth_figure, "onm": onm_figure}.get(group, ratio_figure)(cases)
        figure.savefig(path)


def ratio_figure(cases: list[Result]) -> Figure:
    """Bars of time / ours, one panel per case, many in two columns; the whiskers are quartiles."""
    columns = 2 if len(cases) > 4 else 1
    rows = [cases[i : i + columns] for i in range(0, len(cases), columns)]
    heights = [max(len(case["contenders"]) for case in row) for row in rows]
    figure = Figure(figsize=(1.7 * WIDTH if columns == 2 else WIDTH, 0.27 * sum(heights) + 0.7 * len(rows)))
    panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for line, row in zip(panels, rows, strict=True):
        for axes, case in zip(line, row, strict=False):
            ratio_bars(axes, case)
        for axes in line[len(row) :]:
            axes.set_axis_off()
    figure.supxlabel("time / ours (median of the ratios within a round; whiskers: quartiles)", fontsize=8)
    return figure


def ratio_bars(axes: Axes, case: Result) -> None:
    """One bar per contender, with its ratio and its time written beside it."""
    widest = 0.0
    for place, (name, phases) in enumerate(case["contenders"].items()):
        (s,) = phases.values()
        colour, hatch = BOUND if name.startswith(BOUNDS) else OURS if name.startswith("ours") else RIVAL
        spread = [[max(0.0, s["ratio"] - s["ratio_q1"])], [max(0.0, s["ratio_q3"] - s["ratio"])]]
        axes.barh(
            place, s["ratio"], color=colour, alpha=0.75, hatch=hatch, edgecolor="black", linewidth=0.6, height=0.7
        )
        axes.errorbar(s["ratio"], place, xerr=spread, color="black", capsize=2, linewidth=1)
        label = f"{s['ratio']:.2f}  ({number(s['median_ms'])} ms)"
        axes.annotate(label, (s["ratio_q3"], place), (6, 0), textcoords="offset points", va="center", fontsize=7,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        widest = max(widest, s["ratio_q3"])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(case["contenders"])), list(case["contenders"]))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * widest)
    axes.set_title(case["title"], loc="left")


def growth_figure(cases: list[Result]) -> Figure:
    """Time, and memory where it was taken, per time step against T."""
    (case,) = cases
    quantities = ["time per time step (ms)", *["memory per time step (MiB)"] * bool(case["memory_mib"])]
    figure = Figure(figsize=(WIDTH * (1 + len(quantities)) / 3, 2.6))
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for loop, style in zip((False, True), SERIES_STYLES, strict=False):
        names = {T: name for T in case["settings"]["T"] if (name := growth_name(T, loop)) in case["contenders"]}
        times = {T: case["contenders"][name][FORWARD_BACKWARD]["median_ms"] for T, name in names.items()}
        memory = {T: mib for T, name in names.items() if (mib := case["memory_mib"].get(name)) is not None}
        for axes, costs in zip(panels, (times, memory), strict=False):
            label = "step loop under autograd" if loop else "ours"
            axes.plot(list(costs), list(costs.values()), **style, label=label)
    for axes, quantity in zip(panels, quantities, strict=True):
        axes.set_xscale("log", base=2)
        axes.set_xticks(case["settings"]["T"], list(map(str, case["settings"]["T"])))
        axes.axvline(FLAT_FROM, color="black", linewidth=0.6, linestyle=(0, (1, 3)))
        axes.set_xlabel("T")
        axes.set_ylabel(quantity)
        axes.set_ylim(bottom=0)
    panels[0].legend()
    figure.suptitle(case["title"], fontsize=8)
    return figure


def onm_figure(cases: list[Result]) -> Figure:
    """Forward and backward time against the number of neurons."""
    figure = Figure(figsize=(WIDTH, 2.8))
    panels = figure.subplots(1, 2, sharey=True)
    sizes = [case["settings"]["n"] for case in cases]
    names = list(dict.fromkeys(name for case in cases for name in case["contenders"]))
    for axes, phase in zip(panels, ("forward", "backward"), strict=True):
        for name, style in zip(names, SERIES_STYLES, strict=False):
            there = [(n, case["contenders"][name][phase]["median_ms"]) for n, case in zip(sizes, cases, strict=True)
                     if name in case["contenders"]]  # fmt: skip
            axes.plot(*zip(*there, strict=True), **style, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.set_xlabel("neurons")
        axes.set_title(phase)
    panels[0].set_ylabel("time (ms)")
    panels[0].legend()
    figure.suptitle(cases[0]["title"].replace(f", {sizes[0]} neurons", ""), fontsize=8)
    return figure
