"""Where the gradient through time comes from, measured: ∂L/∂c[t] by lag (see gradient_by_lag.py).

    python -m figures.gradient_flow -resume logs/lif/checkpoint_max.pth logs/clif/checkpoint_max.pth -out_dir flow
    python -m figures.gradient_flow -dataset digits_seq -model mlp3 -T 8 -neuron LIF CLIF -out_dir flow

The first for trained networks, with the settings in each or in its config.json; the second for fresh ones. The share
of a lag is its part of the L1 norm, summed over batch, neurons and t. *Zero* is the fraction of all (neuron, t) but the
last t where everything of lag 1 and more is exactly 0; *cut*, the same among those to which a later step would send
something, H[t′] and its gradient not being 0: the work of part II in Eq. 14. Of several states, u alone carries a part:
CLIF's is M1, and the rest of the whole has passed m on its way, M2. The batch is one of training, as training sees it,
in float64.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure

from data import DATASETS
from models import MODELS
from neurons import NEURONS, TAU
from settings.build import ERRORS, build_network, build_task, load_splits
from settings.inference import inference_parser, settle
from settings.record import config_beside
from settings.training import DEFAULTS, Settings
from utils.checkpoint import load_weights, read_checkpoint
from utils.cli import OneLineParser, OneOf, UsageError, number
from utils.distributed import Ranks
from utils.engine import naming_memory
from utils.environment import environment
from utils.exit import one_line_errors
from utils.loss import build_loss
from utils.output import in_markdown, markdown_table, write_json, written_aside
from utils.seeding import seed_all

from .gradient_by_lag import gradient_flow
from .panels import Line, shown, style_of
from .style import BLACK, WIDTH, in_style, save_figure
from .told_apart import check_once, names_of

CPU = torch.device("cpu")
SHOWN = 6  # lags that have a column of their own in the table
IN_A_ROW = 4  # names in the legend
OF_FRESH = ("neuron", "model", "dataset", "T", "tau", "seed")
TOLD_BY = ("dataset", "model", "T", "tau", "surrogate", "alpha", "seed")


def flow_of(settings: dict[str, Any], checkpoint: Path | None, batch_size: int) -> dict[str, Any]:
    """Build a network by its settings, load its weights if it has been trained, and split the gradient of a batch."""
    s = Settings(**{name: settings.get(name, default) for name, default in DEFAULTS.items()})
    # as trained, but for where it is computed
    s = replace(s, b=batch_size, j=0, no_download=True, backend="reference", bptt_k=None)
    ranks = Ranks()
    task = build_task(s, ranks)
    seed_all(s.seed)
    net = build_network(task, s)
    if checkpoint is not None:
        load_weights(net, checkpoint)
    batches, _ = load_splits(task, s, CPU, ranks)
    x_seq, target = next(batches.epoch(0))
    target = target.double() if target.is_floating_point() else target  # soft labels of mixup and CutMix
    try:
        layers = gradient_flow(net.double().train(), x_seq.double(), target, build_loss(**s.given_to("loss")))
    except (ValueError, ArithmeticError) as error:
        raise UsageError(f"-model {s.model} -neuron {s.neuron}: {error}") from None
    return {
        "checkpoint": None if checkpoint is None else str(checkpoint),
        **{name: getattr(s, name) for name in ("neuron", *TOLD_BY)},
        "batch": x_seq.shape[1],
        "layers": [asdict(layer) for layer in layers],
    }


def table(flows: Sequence[dict[str, Any]]) -> str:
    """A row per network and layer: shares of the first lags and of the rest, and the fractions zero and cut, in %."""
    lags = min(SHOWN, max(flow["T"] for flow in flows))
    header = ["network, layer", *(f"lag {lag}" for lag in range(lags)), f"lag ≥ {lags}", "zero", "cut"]
    rows = []
    for label, flow in zip(labels_of(flows), flows, strict=True):
        for layer in flow["layers"]:
            share = layer["share"] + [0.0] * (lags - len(layer["share"]))
            cells = [*share[:lags], sum(share[lags:])]
            ends = ["–" if layer[name] is None else f"{100 * layer[name]:.2f}" for name in ("zero", "cut")]
            rows.append([f"{in_markdown(label)}: {layer['name']}", *(f"{100 * cell:.3f}" for cell in cells), *ends])
    return markdown_table(header, rows)


def quantities(flows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the layers, in %, by network: the share that comes from later steps, and what is cut off from them."""
    found = {}
    for name, flow in zip(names_of(flows, TOLD_BY), flows, strict=True):
        layers = flow["layers"]
        found[f"{name}, share of lag 1 and more (%)"] = 100 * mean(sum(e["share"][1:]) for e in layers)
        if flow["T"] > 1:
            found[f"{name}, cut (%)"] = 100 * mean(each["cut"] for each in layers)
    return found


