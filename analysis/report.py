"""Energy and firing rates as Markdown, JSON and pictures; every number comes with its formula."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.run_dir import naming_disk

from .energy import ENERGY_FORMULA, Operations
from .lemaire import ACCESS_FORMULA, COUNT_FORMULAS, FORMULAS, SPIKES_FORMULA, EnergyBreakdown
from .profile import NetworkProfile

# Okabe–Ito colours of clearly different lightness, each with a hatch and a marker of its own: told apart without colour
STYLES = [("#F0E442", "", "o"), ("#56B4E9", "//", "s"), ("#0B4F7D", "xx", "^"), ("#D55E00", "..", "D")]
PARTS = {
    "potential_mJ": "membrane\npotential",
    "params_mJ": "parameters",
    "inout_mJ": "in / out",
    "op_mJ": "operations",
    "addr_uJ": "addressing",
    "total_mJ": "total",
}


@contextmanager
def written_aside(out_dir: Path) -> Iterator[Path]:
    """A folder to write results in; at the end they move to ``out_dir`` one by one, or, if something fails, not at all.

    Files of the same name are replaced, others in ``out_dir`` stay.

    Raises:
        UsageError: if it cannot be written to.
    """
    with naming_disk(out_dir):
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-")
    with aside as folder:
        yield Path(folder)
        with naming_disk(out_dir):
            out_dir.mkdir(exist_ok=True)
            for path in sorted(Path(folder).iterdir()):
                os.replace(path, out_dir / path.name)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as indented JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left-aligned, the rest right-aligned."""
    align = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows)) + "\n"


def energy_markdown(rows: Mapping[str, EnergyBreakdown]) -> str:
    """Table 7: one row per network, and under it the formulas.

    Args:
        rows: label → breakdown, in print order.
    """
    header = ["", *(_with_unit(name) for name in FORMULAS)]
    table = markdown_table(header, [[label, *(f"{e:.4f}" for e in b.energy.values())] for label, b in rows.items()])
    lines = [f"- {_with_unit(name)} = {formula}" for name, formula in FORMULAS.items()]
    lines += [f"- {ACCESS_FORMULA}", f"- {SPIKES_FORMULA}"]
    for neuron in dict.fromkeys(b.neuron for b in rows.values()):
        for kind in ("conv", "linear"):
            counts = "; ".join(f"{name} = {formula}" for name, formula in COUNT_FORMULAS[neuron, kind].items())
            lines.append(f"- {neuron}, {kind}: {counts}")
    return table + "\n" + "\n".join(lines) + "\n"


def operations_markdown(rows: Mapping[str, Operations]) -> str:
    """Table 6: ACs, MACs and energy per sample, then where they come from, with the formulas."""
    header = ["", "T", "ACs (M)", "MACs (M)", "energy (µJ)"]
    table = markdown_table(
        header,
        [[k, str(o.T), f"{o.acs / 1e6:.2f}", f"{o.macs / 1e6:.2f}", f"{o.microjoules:.3f}"] for k, o in rows.items()],
    )
    parts = [
        [f"{label}: {row.name}", f"{row.acs / 1e6:.3f}", f"{row.macs / 1e6:.3f}", row.formula]
        for label, o in rows.items()
        for row in o.rows
    ]
    detail = markdown_table(["", "ACs (M)", "MACs (M)", "formula"], parts)
    return f"{table}\nenergy (µJ) = {ENERGY_FORMULA}\n\n{detail}"


def as_json(energy: Mapping[str, EnergyBreakdown], operations: Mapping[str, Operations]) -> dict[str, Any]:
    """Both tables with their formulas, ready for ``json.dump``."""
    return {
        "energy": {label: {"neuron": b.neuron, "T": b.T, **b.as_dict()} for label, b in energy.items()},
        "energy_formulas": {**FORMULAS, "E": ACCESS_FORMULA, "s": SPIKES_FORMULA},
        "count_formulas": {f"{neuron}, {kind}": f for (neuron, kind), f in COUNT_FORMULAS.items()},
        "operations": {label: asdict(o) for label, o in operations.items()},
        "operations_formula": {"microjoules": ENERGY_FORMULA},
    }


