"""What an epoch has seen so far: loss and hits, kept on the device, and the first step whose loss was not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Meter:
    """Loss and hits, summed on the device: reading them waits for it, so it is done now and then only.

    Args:
        sums: what :meth:`sums` gave in the middle of an epoch that is resumed.
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
