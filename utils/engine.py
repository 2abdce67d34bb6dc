"""One epoch of training, and one of evaluation: each returns a plain dict of numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .seeding import seed_all

Batches = Iterable[tuple[Tensor, Tensor]]
REFRESH_SECONDS = 0.5  # how often the progress bar asks the device for its numbers


class NonFiniteLossError(Exception):
    """The loss stopped being a number: one line that names the epoch and the step."""


class MemoryFullError(Exception):
    """The device's memory is full: one line that says which options take less."""


class Meter:
    """Loss and hits, summed on the device: reading them waits for it, so it is done now and then only.

    Args:
        sums: what :meth:`sums` gave in the middle of an epoch that is gone on with.
    """

    def __init__(self, device: torch.device, sums: Mapping[str, float] | None = None):
        loss, hits, samples = (sums[name] for name in ("loss", "hits", "samples")) if sums else (0.0, 0, 0)
        wide = torch.float64 if device.type != "mps" else torch.float32
        self.loss = torch.full((), loss, device=device, dtype=wide)
        self.hits = torch.full((), int(hits), device=device, dtype=torch.int64)
        self.first_bad = torch.full((), -1, device=device, dtype=torch.int64)
        self.samples = int(samples)

    def add(self, loss: Tensor, logits: Tensor, target: Tensor, step: int) -> None:
        """Count a batch: its mean loss, logits [T, N, K], target [N] or [N, K]."""
        labels = target if target.dim() == 1 else target.argmax(1)
        samples = len(labels)
        self.loss += loss.detach() * samples
        self.hits += (logits.detach().sum(0).argmax(1) == labels).sum()  # [T, N, K] → [N, K] → [N]
        bad = ~loss.detach().isfinite() & (self.first_bad < 0)
        self.first_bad = torch.where(bad, step, self.first_bad)
        self.samples += samples

    def sums(self) -> dict[str, float]:
        """What it holds, as plain numbers for a checkpoint; waits for the device."""
        return {"loss": self.loss.item(), "hits": self.hits.item(), "samples": self.samples}

    def over_ranks(self, sum_over_ranks: Callable[[Tensor], None] | None) -> Meter:
        """A meter of all ranks' sums."""
        if sum_over_ranks is None:
            return self
        sums = torch.stack([self.loss, self.hits.double(), self.loss.new_tensor(self.samples)])
        sum_over_ranks(sums)
        loss, hits, samples = sums.tolist()
        return Meter(self.loss.device, {"loss": loss, "hits": int(hits), "samples": int(samples)})

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy in percent so far; waits for the device."""
        return self.loss.item() / self.samples, 100 * self.hits.item() / self.samples


def train_one_epoch(
    net: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    criterion: Callable[[Tensor, Tensor], Tensor],
    *,
    epoch: int,
    steps: int,
    seed: int,
    device: torch.device,
    scaler: torch.amp.GradScaler,
    amp_dtype: torch.dtype | None,
    start: int = 0,
    meter: Meter | None = None,
    after_step: Callable[[int], None] | None = None,
    weight: Callable[[int], float] | None = None,
    sum_over_ranks: Callable[[Tensor], None] | None = None,
    rank: int = 0,
) -> dict[str, float]:
    """Train on ``batches`` of (x_seq [T, N, C, H, W], target) and return loss, accuracy (%) and images/s.

    Args:
        criterion: (logits [T, N, K], target) → scalar.
        epoch, steps: for the progress bar, and for naming a step that failed.
        seed: dropout's draws are a function of (seed, epoch, step).
        scaler: scales the loss in float16; a disabled one leaves it alone.
        amp_dtype: precision of the convolutions under autocast; None for float32.
        start: batches of this epoch that were trained on before; ``batches`` begins behind them.
        meter: what it held then.
        after_step: called with the number of batches trained on, after each.
        weight: step → factor of the loss, where several ranks have uneven shares of a batch.
        sum_over_ranks: adds a tensor up over all ranks, in place; None for one.
        rank: a part of the key of dropout's draws; rank 0's are those of a single process.

    Raises:
        NonFiniteLossError: naming the first such step.
    """
    net.train()
    meter = meter or Meter(device)
    before = meter.samples
    started = shown = time.perf_counter()
    with progress(batches, f"epoch {epoch}", steps, start) as bar:
        for step, (x_seq, target) in enumerate(bar, start):
            seed_all(seed, epoch, step, *[rank] * (rank > 0))
            with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
                logits = net(x_seq)
            loss = criterion(logits, target)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss if weight is None else loss * weight(step)).backward()
            scaler.step(optimizer)
            scaler.update()
            meter.add(loss, logits, target, step)
            if after_step is not None:
                after_step(step + 1)
            if time.perf_counter() - shown > REFRESH_SECONDS:
                shown = time.perf_counter()
                stop_if_not_finite(meter, f"epoch {epoch}")
                loss_now, accuracy = meter.read()
                rate = (meter.samples - before) / (shown - started)
                bar.set_postfix_str(f"loss {loss_now:.4f}, acc {accuracy:.2f}%, {rate:.0f} images/s", refresh=False)
    stop_if_not_finite(meter, f"epoch {epoch}")
    world_meter = meter.over_ranks(sum_over_ranks)
    share = (meter.samples - before) / meter.samples if before else 1.0  # a resumed epoch's first part took other time
    rate = share * world_meter.samples / (time.perf_counter() - started)
    loss_mean, accuracy = world_meter.read()
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
        NonFiniteLossError: naming the first such step; so weights that the last steps spoilt are never saved.
    """
    net.eval()
    meter = Meter(device)
    with progress(batches, title, steps) as bar:
        for step, (x_seq, target) in enumerate(bar):
            logits = net(x_seq)
            meter.add(criterion(logits, target), logits, target, step)
    stop_if_not_finite(meter, f"the {title} set")
    loss, accuracy = meter.over_ranks(sum_over_ranks).read()
    return {"loss": loss, "acc": accuracy}


def progress(batches: Batches, title: str, steps: int, start: int = 0) -> tqdm:
    """A progress bar that clears itself and is silent where nobody watches."""
    return tqdm(
        batches, desc=title, total=steps, initial=start, leave=False, dynamic_ncols=True, disable=None, unit="batch"
    )


def stop_if_not_finite(meter: Meter, where: str) -> None:
    """Raise :class:`NonFiniteLossError` if any loss so far was infinite or not a number."""
    step = int(meter.first_bad)
    if step >= 0:
        raise NonFiniteLossError(
            f"the loss is not finite at step {step} of {where}; the last checkpoint is kept. "
            "Try a lower -lr, or -no_amp"
        )


def stop_if_weights_are_not_finite(net: nn.Module, where: str) -> None:
    """Raise :class:`NonFiniteLossError` before weights that the last steps spoilt are saved; waits for the device."""
    if not all(weight.isfinite().all() for weight in net.parameters()):
        raise NonFiniteLossError(
            f"the weights are not finite at {where}; the last checkpoint is kept. Try a lower -lr, or -no_amp"
        )


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
        if "allocate memory" not in str(error):  # how torch's CPU allocator puts it
            raise
        raise MemoryFullError(advice) from None