def labels_of(flows: Sequence[dict[str, Any]]) -> list[str]:
    """What the table and the figure call each network."""
    states = ["fresh" if flow["checkpoint"] is None else "trained" for flow in flows]
    return [", ".join(each) for each in zip(names_of(flows, TOLD_BY), states, strict=True)]


def by_u_alone(flows: Sequence[dict[str, Any]]) -> dict[int, str]:
    """What the figure calls the part that u alone carries, by the place of each network that has other states."""
    named = enumerate(zip(names_of(flows, TOLD_BY), flows, strict=True))
    has_part = ((place, name, flow) for place, (name, flow) in named if any(each["m1"] for each in flow["layers"]))
    return {place: f"{name}, by u alone{' (M1)' if flow['neuron'] == 'CLIF' else ''}" for place, name, flow in has_part}


def draw(flows: Sequence[dict[str, Any]], path: Path) -> None:
    """Share of each lag, a panel per layer, and in the last panel the fraction that is cut, by layer."""
    deepest = max(len(flow["layers"]) for flow in flows)
    with in_style():
        columns = min(4, deepest + 1)
        rows = -(-(deepest + 1) // columns)
        figure = Figure(figsize=(WIDTH, 2.1 * rows + 0.3))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        neurons = [flow["neuron"] for flow in flows]
        of_u = by_u_alone(flows)
        for place, (label, flow) in enumerate(zip(labels_of(flows), flows, strict=True)):
            look = flow["neuron"] if neurons.count(flow["neuron"]) == 1 else "by its place"
            style = style_of(Line(label, look=look), place)
            if flow["checkpoint"] is None:
                style |= {"markerfacecolor": "white", "alpha": 0.7}
            for number_, layer in enumerate(flow["layers"]):
                drawn = [share if share > 0 else float("nan") for share in layer["share"]]
                panels[number_].semilogy(range(flow["T"]), drawn, **style, label=shown(label))
                panels[number_].set_title(f"layer {number_ + 1}")
                if layer["m1"] is not None:
                    whole = sum(layer["l1"]) or float("nan")  # nothing passes a layer that is dead
                    parts = [m1 / whole or float("nan") for m1 in layer["m1"]]
                    color = BLACK if len(of_u) == 1 else style["color"]
                    panels[number_].semilogy(
                        range(flow["T"]), parts, color=color, linestyle=":", linewidth=1, label=shown(of_u[place])
                    )
            if flow["T"] > 1:
                cut = [100 * layer["cut"] for layer in flow["layers"]]
                panels[deepest].plot(range(1, len(cut) + 1), cut, **style)
        for panel in panels[:deepest]:
            panel.set_xlabel("lag t′ − t")
            panel.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("share of |∂L/∂c|")
        panels[deepest].set_title("cut off from later steps")
        panels[deepest].set_xlabel("layer")
        panels[deepest].set_ylabel("neurons and steps (%)")
        panels[deepest].set_ylim(-4, 104)
        panels[deepest].xaxis.get_major_locator().set_params(integer=True)
        for panel in panels[deepest + 1 :]:
            panel.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        columns = min(len(unique), IN_A_ROW)
        figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=columns, handlelength=3)
        save_figure(figure, path)


