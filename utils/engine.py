"""The state of a run, a step and an epoch of training, and one of evaluation; epochs return a dict of numbers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import Ranks
from .finite import stop_if_loss_is_not_finite, stop_if_state_is_not_finite
from .meter import Meter
from .progress import Batches, progress
from .seeding import seed_all

Passes = Callable[["TrainState", Tensor, Tensor], tuple[Tensor, Tensor]]
REFRESH_SECONDS = 0.5  # how often the progress bar asks the device for its numbers
# how torch puts it: its CPU allocator, and where int64 cannot count a tensor's numbers or its bytes
TOO_LARGE = ("allocate memory", "numel: integer multiplication overflow", "Storage size calculation overflowed")


class MemoryFullError(Exception):
    """The device's memory is full: one line that says which options take less."""


@dataclass
class TrainState:
    """A network that is trained, what trains it, and how far it has come.

    Args:
        net: what is trained, evaluated and saved; ``model`` is the same under the ranks' averaging of gradients.
        criterion: (logits [T, N, K], target) → the loss, a scalar.
        lr_scheduler: one step an epoch; None leaves the learning rate alone.
        amp_dtype: precision of the convolutions under autocast; None for float32. float16 scales the loss.
        seed: dropout's draws are a function of (seed, epoch, step).
        ranks: the processes that share each batch.
        weight: step → factor of the loss, where the ranks have uneven shares of a batch.
        passes: forward, loss and backward; None for :func:`forward_and_backward`.
        batches: what an epoch's batches are a function of, besides the epoch. steps: how many an epoch has.
        identity: the settings that identify the run; its checkpoints carry them.

    ``epoch`` and ``step`` say where it is: the epoch, and how many of its batches have been trained on; ``meter`` has
    counted these. ``best_acc`` is the best accuracy so far on the set that chooses, ``best_test_acc`` the test accuracy
    of that epoch, both in percent. ``exchanged`` is what a checkpoint must say of neurons that were exchanged. The
    epoch took ``seconds`` in processes before this one, which ``started`` on it then (``time.perf_counter``).
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    amp_dtype: torch.dtype | None = None
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    weight: Callable[[int], float] | None = None
    passes: Passes | None = None
    batches: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    identity: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    best_acc: float = float("-inf")
    best_test_acc: float = float("-inf")
    exchanged: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.model = self.ranks.parallel(self.net)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        self.meter = Meter(self.device)

    def is_best(self, acc: float, test_acc: float) -> bool:
        """Whether an epoch is the best so far on the set that chooses; notes it if so."""
        if acc <= self.best_acc:
            return False
        self.best_acc, self.best_test_acc = acc, test_acc
        return True

    def elapsed(self) -> float:
        """Seconds that the epoch has taken."""
        return self.seconds + time.perf_counter() - self.started

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.seconds = 0.0
        if self.lr_scheduler is not None:
            with warnings.catch_warnings():  # the optimiser's step that it misses came before a resume, or overflowed
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                self.lr_scheduler.step()
        self.epoch, self.step, self.meter = self.epoch + 1, 0, Meter(self.device)


def forward_and_backward(state: TrainState, x_seq: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Forward, loss and backward of a batch → the loss and the logits [T, N, K]; gradients are left in their places."""
    with torch.autocast(state.device.type, state.amp_dtype, enabled=state.amp_dtype is not None):
        logits = state.model(x_seq)
    loss = state.criterion(logits, target)
    state.optimizer.zero_grad(set_to_none=True)
    with state.ranks.waiting():  # gradients are averaged on the way
        state.scaler.scale(loss if state.weight is None else loss * state.weight(state.step)).backward()
    return loss.detach(), logits.detach()


def train_step(state: TrainState, x_seq: Tensor, target: Tensor) -> None:
    """Train on one batch: x_seq [T, N, C, H, W], target [N] or soft labels [N, K]."""
    rank = state.ranks.rank  # rank 0 draws as a single process does
    seed_all(state.seed, state.epoch, state.step, *[rank] * (rank > 0))
    loss, logits = (state.passes or forward_and_backward)(state, x_seq, target)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.meter.add(loss, logits, target, state.step)
    state.step += 1


