"""What batch norm's statistics are by layer and step, and what evaluation loses by each way to normalise.

Of each batch norm's inputs, by channel, mean_t and var_t of step t against the shared set's mean and var, their means
over t:

    shift = √(mean over channels of (mean_t − mean)²/(var + ε)),  ratio = geometric mean of (var_t + ε)/(var + ε).

Three times: training data and test data normalised step by step by each batch's statistics, as in training; and what
arrives in each norm when the test set is evaluated with the shared set, where the layers before have erred already.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models import recalibrate, steps_known, use_statistics
from models.batch_norm import BatchNorm2d
from models.statistics import batch_norms
from utils.progress import Batches

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
    """A copy in which batch norm alone is in training mode: weights are its own, running statistics are updated."""
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