def read_options(argv: Sequence[str] | None = None) -> Namespace:
    parser = OneLineParser("Split the gradient through time by lag: how far back each layer's gradient reaches.")
    add, positive = parser.add_argument, number(int, least=1)
    add("-resume", type=Path, nargs="+", default=[], help="checkpoints of trained networks, each beside its "
        "config.json, or with its settings in it")  # fmt: skip
    add("-neuron", type=OneOf("neuron", NEURONS), nargs="+", default=["LIF", "CLIF"], help="fresh networks: neurons")
    add("-model", type=OneOf("model", MODELS), default="mlp3", help="fresh networks: model")
    add("-dataset", type=OneOf("data set", DATASETS), default="digits_seq", help="fresh networks: data set")
    add("-T", type=positive, default=8, help="fresh networks: time steps")
    add("-tau", type=number(float, above=1), default=TAU, help="fresh networks: membrane time constant, in steps")
    add("-seed", type=number(int, least=0), default=2022, help="fresh networks: seed of weights and batch")
    add("-data_dir", type=Path, default=Path("./data_dir"), help="folder that holds the data sets")
    add("-b", type=positive, default=64, help="batch size")
    add("-out_dir", type=Path, required=True, help="where gradient_flow.md, .json, .png and .pdf go")
    args = parser.parse_args(argv)
    for name in OF_FRESH:
        if args.resume and getattr(args, name) != parser.get_default(name):
            parser.error(f"-{name} is for fresh networks: those of -resume are as they were trained; leave one out")
    return args


def settings_of(checkpoint: Path) -> dict[str, Any]:
    """What a network was trained with, and runs as, from its checkpoint or its config.json.

    Raises:
        UsageError: if they do not say enough, or its layers differ.
    """
    parser = inference_parser()
    args = parser.parse_args(["-resume", str(checkpoint)])
    run = settle(parser, args, read_checkpoint(checkpoint), config_beside(checkpoint))
    for name in ("tau", "v_reset"):
        if isinstance(getattr(run, name), dict):
            raise UsageError(f"{checkpoint}: its layers differ in {name}, and this splits the gradient of one value")
    settled = {name: value for name, value in vars(run).items() if name in DEFAULTS}
    return {**DEFAULTS, **run.recorded, **settled, "seed": run.trained_seed}


def main(argv: Sequence[str] | None = None) -> None:
    args = read_options(argv)
    check_once("-resume", args.resume)
    check_once("-neuron", args.neuron)
    wanted: list[tuple[dict[str, Any], Path | None]] = []
    if args.resume:
        wanted += [({**settings_of(path), "data_dir": args.data_dir}, path) for path in args.resume]
    else:
        settings = {name: getattr(args, name) for name in (*OF_FRESH, "data_dir")}
        wanted = [({**settings, "neuron": neuron}, None) for neuron in args.neuron]
    flows = []
    for settings, checkpoint in wanted:
        if settings.get("bptt_k") is not None:
            print(f"note: {checkpoint} was trained with -bptt_k {settings['bptt_k']}; here its gradient is not cut")
        with naming_memory(args.b, settings["T"]):
            flows.append(flow_of(settings, checkpoint, args.b))
    text = table(flows)
    with written_aside(args.out_dir) as folder:
        (folder / "gradient_flow.md").write_text(text, encoding="utf-8")
        content = {"quantities": quantities(flows), "networks": flows, "made_with": environment(CPU)}
        write_json(folder / "gradient_flow.json", content)
        draw(flows, folder / "gradient_flow")
    print(f"Share of the gradient by lag, in %:\n\n{text}\nresults: {args.out_dir}")


if __name__ == "__main__":
    with one_line_errors("figures.gradient_flow", *ERRORS):
        main()
