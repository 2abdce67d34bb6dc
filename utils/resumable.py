"""What a training checkpoint must hold to be resumed: each field's type, range and shape, before any of it is used.

Each function returns what is to be put back, made of what has been checked alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from .checkpoint import flaw_of, said
from .optim import KEPT

NO_SUMS: Mapping[str, float] = {"loss": 0.0, "hits": 0, "samples": 0}
MANY = 10**9
# as optimisers and schedules call it → the option that says it
OPTIONS = {
    "initial_lr": "-lr",
    "momentum": "-momentum",
    "weight_decay": "-weight_decay",
    "T_max": "-T_max",
    "eta_min": "-lr_min",
    "warmup_epochs": "-warmup_epochs",
    "warmup_lr": "-warmup_lr",
    "cooldown_epochs": "-cooldown_epochs",
    "step_size": "-step_size",
    "gamma": "-gamma",
}
HOW_COMPUTED = {"foreach", "fused", "capturable", "differentiable"}  # not what: the device may change
LATER_THAN_PUBLISHED = {"maximize", "decoupled_weight_decay"}  # torch versions before these know one value of them
OF_A_SCHEDULE = {"T_max", "eta_min", "warmup_epochs", "warmup_lr", "cooldown_epochs", "step_size", "gamma"}


class UnfitError(Exception):
    """A field that cannot be resumed from, in words that follow the file's name."""


def number(value: object, what: str, least: float, most: float) -> float:
    """``value``, if it is a number from ``least`` to ``most``."""
    if not (isinstance(value, (int, float)) and type(value) is not bool and least <= value <= most):
        raise UnfitError(f"{what} is {said(value)}, no number from {least:g} to {most:g}")
    return float(value)


def whole(value: object, what: str, least: int, most: int) -> int:
    """``value``, if it is a whole number from ``least`` to ``most``."""
    if not (isinstance(value, int) and type(value) is not bool and least <= value <= most):
        raise UnfitError(f"{what} is {said(value)}, no whole number from {least} to {most}")
    return value


def table(value: object, what: str) -> dict[Any, Any]:
    """``value``, if it is a dict."""
    if not isinstance(value, dict):
        raise UnfitError(f"{what} is {'missing' if value is None else said(value)}")
    return value


def same(theirs: object, mine: object) -> bool:
    """Whether plain values are equal, and of one type; 0 and 0.0 are, True is none of them."""
    if isinstance(mine, (list, tuple)):
        return type(theirs) is type(mine) and len(theirs) == len(mine) and all(map(same, theirs, mine))
    if isinstance(mine, dict):
        return (
            isinstance(theirs, dict)
            and theirs.keys() == mine.keys()
            and all(same(theirs[name], value) for name, value in mine.items())
        )
    numbers = {type(theirs), type(mine)} <= {int, float}
    return (numbers or type(theirs) is type(mine)) and theirs == mine


def agree(theirs: object, mine: object, what: str, name: str) -> None:
    """Refuse a setting that is another one here: resumed, the checkpoint's would win without a word."""
    if same(theirs, mine):
        return
    if name in OPTIONS and isinstance(theirs, (int, float)):
        raise UnfitError(f"it was trained with {OPTIONS[name]} {said(theirs)}, not {said(mine)}")
    raise UnfitError(f"{what}'s {name} is {said(theirs)}, and {said(mine)} here")


def checked_place(checkpoint: Mapping[str, Any], batches: dict[str, int], steps: int) -> tuple[int, int, Any]:
    """Whole epochs trained, batches of the next one trained on, what the meter held after these, and their seconds.

    Args:
        batches: what an epoch's batches are a function of here. steps: how many an epoch has.
    """
    epochs = 1 + whole(checkpoint.get("epoch"), "epoch", -1, MANY)
    step = whole(checkpoint.get("step", 0), "step", 0, MANY)
    if step and not same(checkpoint.get("batches"), batches):
        raise UnfitError("it was saved in the middle of an epoch with other batches: take the same -b, -seed and data")
    whole(step, "step", 0, steps)
    sums = table(checkpoint.get("sums", NO_SUMS), "sums")
    samples = whole(sums.get("samples"), "sums: samples", 0, step * batches["b"])
    hits = whole(sums.get("hits"), "sums: hits", 0, samples)
    loss = number(sums.get("loss"), "sums: loss", 0, 1e30 if samples else 0)
    seconds = number(sums.get("seconds", 0.0), "sums: seconds", 0, 1e12)
    return epochs, step, {"loss": loss, "hits": hits, "samples": samples, "seconds": seconds}


def checked_accuracies(checkpoint: Mapping[str, Any]) -> tuple[float, float]:
    """Best accuracy on the set that chooses, and on the test set then, in percent; −inf before the first epoch.

    The published code keeps one, as a fraction.
    """
    test = checkpoint.get("max_test_acc")
    if "format" not in checkpoint:
        percent = 100 * number(test, "max_test_acc, of the published code a fraction,", -1, 1)
        return (percent, percent) if percent >= 0 else (-math.inf, -math.inf)
    accuracies = {"best_acc": checkpoint.get("best_acc", test), "max_test_acc": test}
    best, test = (
        -math.inf if same(value, -math.inf) else number(value, name, 0, 100) for name, value in accuracies.items()
    )
    return best, test


