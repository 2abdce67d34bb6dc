"""One style for every figure: the Okabe–Ito colours, and a line style, marker and hatch per neuron that tell the
neurons apart in grey print and to colour-blind eyes.

    with in_style():
        figure = Figure(figsize=(WIDTH, 2.6))
        figure.subplots().plot(T, acc, **NEURON_STYLES["CLIF"], label="CLIF")
        save_figure(figure, out_dir / "figure2b")
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Okabe & Ito 2008
BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"

# keywords of Axes.plot and Axes.errorbar
NEURON_STYLES: dict[str, dict[str, Any]] = {
    "LIF": {"color": VERMILLION, "linestyle": (0, (5, 2)), "marker": "s"},
    "PLIF": {"color": GREEN, "linestyle": (0, (5, 1.5, 1, 1.5)), "marker": "^"},
    "KLIF": {"color": ORANGE, "linestyle": (0, (1, 1)), "marker": "D"},
    "GLIF": {"color": PURPLE, "linestyle": (0, (4, 1, 1, 1, 1, 1)), "marker": "v"},
    "ILIF": {"color": GREY, "linestyle": (0, (6, 1, 1, 1)), "marker": "<"},
    "PSN": {"color": SKY_BLUE, "linestyle": (0, (8, 2)), "marker": "P"},
    "CLIF": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "relu": {"color": BLACK, "linestyle": (0, (2, 2)), "marker": "X"},
}
# for bars, which have neither line style nor marker
HATCHES = {"LIF": "//", "PLIF": "\\\\", "KLIF": "..", "GLIF": "xx", "ILIF": "oo", "PSN": "--", "CLIF": "", "relu": "++"}
# for lines that are not neurons (values of τ, of k, of T …), in turn
SERIES_STYLES: tuple[dict[str, Any], ...] = tuple(
    NEURON_STYLES[name] for name in ("CLIF", "LIF", "PLIF", "KLIF", "GLIF", "ILIF", "PSN", "relu")
)

WIDTH, COLUMN = 6.75, 3.25  # inches: the paper's text and column width
RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text
}


def in_style() -> AbstractContextManager[None]:
    """The style's settings, for as long as the context lasts: draw and save within it."""
    return matplotlib.rc_context(RC)  # type: ignore[arg-type]  # its stubs want literal keys


def save_figure(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write a figure as PNG and PDF; the same figure gives the same bytes, whenever it is drawn.

    Args:
        path: without a suffix; its folder is made.

    Returns:
        The two paths written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = (path.with_name(path.name + suffix) for suffix in (".png", ".pdf"))
    figure.savefig(png, metadata={"Software": None})
    figure.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return png, pdf
