"""The gap between training and evaluation that batch norm leaves: statistics by layer and step, and what they cost.

    python -m figures.evaluation_gap -resume logs/lif/checkpoint_max.pth logs/clif/checkpoint_max.pth -out_dir gap

with the settings in the checkpoint or in the config.json beside each. Training normalises each step by its own
statistics, evaluation as published all steps by one shared set. Weights stay as they are; everything is taken over the
training set (as the test set is seen) and over the test set, in batches of -b drawn at random. Of each batch norm's
inputs, by channel, mean_t and var_t of step t against the shared set's mean and var, their means over t:

    shift = √(mean over channels of (mean_t − mean)²/(var + ε)),  ratio = geometric mean of (var_t + ε)/(var + ε).

Three times: training data and test data normalised step by step by each batch's statistics, as in training; and what
arrives in each norm when the test set is evaluated with the shared set, where the layers before have erred already.
"""

from __future__ import annotations

import copy
import math
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data import DataError, build_dataset
from data.loader import build_loader
from data.task import Split
from models import recalibrate, steps_known, use_statistics
from models.batch_norm import BatchNorm2d
from models.statistics import batch_norms
from settings.inference import inference_parser, settle
from settings.rebuild import build_again, training_slice
from settings.record import config_beside
from utils.checkpoint import CheckpointError, load_weights, read_checkpoint
from utils.cli import OneLineParser, UsageError, number
from utils.device import choose_device
from utils.engine import MemoryFullError, naming_memory, progress
from utils.exit import one_line_errors
from utils.output import markdown_table, write_json, written_aside
from utils.run_dir import environment

from .gap_figure import draw

SAME = 1e-6  # standard deviations: a shift below is rounding
Batches = Iterable[tuple[Tensor, Tensor]]
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


@torch.no_grad()
def accuracy(net: nn.Module, batches: Batches) -> float:
    """Accuracy in % over (x_seq, labels) batches, each module in the mode that it is in."""
    right, seen = torch.tensor(0), 0
    for x_seq, labels in batches:
        right = right + (net(x_seq).sum(0).argmax(1) == labels).sum()  # [T, N, K] → [N, K] → [N]
        seen += len(labels)
    return 100 * int(right) / seen


def by_batch_statistics(net: nn.Module) -> nn.Module:
    """A copy in which batch norm alone is in training mode: weights are its own, running statistics go on."""
    other = copy.deepcopy(net).eval()
    for norm in batch_norms(other):
        norm.train()
    return other


def evaluation_gap(net: nn.Module, load: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracies by :data:`WAYS` and part of the data, and the statistics by layer and step.

    Args:
        net: a trained network [T, N, C, H, W] → [T, N, K] with batch norm per step; it is left untouched.
        load: "train" and "test" → a function that yields the batches of one pass.

    Raises:
        ValueError: if the network has no batch norm, or has it merged over T.
    """
    norms = batch_norms(net)
    if not norms or any(norm.merged for norm in norms):
        raise ValueError("the network has no batch norm that sees one step at a time, so there is no such gap")
    again = by_batch_statistics(net)
    acc = {part: {"batch": accuracy(by_batch_statistics(net) if part == "test" else again, load[part]())}
           for part in PARTS}  # fmt: skip
    of_train, of_test = copy.deepcopy(net), copy.deepcopy(net)
    recalibrate(of_train, load["train"]())
    recalibrate(of_test, load["test"]())
    ways = {
        "shared": (net, "shared"),
        "shared_again": (again, "shared"),
        "mean_of_steps": (of_train, "shared"),
        **({"per_step": (net, "per_step")} if steps_known(net) else {}),
        "per_step_again": (of_train, "per_step"),
    }
    arriving: dict[str, tuple[Tensor, Tensor]] = {}
    for way, (network, kind) in ways.items():
        fed = copy.deepcopy(network).eval()
        use_statistics(fed, kind)
        for part in PARTS:
            with ExitStack() as stack:
                if (way, part) == ("mean_of_steps", "test"):
                    arriving = watch_inputs(fed, stack)
                acc[part][way] = accuracy(fed, load[part]())
    return {"accuracy": acc, "layers": layers_of(of_train, of_test, arriving)}


def watch_inputs(net: nn.Module, stack: ExitStack) -> dict[str, tuple[Tensor, Tensor]]:
    """Take mean and variance [T, C] of what arrives in each batch norm while ``stack`` is open, means over batches."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    batches: dict[str, int] = {}

    def hook(name: str, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0].double(), dim=(1, 3, 4))  # [T, N, C, H, W] → [T, C]
        n = batches[name] = batches.get(name, 0) + 1
        old_mean, old_var = seen.get(name, (mean, var))
        seen[name] = old_mean + (mean - old_mean) / n, old_var + (var - old_var) / n

    for name, module in net.named_modules():
        if isinstance(module, BatchNorm2d):
            module.is_scale_and_shift = False  # a fused norm's forward is never called
            stack.callback(module.register_forward_pre_hook(partial(hook, name)).remove)
    return seen


