"""The account of a network: energy and firing rates as Markdown, JSON and pictures, every number with its formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from utils.cli import UsageError
from utils.output import markdown_table, write_json

from .memory_energy import ACCESS_FORMULA, COUNT_FORMULAS, FORMULAS, SPIKES_FORMULA, EnergyBreakdown
from .operations import ENERGY_FORMULA, KIND_OF, Operations
from .profile import NetworkProfile, profile_network
from .synops import SynapticOperations, synops_markdown

# Table 7's parts on the axis of the picture
PARTS = {
    "potential_mJ": "membrane\npotential",
    "params_mJ": "parameters",
    "inout_mJ": "in / out",
    "op_mJ": "operations",
    "addr_uJ": "addressing",
    "total_mJ": "total",
}


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


def one_frame(x_seq: Tensor) -> Tensor:
    """What a ReLU network, which has one step, is given of samples: the image, or all events: [T, …] → [1, …]."""
    return x_seq[:1] if x_seq.stride(0) == 0 else x_seq.sum(0, keepdim=True)


def check_account(net: nn.Module, dense: nn.Module, neuron: str, x_seq: Tensor) -> None:
    """Refuse a network that cannot be counted, before all of its data is run.

    Args:
        net, dense, neuron: see :func:`write_account`. x_seq: a sample [T, 1, C, H, W].

    Raises:
        UsageError: saying why.
    """
    try:
        profile_network(net, [(x_seq, x_seq)]).memory_energy(KIND_OF[neuron])
        profile_network(dense, [(one_frame(x_seq), x_seq)]).memory_energy("relu")
    except ValueError as error:
        raise UsageError(f"-profile cannot count this network: {error}") from None


def write_account(
    folder: Path,
    neuron: str,
    profile: NetworkProfile,
    dense: NetworkProfile,
    thop: tuple[int, int],
    synops: SynapticOperations,
    about: dict[str, Any],
) -> str:
    """Write the account of a network: account.md and .json, energy.png and firing_rates.png; returns the Markdown.

    Args:
        neuron: what the network runs with.
        profile: of the network. dense: of the same network with ReLU, the row it is compared with.
        thop: MACs of the ReLU network and its parameters, as thop counts them.
        synops: of the network, counted in other ways.
        about: what else belongs into the JSON.
    """
    from figures.lines import draw_rates  # here: an evaluation that draws nothing has no use for matplotlib
    from figures.panels import Line, Panel

    kind = KIND_OF[neuron]
    T, rates = profile.T, profile.firing_rates()
    energy, counted = {"ReLU": dense.memory_energy("relu")}, {"ReLU": dense.operations("relu", 1)}
    if neuron != "relu":
        energy[neuron] = profile.memory_energy(kind)
        counted[f"{neuron}, one time step (as Table 6 prints)"] = profile.operations(kind, 1)
        counted[f"{neuron}, all T = {T} time steps"] = profile.operations(kind)
    macs, params = thop
    mean_rate = sum(rates.values()) / len(rates)
    text = "\n".join([
        f"Averaged over {profile.samples} test samples. Parameters: {params / 1e6:.2f} M; MACs of the ReLU network: "
        f"{macs / 1e6:.2f} M (both as thop counts them).\n",
        "Operations and energy per sample (Table 6)\n",
        operations_markdown(counted),
        "Synaptic operations, counted in other ways than Table 6's\n",
        synops_markdown(synops),
        "Energy with memory and addressing (Table 7)\n",
        energy_markdown(energy),
        f"Firing rate by layer (Figure 11): spikes / (neurons · T · samples); mean over layers {mean_rate:.4f}\n",
        markdown_table(["layer", "firing rate"], [[name, f"{rate:.4f}"] for name, rate in rates.items()]),
    ])  # fmt: skip
    (folder / "account.md").write_text(text, encoding="utf-8")
    content = {**about, "parameters": params, "relu_macs": macs, "samples": profile.samples, "firing_rates": rates}
    content["synaptic_operations"] = synops.as_dict()
    write_json(folder / "account.json", content | as_json(energy, counted))
    draw_energy(energy, folder / "energy")
    layers: dict[Any, Sequence[float]] = {number: [rate] for number, rate in enumerate(rates.values(), 1)}
    draw_rates([Panel("", [Line(f"{neuron} (mean {mean_rate:.3f})", layers, look=neuron)])], folder / "firing_rates")
    return text


def draw_energy(rows: Mapping[str, EnergyBreakdown], path: Path) -> None:
    """Table 7 as bars in mJ on a logarithmic axis; writes PNG and PDF.

    Args:
        rows: label → breakdown.
        path: without a suffix.
    """
    from figures.bars import draw_parts

    energies = {
        label: [breakdown.energy[name] / (1e3 if name.endswith("uJ") else 1) for name in PARTS]
        for label, breakdown in rows.items()
    }
    draw_parts(energies, list(PARTS.values()), path, y_label="energy, as Table 7 counts it (mJ)")


def _with_unit(name: str) -> str:
    part, unit = name.rsplit("_", 1)
    return f"{part} ({unit.replace('u', 'µ')})"
