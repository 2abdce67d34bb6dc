"""What an epoch's figures mean: the prediction is the sum over time, the loss the mean over samples.

And how an epoch ends whose loading process was killed.
"""

import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from utils.engine import MemoryFullError, evaluate, naming_memory
from utils.meter import Meter

CPU = torch.device("cpu")
# [T, N, K]: by their sum the samples are of classes 0 and 1; the last step alone says 1 and 0
LOGITS = torch.tensor([[[3.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [1.0, 0.0]]])


def test_the_prediction_is_the_sum_over_time():
    meter = Meter(CPU)
    meter.add(torch.tensor(0.5), LOGITS, torch.tensor([0, 1]), step=0)
    assert meter.read() == (0.5, 100.0)
    meter.add(torch.tensor(0.5), LOGITS, torch.tensor([1, 0]), step=1)
    assert meter.read() == (0.5, 50.0)


def test_soft_labels_count_as_their_largest():
    meter = Meter(CPU)
    meter.add(torch.tensor(0.0), LOGITS, torch.tensor([[0.6, 0.4], [0.9, 0.1]]), step=0)
    assert meter.read()[1] == 50.0


def test_the_loss_is_the_mean_over_samples_not_over_batches():
    """A last batch of one sample weighs a third of one of three."""
    batches = [(torch.zeros(2, samples, 1), torch.zeros(samples, dtype=torch.int64)) for samples in (3, 1)]
    seen = evaluate(nn.Identity(), batches, lambda logits, _: torch.tensor(float(logits.shape[1])), device=CPU, steps=2)
    assert seen["loss"] == pytest.approx((3 * 3 + 1 * 1) / 4)


class KillsItsProcess(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_is_one_line():
    with pytest.raises(MemoryFullError, match="a process that loads data was killed") as caught, naming_memory(8, 2):
        next(iter(DataLoader(KillsItsProcess(), num_workers=1)))
    assert "\n" not in str(caught.value)
