"""The gap between training and evaluation that batch norm leaves: statistics by layer and step, and what they cost.

    python -m figures.evaluation_gap -resume logs/lif/checkpoint_max.pth logs/clif/checkpoint_max.pth -out_dir gap

with the settings in the checkpoint or in the config.json beside each. Training normalises each step by its own
statistics, evaluation as published all steps by one shared set. Weights stay as they are; everything is taken over the
training set (as the test set is seen) and over the test set, in batches of -b drawn at random. What is taken is
:mod:`.gap_measure`'s.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data import build_dataset
from data.loader import build_loader
from data.task import Split, classes_lacking, stratified_split
from settings.build import ERRORS
from settings.inference import inference_parser, settle
from settings.rebuild import build_again, training_slice
from settings.record import config_beside
from utils.checkpoint import load_weights, read_checkpoint
from utils.cli import OneLineParser, UsageError, number
from utils.device import choose_device
from utils.engine import naming_memory
from utils.environment import environment
from utils.exit import one_line_errors
from utils.output import in_markdown, markdown_table, write_json, written_aside
from utils.progress import Batches, progress

from .gap_measure import PARTS, WAYS, evaluation_gap
from .panels import shown
from .style import BLACK, WIDTH, in_style, save_figure
from .told_apart import check_once, names_of

SAME = 1e-6  # standard deviations: a shift below is rounding
TOLD_BY = ("dataset", "model", "T", "tau", "v_reset", "b", "seed")
MARKERS = "osD^vP*X"
# what is drawn, a row of panels each: title, place in the layer's statistics, quantity
ROWS = (
    ("mean, training data", "train", "shift", "shift of the mean\n(standard deviations)"),
    ("variance, training data", "train", "ratio", "variance / shared one"),
    ("variance that arrives in evaluation, test data", "test_shared", "ratio", "variance / shared one"),
)


def measure(run: Namespace, device: torch.device, samples: float = math.inf) -> dict[str, Any]:
    """Build a run's network, load its weights, and measure its gap, on ``samples`` of each set at most."""
    task = build_dataset(run.dataset, run.data_dir, T=run.T, seed=run.seed, download=not run.no_download,
                         event_split=run.event_split)  # fmt: skip
    splits = {"train": training_slice(task, run, samples, "samples"), "test": some_of(task.test, samples, run.seed)}
    if isinstance(run.tau, dict) or isinstance(run.v_reset, dict):
        raise UsageError(f"{run.resume} has values of each layer, of a conversion; take the network as it was trained")
    try:
        net = build_again(run, task.shape, run.neuron, tau=run.tau, v_reset=run.v_reset)
        load_weights(net, run.resume)
        net.to(device)
        load = {part: partial(batches_of, split, run, device, f"{run.neuron}, {PARTS[part]} set")
                for part, split in splits.items()}  # fmt: skip
        with naming_memory(run.b, run.T):
            found = evaluation_gap(net.eval(), load)
    except ValueError as error:
        raise UsageError(f"{run.resume}: {error}") from None
    named = ("dataset", "model", "neuron", *TOLD_BY[2:])
    taken = {part: len(split) for part, split in splits.items()}
    return {"checkpoint": str(run.resume), **{name: getattr(run, name) for name in named}, "samples": taken, **found}


def some_of(split: Split, samples: float, seed: int) -> Split:
    """So many of its samples, each class in its share, or all.

    Raises:
        UsageError: if that is none of any class.
    """
    if samples >= len(split):
        return split
    kept, _ = stratified_split(split.labels, samples / len(split), seed)
    if classes_lacking(split.labels, kept):
        raise UsageError(f"-samples {samples} is less than one sample of each class; take more")
    return split.subset(kept)


def batches_of(split: Split, run: Namespace, device: torch.device, title: str) -> Batches:
    """One pass over a split, in batches drawn at random: files may be sorted by class."""
    loader = build_loader(split, batch_size=run.b, T=run.T, device=device, seed=run.seed, shuffle=True, workers=run.j)
    return progress(loader.epoch(0), title, len(loader))


