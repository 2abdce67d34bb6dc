"""What an epoch's figures mean: the prediction is the sum over time, the loss the mean over samples.

And how an epoch ends whose loading process was killed.
"""

import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from settings import rebuild
from settings.inference import inference_parser, settle
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


TOO_LARGE = {
    "a view": lambda: torch.zeros(8, 1).expand(2**63 - 1, 8, 1),
    "a tensor": lambda: torch.ones(2**63 - 1),
    "a square": lambda: torch.zeros(2**50, 2**50),
    "a copy": lambda: torch.zeros(8).expand(2**58, 8).clone(),
    "more than there is": lambda: torch.ones(2**50),
}


@pytest.mark.parametrize("make", TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_no_memory_can_hold_is_one_line(make):
    """Of sizes that int64 cannot count torch says that they overflow, not that they are too large."""
    with pytest.raises(MemoryFullError, match="out of memory with -b 8 and -T 2: ") as caught, naming_memory(8, 2):
        make()
    assert "\n" not in str(caught.value)


def test_a_network_that_no_memory_can_hold_is_one_line_where_it_is_built_again(monkeypatch):
    def build(*args, **options):
        raise MemoryError

    monkeypatch.setattr(rebuild, "build_model", build)
    parser = inference_parser()
    run = settle(
        parser,
        parser.parse_args(["-resume", "x.pth"]),
        {},
        {"dataset": "digits", "model": "mlp3", "neuron": "LIF", "T": 3},
    )
    with pytest.raises(MemoryFullError, match=f"out of memory with -b {run.b} and -T 3: "):
        rebuild.build_again(run, {}, "LIF", tau=2.0, v_reset=None)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="overflow of another kind"), naming_memory(8, 2):
        raise RuntimeError("overflow of another kind")


class KillsItsProcess(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_is_one_line():
    with pytest.raises(MemoryFullError, match="a process that loads data was killed") as caught, naming_memory(8, 2):
        next(iter(DataLoader(KillsItsProcess(), num_workers=1)))
    assert "\n" not in str(caught.value)
