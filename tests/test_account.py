"""The account of a network, as inference.py -profile writes it."""

import json

import pytest
import torch

from accounts.profile import profile_network
from accounts.synops import synaptic_operations
from accounts.throughput import measure_throughput
from data import build_dataset
from data.loader import build_loader
from models import build_model
from neurons import SpikingNeuron
from tests.helpers import run_training


class Summed(SpikingNeuron):
    """It has no potential ``v``."""

    step = staticmethod(lambda c, u, spike: (spike(u + c - 1), u + c))
    states = {"u": 0.0}


def test_a_neuron_of_ones_own_is_counted_whatever_it_calls_its_states():
    net = build_model("mlp3", "LIF", in_channels=1, input_size=4)
    net.features[0].act = Summed(keep_state=False)
    seen = profile_network(net, [(torch.rand(2, 3, 1, 4, 4), 0)])
    assert [layer.name for layer in seen.neurons] == ["features.0.act", "features.1.act"]
    assert [layer.neurons for layer in seen.neurons] == [128, 128]


COUNTS = {
    "profile": lambda net, x_seq: profile_network(net, [(x_seq, 0)]),
    "synaptic operations": synaptic_operations,
    "throughput": lambda net, x_seq: measure_throughput(net, x_seq, seconds=0),
}


@pytest.mark.parametrize("count", COUNTS)
def test_whatever_is_counted_each_layer_keeps_its_mode(count):
    net = build_model("mlp3", "LIF", in_channels=1, input_size=4).train()
    net.features[0].eval()  # frozen, as in fine-tuning
    modes = [module.training for module in net.modules()]
    COUNTS[count](net, torch.rand(2, 3, 1, 4, 4))
    assert [module.training for module in net.modules()] == modes


@pytest.mark.long
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
