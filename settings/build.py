"""What settings describe, built: the data, the network, and the state of a run before its first batch."""

from __future__ import annotations

from functools import partial

import torch
from spikingjelly.activation_based import functional

from data import DataError, Task, build_dataset
from data.loader import Loader, build_loader
from data.resident import ResidentLoader
from models import SpikingNetwork, build_model, synchronise
from neurons.ops.c_build import BuildError
from utils.checkpoint import CheckpointError
from utils.cli import UsageError
from utils.cuda_graph import RecordedPasses
from utils.device import amp_dtype
from utils.distributed import Ranks
from utils.engine import MemoryFullError, TrainState
from utils.finite import NonFiniteLossError
from utils.loss import build_loss
from utils.optim import build_optimizer, build_schedule

from .record import identity_of
from .training import Settings

Batches = Loader | ResidentLoader
# what ends a command that builds and runs these in one line
ERRORS = (UsageError, DataError, CheckpointError, BuildError, MemoryFullError, NonFiniteLossError)


def build_task(s: Settings, ranks: Ranks) -> Task:
    """The data set, with the shares of its training set that are to be trained on and held out."""
    with ranks.first_alone():
        task = build_dataset(s.dataset, s.data_dir, download=not s.no_download, **s.given_to("data"))
    if s.train_fraction < 1:
        task = task.keep_fraction(s.train_fraction, s.seed)
    if s.val_split > 0:
        task = task.hold_out(s.val_split, s.seed)
    return task


def load_splits(task: Task, s: Settings, device: torch.device, ranks: Ranks) -> tuple[Batches, dict[str, Batches]]:
    """Batches to train on, and to evaluate on after each epoch: ``test``, and ``val`` where a share is held out."""
    load = partial(build_loader, batch_size=s.b, T=s.T, device=device, seed=s.seed, workers=s.j,
                   rank=ranks.rank, world=ranks.world)  # fmt: skip
    batches = load(task.train, shuffle=True, drop_last=task.drop_last, mix=task.mix)
    splits = {"test": task.test, "val": task.val}
    held_out = {part: load(split, shuffle=False) for part, split in splits.items() if split is not None}
    if not len(batches):
        raise UsageError(f"-b {s.b} is more than the {len(task.train)} training samples; lower it")
    return batches, held_out


def build_network(task: Task, s: Settings) -> SpikingNetwork:
    """The network for a task."""
    try:
        return build_model(s.model, s.neuron, **task.shape, **s.given_to("network"))
    except ValueError as error:  # an input size that the model cannot take
        raise UsageError(f"-model {s.model} on {s.dataset}: {error}") from None


def place(net: SpikingNetwork, s: Settings, device: torch.device, ranks: Ranks) -> str:
    """Put the network on its device, laid out and to be run as the settings say; returns what computes its neurons."""
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    functional.set_step_mode(net, s.step_mode)
    net.checkpoint = s.checkpoint
    if s.sync_bn:
        synchronise(net, ranks.sum_over_ranks)
    try:
        return net.computed_by(device)
    except ValueError as error:
        raise UsageError(str(error)) from None


def start_state(
    net: SpikingNetwork, task: Task, batches: Batches, s: Settings, device: torch.device, ranks: Ranks
) -> TrainState:
    """The state of a run before its first batch."""
    optimizer = build_optimizer(s.opt, net.parameters(), device=device, **s.given_to("optimiser"))
    return TrainState(
        net,
        optimizer,
        build_loss(**s.given_to("loss")),
        device,
        lr_scheduler=build_schedule(s.lr_scheduler, optimizer, **s.given_to("schedule")),
        amp_dtype=amp_dtype(device, s.amp),
        ranks=ranks,
        weight=batches.order.weight if ranks.world > 1 else None,
        passes=RecordedPasses() if s.cuda_graph else None,
        batches={"b": s.b, "seed": s.seed, "samples": len(task.train)},
        steps=len(batches),
        identity=identity_of(s) | {"ranks": ranks.world},
        **s.given_to("step"),
    )
