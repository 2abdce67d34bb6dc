"""The account of a network, as inference.py -profile writes it."""

import json

import pytest
import torch

from accounts.profile import profile_network
from data import build_dataset
from data.loader import build_loader
from models import build_model
from tests.helpers import run_training


@pytest.mark.slow
def test_the_relu_row_of_event_data_is_of_one_frame_of_all_events(infer, tmp_path, monkeypatch):
    """In 32 frames a pixel has one event a frame at most, so the first of one sample passes for spikes."""
    options = (
        "-dataset digits_dvs -model mlp3 -neuron LIF -T 2 -epochs 1 -b 16 -train_fraction 0.02 -device cpu -name dvs"
    )
    trained = run_training(*options.split(), "-out_dir", tmp_path, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    monkeypatch.setattr("data.digits._tested", 20)
    checkpoint = tmp_path / "dvs" / "checkpoint_latest.pth"
    code, _, err = infer("-resume", checkpoint, "-T", 32, "-profile", "-b", 1, "-out_dir", tmp_path / "account")
    assert code == 0, err
    row = json.loads((tmp_path / "account" / "account.json").read_text())["operations"]["ReLU"]
    task = build_dataset("digits_dvs", T=1)  # what training and evaluation give it
    net = build_model("mlp3", "relu", **task.shape)
    test = build_loader(task.test, batch_size=8, T=1, device=torch.device("cpu"), seed=0, shuffle=False)
    expected = profile_network(net, test.epoch(0)).operations("relu")
    assert expected.acs == 0
    assert (row["acs"], row["macs"]) == (0, expected.macs)