def checked_optimizer(
    saved: object, weights: Mapping[str, Tensor], net: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """An optimiser's state for ``load_state_dict``, in the order of ``net`` and laid out in memory like its weights.

    Its kernels go through memory side by side, whatever the strides; and its state goes by position.

    Args:
        weights: the checkpoint's network, in its own order.
    """
    groups = table(saved, "optimizer").get("param_groups")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise UnfitError("optimizer has not one group of weights")
    here, group = optimizer.param_groups[0], groups[0]
    parameters = dict(net.named_parameters())
    order = [name for name in weights if name in parameters]
    settings = here.keys() - HOW_COMPUTED - {"params", "lr"}
    absent = settings - LATER_THAN_PUBLISHED - group.keys()
    if absent or group.keys() - here.keys():
        raise UnfitError("it was trained with another -opt")
    for name in sorted(settings & group.keys()):
        agree(group[name], here[name], "optimizer", name)
    if not same(group.get("params"), list(range(len(order)))):
        raise UnfitError(f"optimizer is not of the {len(order)} weights of this network")
    state = {}
    place = {name: number for number, name in enumerate(parameters)}
    for position, kept in table(table(saved, "optimizer").get("state"), "optimizer: state").items():
        name = order[whole(position, "optimizer: a weight's position", 0, len(order) - 1)]
        state[place[name]] = checked_state(kept, name, parameters[name], KEPT[type(optimizer).__name__])
    lr = number(group.get("lr"), "optimizer: lr", 0, 1e300)
    return {"state": state, "param_groups": [{**here, "params": list(range(len(place))), "lr": lr}]}


def checked_state(kept: object, name: str, parameter: Tensor, names: set[str]) -> dict[str, Tensor]:
    """What an optimiser keeps for one weight, each as a tensor of its own; nothing where it has kept none yet."""
    kept = {what: value for what, value in table(kept, f"optimizer: state of {name}").items() if value is not None}
    if kept and kept.keys() != names:
        raise UnfitError(f"optimizer does not keep {', '.join(sorted(names))} of {name}, but something else")
    found = {}
    for what, value in kept.items():
        if what == "step":  # a plain number in earlier versions of torch
            value = value if isinstance(value, Tensor) else torch.tensor(number(value, f"step of {name}", 0, 1e15))
            like = torch.empty(())
        else:
            like = parameter.detach()
        if flaw := flaw_of(value, like):
            raise UnfitError(f"optimizer: {what} of {name} {flaw}")
        if what in ("step", "exp_avg_sq") and value.min() < 0:
            raise UnfitError(f"optimizer: {what} of {name} is below 0")
        found[what] = torch.empty_like(like).copy_(value)
    return found


def checked_schedule(
    saved: object, lr_scheduler: LRScheduler, group: Mapping[str, Any], epochs: int, published: bool
) -> dict[str, Any]:
    """A schedule's state for ``load_state_dict``; the learning rate must be the one that it gives.

    Args:
        group: the optimiser's, as :func:`checked_optimizer` gave it. epochs: trained so far.
        published: whether the published code wrote it; it may save before the schedule's step.
    """
    saved, here = table(saved, "lr_scheduler"), lr_scheduler.state_dict()
    if OF_A_SCHEDULE & saved.keys() != OF_A_SCHEDULE & here.keys():
        raise UnfitError("it was trained with another -lr_scheduler")
    for name in sorted(OF_A_SCHEDULE & here.keys()):
        agree(saved[name], here[name], "lr_scheduler", name)
    last = whole(saved.get("last_epoch"), "lr_scheduler: last_epoch", epochs - 1 if published else epochs, epochs)
    at_last = copy(lr_scheduler)
    at_last.last_epoch = last
    try:
        (lr,) = at_last._get_closed_form_lr()  # type: ignore[attr-defined]
    except OverflowError:
        lr = math.inf
    expected = {"base_lrs": [group["initial_lr"]], "_last_lr": [group["lr"]], "_step_count": last + 1}
    if not math.isclose(lr, group["lr"], rel_tol=1e-6, abs_tol=1e-6 * group["initial_lr"]):
        raise UnfitError(f"optimizer: lr is {group['lr']:g} after {last} epochs; the schedule has {lr:g} there")
    for name, value in expected.items():
        agree(saved.get(name), value, "lr_scheduler", name)
    return {**here, **expected, "last_epoch": last}


def checked_scaler(saved: object, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """A gradient scaler's state for ``load_state_dict``; empty where it scaled nothing, as in the published code."""
    saved = {} if saved is None else table(saved, "scaler")
    if not saved:
        return {}
    number(saved.get("scale"), "scaler: scale", 2.0**-149, 2.0**127)
    number(saved.get("growth_factor"), "scaler: growth_factor", 1, 1e6)
    number(saved.get("backoff_factor"), "scaler: backoff_factor", 1e-6, 1)
    interval = whole(saved.get("growth_interval"), "scaler: growth_interval", 1, MANY)
    whole(saved.get("_growth_tracker"), "scaler: _growth_tracker", 0, interval)
    here = scaler.state_dict()
    for name in {"growth_factor", "backoff_factor", "growth_interval"} & here.keys():
        agree(saved[name], here[name], "scaler", name)
    return saved
