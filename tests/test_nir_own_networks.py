"""Networks that somebody writes as CONTRIBUTING.md says, as NIR: layers in several places, and sums of all kinds."""

import pytest
import torch
from spikingjelly.activation_based import layer

from deploy.nir_export import run_in_spikingjelly, to_nir, write_nir
from deploy.nir_nodes import NotInNIRError
from models.layers import Conv2d, SpikingNetwork
from neurons import build_neuron


class Own(SpikingNetwork):
    """Two convolutions, a pool and a linear layer; ``middle`` says how the spikes of the first one get to the pool."""

    def __init__(self, middle):
        super().__init__()
        self.conv1, self.conv2 = (Conv2d(channels, 4, 3, padding=1, step_mode="m") for channels in (2, 4))
        self.act1, self.act2 = (build_neuron("LIF", v_reset=-0.25, keep_state=False) for _ in range(2))
        self.pool, self.flatten = layer.AvgPool2d(2, step_mode="m"), layer.Flatten(step_mode="m")
        self.linear = layer.Linear(4 * 2 * 2, 3, step_mode="m")
        self.middle = middle

    def run(self, x):
        x = self.pool(self.middle(self, self.act1(self.conv1(x))))
        return self.linear(self.flatten(x))


TAKEN = {
    "a pool in two places": lambda net, x: net.act2(net.conv2(net.pool(x))),
    "a convolution in two places": lambda net, x: net.pool(net.act2(net.conv2(net.conv2(x)))),
    "a sum": lambda net, x: net.pool(net.act2(net.conv2(x) + x)),
}
REFUSED = {
    "a sum with a factor": (lambda net, x: torch.add(net.conv2(x), x, alpha=3), r"not add\(.*alpha"),
    "a sum by its method": (lambda net, x: net.conv2(x).add(x, alpha=3), r"not add\(.*alpha"),
    "a sum with itself": (lambda net, x: x + x, "not add"),
    "a sum with one term twice": (lambda net, x: net.conv2(x) + x + x, "not add_1"),
    "a sum with a number": (lambda net, x: x + 1.0, r"not add\(.*1\.0\)"),
    "a neuron in two places": (lambda net, x: net.act1(net.conv2(x)), "layer act1: it runs twice in a step"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", TAKEN)
def test_a_layer_in_two_places_is_two_nodes(name, tmp_path):
    torch.manual_seed(0)
    net, x_seq = Own(TAKEN[name]).double().eval(), 2 * torch.rand(5, 3, 2, 8, 8, dtype=torch.float64)
    write_nir(to_nir(net, (2, 8, 8)), tmp_path / "net.nir")
    logits = net(x_seq)
    assert logits.std() > 0
    torch.testing.assert_close(run_in_spikingjelly(tmp_path / "net.nir", x_seq), logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REFUSED)
def test_what_edges_would_add_up_otherwise_is_refused(name):
    middle, why = REFUSED[name]
    with pytest.raises(NotInNIRError, match=why) as raised:
        to_nir(Own(lambda net, x: net.pool(net.act2(middle(net, x)))), (2, 8, 8))
    assert "\n" not in str(raised.value)