def layers_of(of_train: nn.Module, of_test: nn.Module, arriving: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Shift and ratio of each layer and step against the shared set of the training data."""
    on_test = dict(of_test.named_modules())
    layers = []
    for name, norm in of_train.named_modules():
        if not isinstance(norm, BatchNorm2d):
            continue
        other = on_test[name]
        assert isinstance(other, BatchNorm2d)
        statistics = {
            "train": (norm.running_mean_t, norm.running_var_t),
            "test": (other.running_mean_t, other.running_var_t),
            "test_shared": arriving[name],
        }
        layers.append({"name": name, "channels": norm.num_features,
                       **{where: against_shared(norm, *of) for where, of in statistics.items()}})  # fmt: skip
    return layers


def against_shared(norm: BatchNorm2d, mean_t: Tensor | None, var_t: Tensor | None) -> dict[str, list[float]]:
    """Shift and ratio [T] of statistics [T, C] against a norm's shared ones [C], as the module's head defines them."""
    assert mean_t is not None
    assert var_t is not None
    mean, var = norm.running_mean.double(), norm.running_var.double() + norm.eps
    shift = ((mean_t.double() - mean).square() / var).mean(1).sqrt()
    ratio = ((var_t.double() + norm.eps) / var).log().mean(1).exp()
    return {"shift": shift.tolist(), "ratio": ratio.tolist()}


def measure(run: Namespace, device: torch.device) -> dict[str, Any]:
    """Build a run's network, load its weights, and measure its gap."""
    task = build_dataset(run.dataset, run.data_dir, T=run.T, seed=run.seed, download=not run.no_download,
                         event_split=run.event_split)  # fmt: skip
    splits = {"train": training_slice(task, run, math.inf, "b"), "test": task.test}
    if isinstance(run.tau, dict) or isinstance(run.v_reset, dict):
        raise UsageError(f"{run.resume} has values of each layer, of a conversion; take the network as it was trained")
    try:
        net = build_again(run, task, run.neuron, tau=run.tau, v_reset=run.v_reset)
        load_weights(net, run.resume)
        net.to(device)
        load = {part: partial(batches_of, split, run, device, f"{run.neuron}, {PARTS[part]} set")
                for part, split in splits.items()}  # fmt: skip
        with naming_memory(run.b, run.T):
            found = evaluation_gap(net.eval(), load)
    except ValueError as error:
        raise UsageError(f"{run.resume}: {error}") from None
    named = ("dataset", "model", "neuron", "T", "tau", "v_reset", "b", "seed")
    samples = {part: len(split) for part, split in splits.items()}
    return {"checkpoint": str(run.resume), **{name: getattr(run, name) for name in named}, "samples": samples, **found}


def batches_of(split: Split, run: Namespace, device: torch.device, title: str) -> Batches:
    """One pass over a split, in batches drawn at random: files may be sorted by class."""
    loader = build_loader(split, batch_size=run.b, T=run.T, device=device, seed=run.seed, shuffle=True, workers=run.j)
    return progress(loader.epoch(0), title, len(loader))


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


def write(networks: Sequence[Mapping[str, Any]], folder: Path, made_with: Mapping[str, Any]) -> str:
    """Write evaluation_gap.json, .md, .png and .pdf; returns the Markdown."""
    text = table(networks)
    (folder / "evaluation_gap.md").write_text(text)
    quantities = {
        f"{network['neuron']}, {PARTS[part]}, {way}": acc
        for network in networks
        for part, ways in network["accuracy"].items()
        for way, acc in ways.items()
    }
    write_json(
        folder / "evaluation_gap.json",
        {"quantities": quantities, "networks": list(networks), "made_with": made_with},
    )
    draw(networks, folder / "evaluation_gap")
    return text


def read_options(argv: Sequence[str] | None = None) -> Namespace:
    parser = OneLineParser("Measure what batch norm's shared statistics cost: by layer and step, and in accuracy.")
    add = parser.add_argument
    add("-resume", type=Path, nargs="+", default=[], help="checkpoints, each beside its config.json, or with its "
        "settings in it")  # fmt: skip
    add("-data_dir", type=Path, default=None, help="folder that holds the data sets; None takes config.json's")
    add("-b", type=number(int, least=2), default=None, help="batch size; None takes config.json's")
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
    device = choose_device(args.device)
    networks = [measure(settings_of(checkpoint, args), device) for checkpoint in args.resume]
    with written_aside(args.out_dir) as folder:
        text = write(networks, folder, environment(device))
    print(f"Accuracy in %:\n\n{text}\nresults: {args.out_dir}")


if __name__ == "__main__":
    with one_line_errors("figures.evaluation_gap", UsageError, DataError, CheckpointError, MemoryFullError):
        main()
