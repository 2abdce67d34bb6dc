"""A network fed frame by frame through ``run``: the answers of the whole sequence, and nothing left behind."""

import pytest
import torch
from spikingjelly.activation_based import functional

from models import build_model
from neurons import SpikingNeuron


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = build_model("snn5_noAP", "CLIF").double()
    with torch.no_grad():
        for _ in range(10):
            net(2 * torch.randn(4, 4, 3, 32, 32, dtype=torch.float64))  # running statistics that let spikes through
    return net.eval()


@pytest.fixture
def frames():
    """[T, N, C, H, W]."""
    return 2 * torch.randn(5, 2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_frame_by_frame_is_the_sequence(net, frames):
    at_once = net(frames)
    assert len(at_once.unique()) == at_once.numel()  # each sees what came before it
    functional.set_step_mode(net, "s")
    torch.testing.assert_close(torch.stack([net.run(frame) for frame in frames]), at_once, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_a_state_left_behind_does_not_leak_into_a_call(net, frames):
    """Nor does a call leave one: a stream that follows starts from rest."""
    functional.set_step_mode(net, "s")
    expected = net(frames)  # [T, N, K]
    assert not torch.equal(net(frames[1:])[0], expected[1])
    assert not any(isinstance(neuron.v, torch.Tensor) for neuron in net.modules() if isinstance(neuron, SpikingNeuron))
    net.run(frames[0])
    assert torch.equal(net(frames), expected)
    assert torch.equal(net.run(frames[0]), expected[0])
