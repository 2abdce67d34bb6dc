"""The picture of a run: loss, accuracy and learning rate by epoch."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# kind of running statistics → suffix of the columns of metrics.jsonl that were evaluated with it
COLUMN = {"shared": "", "per_step": "_per_step"}
LINES = (("train", "shared", "--"), ("val", "shared", ":"), ("test", "shared", "-"), ("test", "per_step", "-."))


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the rows of a metrics.jsonl, at least one, to a PNG that is named after its folder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    figure.suptitle(path.resolve().parent.name, fontsize="medium", parse_math=False)
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 30 else None
    panels = figure.subplots(1, 3)
    for axes, quantity, label in zip(panels, ("loss", "acc"), ("loss", "accuracy (%)"), strict=False):
        for part, statistics, style in LINES:
            column = f"{part}_{quantity}{COLUMN[statistics]}"
            if column in rows[0]:
                values = [row.get(column, math.nan) for row in rows]
                name = part if statistics == "shared" else f"{part}, statistics per step"
                axes.plot(epochs, values, style, marker=marker, markersize=3, label=name)
        axes.set_ylabel(label)
    panels[2].plot(epochs, [row.get("lr", math.nan) for row in rows], "-", marker=marker, markersize=3, color="0.3")
    panels[2].set_ylabel("learning rate")
    panels[2].set_ylim(bottom=0)
    best, accuracy = best_epoch(rows)
    where = f"before epoch {epochs[0]}" if best is None else f"epoch {best}"
    for axes in panels:
        x = math.nan if best is None else best  # nan: no line, but its words
        axes.axvline(x, color="0.6", linewidth=1, zorder=0, label=f"best: {where}, {accuracy:.2f}%")
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    for axes in panels[:2]:
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    del figure, panels, axes
    gc.collect()  # a figure is a cycle of some MiB, which Python would leave for many epochs; 0.1 s


def best_epoch(rows: Sequence[dict[str, Any]]) -> tuple[int | None, float]:
    """The epoch that checkpoint_max.pth is of, and its test accuracy; None for an epoch before these rows.

    Rows do not say which statistics choose (``-bn_eval``). It is those by which every row has the best it names; where
    neither does, as rows are lost or the validation set was not written down, the last epoch that changed the best.
    """
    for suffix in COLUMN.values():
        tested = f"test_acc{suffix}"
        chooser = f"val_acc{suffix}" if f"val_acc{suffix}" in rows[-1] else tested
        best, explained = None, chooser in rows[-1]
        for row in rows:
            if best is None or row.get(chooser, -math.inf) > best.get(chooser, -math.inf):
                best = row
            explained = explained and best.get(tested) == row.get("best_test_acc", best.get(tested))
        if best is not None and explained:
            return best["epoch"], best.get(tested, math.nan)
    bests = [row.get("best_test_acc", math.nan) for row in rows]
    changed = max(n for n, best in enumerate(bests) if n == 0 or best != bests[n - 1])
    lost = changed == 0 and rows[0]["epoch"] > 0
    return None if lost else rows[changed]["epoch"], bests[changed]
