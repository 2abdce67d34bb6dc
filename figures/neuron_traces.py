"""Figures 7 and 8, from the neurons themselves: one LIF and one CLIF neuron under the same Poisson input.

    python -m figures.neuron_traces -out_dir neurons

Figure 7: input, membrane potential u (charged, before the reset), complementary potential m, and spikes. Figure 8: how
long u and m remember: the autocorrelation R[k] = (1/N)·Σ_n x[n]·x[n − k], over R[0], on a longer run of the same kind.
No mean is taken off, so that each levels out at mean²/R[0]: what tells them apart is how soon.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from neurons import TAU, SpikingNeuron, build_neuron
from utils.cli import OneLineParser, UsageError, number
from utils.exit import one_line_errors
from utils.output import write_json, written_aside

from .style import BLACK, BLUE, COLUMN, GREEN, GREY, NEURON_STYLES, VERMILLION, WIDTH, in_style, save_figure

LONG = 10_000  # steps of the run behind Figure 8
LAGS = 20


@dataclass(frozen=True)
class Trace:
    """What one neuron did: membrane potential before the reset, complementary potential (CLIF's), spikes, each [T]."""

    u: Tensor
    m: Tensor | None
    spikes: Tensor


def poisson_input(steps: int, rate: float, weight: float, seed: int) -> Tensor:
    """Input current, float64 [T]: in each step, ``weight`` times a Poisson number of input spikes of mean ``rate``."""
    generator = torch.Generator().manual_seed(seed)
    return weight * torch.poisson(torch.full((steps,), rate, dtype=torch.float64), generator)


def simulate(name: str, c: Tensor, tau: float) -> Trace:
    """One neuron over an input current [T]."""
    neuron = build_neuron(name, tau=tau)
    assert isinstance(neuron, SpikingNeuron)
    states = [torch.zeros((), dtype=c.dtype)] * len(list(neuron.memories()))  # u, and CLIF's m
    us, ms, spikes = [], [], []
    for c_t in c:
        us.append((1 - 1 / tau) * states[0] + c_t)
        spike, *states = neuron.advance(c_t, *states)
        spikes.append(spike)
        ms.append(states[-1])
    return Trace(torch.stack(us), torch.stack(ms) if len(states) == 2 else None, torch.stack(spikes))


def autocorrelation(x: Tensor, lags: int) -> np.ndarray:
    """R[k] = (1/N)·Σ_n x[n]·x[n − k] for k = 0 … lags − 1, with x = 0 before its first step: [N] → [lags]."""
    values = x.numpy()
    return np.array([(values[k:] * values[: len(values) - k]).sum() for k in range(lags)]) / len(values)


def draw_traces(c: Tensor, traces: dict[str, Trace], path: Path) -> None:
    """Figure 7: four rows over time."""
    steps = np.arange(len(c))
    with in_style():
        figure = Figure(figsize=(WIDTH, 3.8))
        rows = figure.subplots(4, 1, sharex=True, height_ratios=[1, 2, 1.4, 0.9])
        rows[0].vlines(steps, 0, c, color=GREY, linewidth=1.2)
        rows[0].set_ylabel("input c")
        for name, trace in traces.items():
            style = {**NEURON_STYLES[name], "markersize": 2.2}
            rows[1].plot(steps, trace.u, **style, label=name)
            if trace.m is not None:
                rows[2].plot(steps, trace.m, **style)
        rows[1].axhline(1.0, color=BLACK, linewidth=0.8, linestyle=":")
        rows[1].annotate("$V_{th}$", (len(c) + 1.5, 1.0), va="bottom", ha="right", fontsize=7)
        rows[1].set_ylabel("u")
        rows[2].set_ylabel("m (CLIF)")
        for row, (name, trace) in enumerate(traces.items()):
            fired = steps[trace.spikes.numpy() > 0]
            rows[3].vlines(fired, row - 0.38, row + 0.38, color=NEURON_STYLES[name]["color"], linewidth=1.6)
        rows[3].set_yticks(range(len(traces)), list(traces))
        rows[3].set_ylim(len(traces) - 0.4, -0.6)
        rows[3].set_ylabel("spikes")
        rows[3].set_xlabel("time step")
        rows[3].set_xlim(-0.5, len(c) + 1.5)
        figure.legend(*rows[1].get_legend_handles_labels(), loc="outside upper center", ncols=2, handlelength=3)
        save_figure(figure, path)


def draw_autocorrelation(curves: dict[str, np.ndarray], path: Path) -> None:
    """Figure 8: R[k]/R[0] of each state."""
    styles = {
        "u of LIF": {**NEURON_STYLES["LIF"], "color": VERMILLION},
        "u of CLIF": {**NEURON_STYLES["CLIF"], "color": BLUE},
        "m of CLIF": {"color": GREEN, "linestyle": (0, (5, 1.5, 1, 1.5)), "marker": "^"},
    }
    with in_style():
        figure = Figure(figsize=(COLUMN, 2.4))
        axes = figure.subplots()
        for name, R in curves.items():
            axes.plot(range(len(R)), R / R[0], **styles[name], markevery=2, label=name)
        axes.set_xlabel("lag k (time steps)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("R[k] / R[0]")
        axes.set_ylim(bottom=min(0, *(float((R / R[0]).min()) - 0.03 for R in curves.values())))
        axes.legend(handlelength=3)
        save_figure(figure, path)


def read_options(argv: Sequence[str] | None = None) -> Namespace:
    parser = OneLineParser("Draw Figures 7 and 8: one LIF and one CLIF neuron under the same Poisson input.")
    add = parser.add_argument
    add("-steps", type=number(int, least=2, most=1000), default=60, help="time steps of Figure 7")
    add("-rate", type=number(float, above=0, most=100), default=0.6, help="mean number of input spikes in a step")
    add("-weight", type=number(float, above=0), default=0.8, help="input current of one input spike; V_th is 1")
    add("-tau", type=number(float, above=1), default=TAU, help="membrane time constant, in steps")
    add("-seed", type=number(int, least=0), default=2022, help="seed of the input")
    add("-out_dir", type=Path, required=True, help="where figure7 and figure8 go, as PNG and PDF, and their numbers")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = read_options(argv)
    c, long = (poisson_input(steps, args.rate, args.weight, args.seed) for steps in (args.steps, LONG))
    traces = {name: simulate(name, c, args.tau) for name in ("LIF", "CLIF")}
    lasting = {name: simulate(name, long, args.tau) for name in ("LIF", "CLIF")}
    m = lasting["CLIF"].m
    assert m is not None
    states = {"u of LIF": lasting["LIF"].u, "u of CLIF": lasting["CLIF"].u, "m of CLIF": m}
    curves = {name: autocorrelation(state, LAGS) for name, state in states.items()}
    if not all(R[0] > 0 for R in curves.values()):
        raise UsageError(f"-weight {args.weight} and -rate {args.rate} make no spike in {LONG} steps; raise them")
    rates = {name: trace.spikes.mean().item() for name, trace in lasting.items()}
    with written_aside(args.out_dir) as folder:
        draw_traces(c, traces, folder / "figure7")
        draw_autocorrelation(curves, folder / "figure8")
        settings = {name: getattr(args, name) for name in ("steps", "rate", "weight", "tau", "seed")}
        correlations = {name: (R / R[0]).tolist() for name, R in curves.items()}
        quantities = {f"spikes per step of {name}": rate for name, rate in rates.items()}
        write_json(folder / "neurons.json", {**settings, "quantities": quantities, "autocorrelation": correlations})
    fired = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
    print(f"spikes per step over {LONG} steps: {fired}\nresults: {args.out_dir}")


if __name__ == "__main__":
    with one_line_errors("figures.neuron_traces", UsageError):
        main()
