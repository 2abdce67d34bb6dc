"""curves.png takes a tenth of a run's time at most, and shows all epochs however the run ends."""

import math
import signal

import pytest
import torch
from torch import nn

from utils import run_dir
from utils.cli import UsageError
from utils.engine import TrainState
from utils.finite import NonFiniteLossError
from utils.interrupt import Saver, Stopped, Watch
from utils.run_dir import create_run_dir, left_in_order


@pytest.fixture
def drawn(monkeypatch):
    """The epochs of each picture that was drawn."""
    seen = []
    monkeypatch.setattr(run_dir, "draw_curves", lambda rows, path: seen.append([row["epoch"] for row in rows]))
    return seen


@pytest.fixture
def run(tmp_path):
    return create_run_dir(tmp_path, "run")


def test_short_epochs_are_drawn_together_at_the_end(run, drawn):
    for epoch in range(3):
        run.log({"epoch": epoch})
    assert drawn == []
    run.close()
    run.draw()
    assert drawn == [[0, 1, 2]]


def test_long_epochs_are_drawn_as_they_end(run, drawn, monkeypatch):
    now = 0.0
    monkeypatch.setattr(run_dir.time, "monotonic", lambda: now)
    run._drawn_at = now
    for epoch, seconds in enumerate((60, 60, 1)):
        now += seconds
        run.log({"epoch": epoch})
    assert drawn == [[0], [0, 1], [0, 1, 2]]  # a drawing that takes no time costs none

    def draw_slowly(rows, path):
        nonlocal now
        now += 7
        drawn.append([row["epoch"] for row in rows])

    monkeypatch.setattr(run_dir, "draw_curves", draw_slowly)
    for epoch, seconds in enumerate((60, 60, 60), 3):
        now += seconds
        run.log({"epoch": epoch})
    assert drawn[3:] == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


def test_a_run_that_an_error_ends_or_that_is_stopped_is_drawn(run, drawn):
    run.log({"epoch": 0})
    with pytest.raises(NonFiniteLossError), left_in_order(run):
        raise NonFiniteLossError("step 1; the last checkpoint is kept")
    run.log({"epoch": 1})
    with pytest.raises(UsageError), left_in_order(run):
        raise UsageError("a sample is damaged")
    run.log({"epoch": 2})
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    state = TrainState(net, optimizer, nn.MSELoss(), torch.device("cpu"), lr_scheduler=schedule)
    with Watch(None) as watch:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            Saver(state, watch, run, 1, ["train_BPTT.py"]).look()
    assert drawn == [[0], [0, 1], [0, 1, 2]]


def test_a_picture_that_cannot_be_drawn_is_a_line(run, monkeypatch):
    def fail(rows, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_dir, "draw_curves", fail)
    run.log({"epoch": 0, "train_loss": math.pi})
    with pytest.raises(UsageError, match="No space left on device; what was saved before is kept"):
        run.close()
