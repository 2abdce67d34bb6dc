"""Random states as functions of a key, so that a resume draws what the uninterrupted run would have drawn."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_all(*key: int) -> None:
    """Seed Python, NumPy and torch (every device) from ``key``: (seed,) or (seed, epoch, step)."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