def table(networks: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy (%) by way and network, and the range over layers of the last and the first step's statistics."""
    labels = [in_markdown(name) for name in names_of(networks, TOLD_BY, always=("seed",))]
    header = ["batch norm normalises by", *(f"{label}: {PARTS[part]}" for label in labels for part in PARTS)]
    rows = []
    for way, words in WAYS.items():
        accs = [network["accuracy"][part].get(way) for network in networks for part in PARTS]
        rows.append([words, *("–" if acc is None else f"{acc:.2f}" for acc in accs)])
    lines = [markdown_table(header, rows)]
    for label, network in zip(labels, networks, strict=True):
        moving = [layer["train"] for layer in network["layers"] if max(layer["train"]["shift"]) > SAME]
        if not moving:
            continue
        first = [layer["ratio"][0] / layer["ratio"][-1] for layer in moving]
        widest = [max(layer["shift"]) for layer in moving]
        lines.append(
            f"- {label}: in {len(moving)} layers whose input changes from step to step, the variance at "
            f"t = 0 is {min(first):.2f} to {max(first):.2f} of that at the last step, and the step that is furthest "
            f"off has its mean {min(widest):.2f} to {max(widest):.2f} standard deviations from the shared one.\n"
        )
    return "\n".join(lines)


def write(networks: Sequence[Mapping[str, Any]], folder: Path, made_with: Mapping[str, Any]) -> str:
    """Write evaluation_gap.json, .md, .png and .pdf; returns the Markdown."""
    text = table(networks)
    (folder / "evaluation_gap.md").write_text(text, encoding="utf-8")
    quantities = {
        f"{name}, {PARTS[part]}, {way}": acc
        for name, network in zip(names_of(networks, TOLD_BY), networks, strict=True)
        for part, ways in network["accuracy"].items()
        for way, acc in ways.items()
    }
    write_json(
        folder / "evaluation_gap.json",
        {"quantities": quantities, "networks": list(networks), "made_with": made_with},
    )
    draw(networks, folder / "evaluation_gap")
    return text


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
            for axes, name, network in zip(row, names_of(networks, TOLD_BY), networks, strict=True):
                draw_steps(axes, [layer[where][quantity] for layer in network["layers"]])
                axes.set_title(shown(f"{name}: {title}"))
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


def read_options(argv: Sequence[str] | None = None) -> Namespace:
    parser = OneLineParser("Measure what batch norm's shared statistics cost: by layer and step, and in accuracy.")
    add = parser.add_argument
    add("-resume", type=Path, nargs="+", default=[], help="checkpoints, each beside its config.json, or with its "
        "settings in it")  # fmt: skip
    add("-data_dir", type=Path, default=None, help="folder that holds the data sets; None takes config.json's")
    add("-b", type=number(int, least=2), default=None, help="batch size; None takes config.json's")
    add("-samples", type=number(int, least=1), default=math.inf, help="samples of each set that are read, at most")
    add("-device", default=None, help="cpu, cuda, cuda:1, mps; None takes the fastest that is there")
    add("-out_dir", type=Path, required=True, help="where evaluation_gap.md, .json, .png and .pdf go")
    return parser.parse_args(argv)


def settings_of(checkpoint: Path, args: Namespace) -> Namespace:
    """What a network was trained with, from its checkpoint or its config.json."""
    parser = inference_parser()
    words = ["-resume", str(checkpoint)]
    for name in ("data_dir", "b"):
        words += [] if getattr(args, name) is None else [f"-{name}={getattr(args, name)}"]
    return settle(parser, parser.parse_args(words), read_checkpoint(checkpoint), config_beside(checkpoint))


def main(argv: Sequence[str] | None = None) -> None:
    args = read_options(argv)
    if not args.resume:
        raise UsageError("-resume: give one checkpoint or more")
    check_once("-resume", args.resume)
    device = choose_device(args.device)
    networks = [measure(settings_of(checkpoint, args), device, args.samples) for checkpoint in args.resume]
    with written_aside(args.out_dir) as folder:
        text = write(networks, folder, environment(device))
    print(f"Accuracy in %:\n\n{text}\nresults: {args.out_dir}")


if __name__ == "__main__":
    with one_line_errors("figures.evaluation_gap", *ERRORS):
        main()