def train_one_epoch(
    state: TrainState, batches: Batches, steps: int, between: Callable[[], None] | None = None
) -> dict[str, float]:
    """Train on what is left of an epoch and return its loss, accuracy (%) and images/s.

    The rate is of what is trained here; where nothing is left, as after a stop while it was evaluated, of all before.

    Args:
        batches: (x_seq [T, N, C, H, W], target) from batch ``state.step`` on.
        steps: batches of the whole epoch, for the progress bar.
        between: called after each step.

    Raises:
        NonFiniteLossError: naming the first step whose loss is not finite, or the weight, buffer or state of the
            optimiser that is not at the end of the epoch.
    """
    state.model.train()
    meter, where = state.meter, f"epoch {state.epoch}"
    before = meter.samples  # of a part of this epoch that another process trained on; rank 0 has those of all ranks
    started = shown = time.perf_counter()
    with progress(batches, where, steps, state.step) as bar:
        for x_seq, target in bar:
            train_step(state, x_seq, target)
            if between is not None:
                between()
            if time.perf_counter() - shown > REFRESH_SECONDS:
                shown = time.perf_counter()
                stop_if_loss_is_not_finite(meter, where, state.net)
                loss_now, accuracy = meter.read()
                rate = state.ranks.world * (meter.samples - before) / (shown - started)
                bar.set_postfix_str(f"loss {loss_now:.4f}, acc {accuracy:.2f}%, {rate:.0f} images/s", refresh=False)
    stop_if_loss_is_not_finite(meter, where, state.net)
    state.ranks.share_buffers(state.net)
    stop_if_state_is_not_finite(state.net, state.optimizer, f"the end of {where}")
    world_meter = meter.over_ranks(state.ranks.sum_over_ranks)
    here = world_meter.samples - state.ranks.agree([before])[0]
    samples, seconds = (here, time.perf_counter() - started) if here else (world_meter.samples, state.seconds)
    loss_mean, accuracy = world_meter.read()
    rate = samples / seconds if seconds else 0.0  # of checkpoints that do not know
    return {"loss": loss_mean, "acc": accuracy, "images_per_second": rate}


@torch.no_grad()
def evaluate(
    net: nn.Module,
    batches: Batches,
    criterion: Callable[[Tensor, Tensor], Tensor],
    *,
    device: torch.device,
    steps: int,
    title: str = "test",
    sum_over_ranks: Callable[[Tensor], None] | None = None,
) -> dict[str, float]:
    """Loss and accuracy (%) over ``batches``, in the precision of the weights (float32).

    Raises:
        NonFiniteLossError: naming the first step whose loss is not finite, and the layer; so weights that the last
            steps spoilt are never saved.
    """
    net.eval()
    meter, x_seq = Meter(device), None  # a rank may have no batch
    with progress(batches, title, steps) as bar:
        for step, (x_seq, target) in enumerate(bar):
            logits = net(x_seq)
            meter.add(criterion(logits, target), logits, target, step)
    stop_if_loss_is_not_finite(meter, f"the {title} set", net, x_seq)
    loss, accuracy = meter.over_ranks(sum_over_ranks).read()
    return {"loss": loss, "acc": accuracy}


@contextmanager
def naming_memory(batch_size: int, T: int) -> Iterator[None]:
    """Turn a full memory, and what it does to a loader's workers, into :class:`MemoryFullError`."""
    advice = f"out of memory with -b {batch_size} and -T {T}: memory grows with both, so lower one of them"
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise MemoryFullError(advice) from None
    except RuntimeError as error:
        if "DataLoader worker" in str(error):  # how torch puts it that one was killed
            raise MemoryFullError("a process that loads data was killed, as happens where memory is full: "
                                  "lower -j, -b or -T") from None  # fmt: skip
        if not any(words in str(error) for words in TOO_LARGE):
            raise
        raise MemoryFullError(advice) from None
