"""The literature's other convention, decay_input and detach_reset, against SpikingJelly's nodes; the atan surrogate."""

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate

from models import exchange_neurons
from neurons import build_neuron
from neurons.surrogate import spike_function
from tests.test_models import build as build_network

CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def current(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.8 + 1.5 * torch.randn(6, 3, 8, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, -0.06, None])
@pytest.mark.parametrize(("name", "node"), [("LIF", neuron.LIFNode), ("PLIF", neuron.ParametricLIFNode)])
def test_is_spikingjellys_node(name, node, v_reset, decay_input, detach_reset):
    options = {"v_reset": v_reset, "decay_input": decay_input, "detach_reset": detach_reset}
    ours = build_neuron(name, tau=1.7, surrogate="atan", **options).double()
    tau = {"tau": 1.7} if name == "LIF" else {"init_tau": 1.7}
    theirs = node(**tau, **options, surrogate_function=surrogate.ATan(2.0), step_mode="m").double()
    results = []
    for each in (ours, theirs):
        x_seq = current().requires_grad_()
        spikes = each(x_seq)
        (spikes * current(1)).sum().backward()
        results.append([spikes, x_seq.grad, *[weight.grad for weight in each.parameters()]])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert 0.1 < results[0][0].mean() < 0.9


def test_each_option_changes_the_gradient():
    gradients = []
    for options in ({}, {"decay_input": True}, {"detach_reset": True}):
        x_seq = current().requires_grad_()
        build_neuron("LIF", v_reset=0.0, **options)(x_seq).sum().backward()
        gradients.append(x_seq.grad)
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


@pytest.mark.parametrize("option", ["decay_input", "detach_reset"])
def test_only_lif_and_plif_have_them(option):
    with pytest.raises(ValueError, match=f"{option} works with LIF and PLIF, not with CLIF"):
        build_neuron("CLIF", **{option: True})
    net = build_network(neuron="LIF", **{option: True})
    with pytest.raises(ValueError, match=option):
        exchange_neurons(net, "CLIF")


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_atan_is_spikingjellys(alpha):
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    spike_function("atan", alpha)(one).sum().backward()
    surrogate.ATan(2 / alpha)(other).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, **CLOSE)