def write_account(
    folder: Path,
    neuron: str,
    profile: NetworkProfile,
    dense: NetworkProfile,
    thop: tuple[int, int],
    about: dict[str, Any],
) -> str:
    """Write the account of a network: account.md and .json, energy.png and firing_rates.png; returns the Markdown.

    Args:
        neuron: what the network runs with.
        profile: of the network. dense: of the same network with ReLU, the row it is compared with.
        thop: MACs of the ReLU network and its parameters, as thop counts them.
        about: what else belongs into the JSON.
    """
    kind = "LIF" if neuron == "PLIF" else neuron  # PLIF costs what LIF does
    T, rates = profile.T, profile.firing_rates()
    energy, counted = {"ReLU": dense.lemaire("relu")}, {"ReLU": dense.operations("relu", 1)}
    if neuron != "relu":
        energy[neuron] = profile.lemaire(kind)
        counted[f"{neuron}, one time step (as Table 6 prints)"] = profile.operations(kind, 1)
        counted[f"{neuron}, all T = {T} time steps"] = profile.operations(kind)
    macs, params = thop
    mean_rate = sum(rates.values()) / len(rates)
    text = "\n".join([
        f"Averaged over {profile.samples} test samples. Parameters: {params / 1e6:.2f} M; MACs of the ReLU network: "
        f"{macs / 1e6:.2f} M (both as thop counts them).\n",
        "Operations and energy per sample (Table 6)\n",
        operations_markdown(counted),
        "Energy with memory and addressing (Table 7)\n",
        energy_markdown(energy),
        f"Firing rate by layer (Figure 11): spikes / (neurons · T · samples); mean over layers {mean_rate:.4f}\n",
        markdown_table(["layer", "firing rate"], [[name, f"{rate:.4f}"] for name, rate in rates.items()]),
    ])  # fmt: skip
    (folder / "account.md").write_text(text)
    content = {**about, "parameters": params, "relu_macs": macs, "samples": profile.samples, "firing_rates": rates}
    write_json(folder / "account.json", content | as_json(energy, counted))
    plot_energy(energy, folder / "energy.png")
    plot_firing_rates({neuron: list(rates.values())}, folder / "firing_rates.png")
    return text


def plot_energy(rows: Mapping[str, EnergyBreakdown], path: Path, title: str = "") -> None:
    """Table 7 as grouped bars, mJ on a logarithmic axis; an energy of 0 has no bar.

    Args:
        rows: label → breakdown, at most four.
        path: picture to write; its suffix chooses the format.

    Raises:
        ValueError: if there are more networks than styles.
    """
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axes: Axes = figure.add_subplot()
    width = 0.8 / len(rows)
    for i, (label, breakdown) in enumerate(rows.items()):
        colour, hatch, _ = _style(i)
        heights = [breakdown.energy[name] / (1e3 if name.endswith("uJ") else 1) for name in PARTS]
        places = [k + (i - (len(rows) - 1) / 2) * width for k in range(len(PARTS))]
        bars = axes.bar(
            places, heights, width, label=label, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6
        )
        axes.bar_label(bars, [f"{h:.3g}" if h else "" for h in heights], fontsize=7, rotation=90, padding=3)
    axes.set_yscale("log")
    axes.set_xticks(range(len(PARTS)), list(PARTS.values()))
    axes.set_ylabel("energy, as Table 7 counts it (mJ)")
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def plot_firing_rates(rates: Mapping[str, Sequence[float]], path: Path, title: str = "") -> None:
    """Figure 11: firing rate of each neuron layer, one line per network; the legend gives the mean over layers.

    Args:
        rates: label → spikes per neuron and time step of each layer, in order; at most four.
        path: picture to write; its suffix chooses the format.

    Raises:
        ValueError: if there are more networks than styles.
    """
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes: Axes = figure.add_subplot()
    for i, (label, values) in enumerate(rates.items()):
        colour, _, marker = _style(i + 1)
        layers = range(1, len(values) + 1)
        mean = sum(values) / len(values)
        axes.plot(
            layers, values, marker=marker, color=colour, markeredgecolor="black", label=f"{label} (mean {mean:.3f})"
        )
    axes.set_xticks(range(1, max(map(len, rates.values())) + 1))
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])  # the highest marker whole
    axes.set_xlabel("neuron layer")
    axes.set_ylabel("firing rate (spikes per step)")
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _style(i: int) -> tuple[str, str, str]:
    if i >= len(STYLES):
        raise ValueError(f"a picture tells {len(STYLES)} networks apart, not more")
    return STYLES[i]


def _with_unit(name: str) -> str:
    part, unit = name.rsplit("_", 1)
    return f"{part} ({unit.replace('u', 'µ')})"
