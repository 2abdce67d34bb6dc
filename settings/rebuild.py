"""A checkpoint's data and network, built again for inference.py from the settings that its run had."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from data import build_dataset
from data.loader import build_loader
from data.task import Split, Task, classes_lacking, stratified_split
from models import build_model
from neurons import DECAYING
from utils.cli import UsageError
from utils.engine import naming_memory

from .build import Batches
from .training import OPTIONS, names_given_to


def load_data(run: Namespace, device: torch.device) -> tuple[Task, Batches, Batches | None, Split | None]:
    """The task, batches of its test set and of the slice of its training set that ``-calibrate`` reads, and the samples
    that ``-recalibrate_bn`` reads."""
    with naming_memory(run.b, run.T):
        task = build_dataset(run.dataset, run.data_dir, T=run.T, seed=run.seed, download=not run.no_download,
                             event_split=run.event_split)  # fmt: skip
    load = partial(build_loader, batch_size=run.b, T=run.T, device=device, seed=run.seed, shuffle=False, workers=run.j)
    test = load(task.test)
    calibration = load(training_slice(task, run, run.calibrate_samples, "calibrate_samples")) if run.calibrate else None
    retaken = training_slice(task, run, run.recalibrate_bn, "recalibrate_bn") if run.recalibrate_bn else None
    if run.throughput and len(task.test) < run.b:
        raise UsageError(f"-throughput wants full batches: -b {run.b} is more than the {len(task.test)} test samples")
    return task, test, calibration, retaken


def training_slice(task: Task, run: Namespace, samples: float, option: str) -> Split:
    """Part of what the network was trained on, as the test set is seen; never what -val_split held out.

    The training's own seed says what that was; -seed says which part of it.
    """
    if run.train_fraction < 1:
        task = task.keep_fraction(run.train_fraction, run.trained_seed)
    if run.val_split > 0:
        task = task.hold_out(run.val_split, run.trained_seed)
    share = min(1.0, samples / len(task.train))
    kept, _ = stratified_split(task.train.labels, share, run.seed)
    if classes_lacking(task.train.labels, kept):
        raise UsageError(f"-{option} {samples} is less than one sample of each class; take more")
    return task.train.subset(kept).seen_as(task.test)


def build_again(run: Namespace, shape: Mapping[str, Any], neuron: str, **options: Any) -> nn.Module:
    """A network with the run's settings, other than tau and v_reset, which are ``options``.

    Args:
        shape: of its task; see :attr:`data.task.Task.shape`.
    """
    left_out = ("tau", "v_reset") if neuron in DECAYING else ("tau", "v_reset", "decay_input", "detach_reset")
    names = [name for name in names_given_to("network") if OPTIONS[name].inference and name not in left_out]
    with naming_memory(run.b, run.T):
        return build_model(run.model, neuron, **shape, **{name: getattr(run, name) for name in names}, **options)
