"""What is set on a neuron after it was built takes effect, or is refused in one line."""

import pytest
import torch
from spikingjelly.activation_based import functional

from neurons import LIF, SpikingNeuron, build_neuron
from neurons.surrogate import atan


@pytest.mark.parametrize("backend", ["reference", "c"])
@pytest.mark.parametrize("alpha", [torch.nn.Parameter(torch.tensor(0.5)), torch.tensor(0.5)])
def test_a_width_that_is_a_tensor_is_refused(backend, alpha):
    """As a parameter it was passed over, and the width of the constructor taken."""
    neuron = LIF(backend=backend, keep_state=False)
    neuron.alpha = alpha
    with pytest.raises(TypeError, match="setting alpha of LIF is a"):
        neuron(torch.rand(3, 4))
    assert repr(neuron)


def test_a_surrogate_of_ones_own_may_learn_its_width():
    neuron = LIF(keep_state=False)
    neuron.alpha = torch.nn.Parameter(torch.tensor(0.5))
    neuron.surrogate = lambda x: (x >= 0).float().detach() + x * atan(x, neuron.alpha) * 0
    neuron(torch.rand(3, 4)).sum().backward()
    assert neuron.alpha.grad is not None


@pytest.mark.parametrize("backend", ["reference", "c"])
def test_a_step_that_is_put_in_by_hand_is_refused(backend):
    """It was passed over."""
    neuron = build_neuron("LIF", backend=backend)
    neuron.step = lambda c, u, **settings: (c, u)
    with pytest.raises(TypeError, match="declare a subclass of LIF"):
        neuron(torch.rand(3, 4))


def delayed_step(c, u, last, fired, spike):
    """States are the last input and the last spikes themselves; and a mask."""
    u = 0.5 * u * (1 - last) + c
    s = spike(u - 1)
    return s, c > 0.5, c, s


class Delayed(SpikingNeuron):
    step = staticmethod(delayed_step)
    states = {"v": 0.0, "last": 0.0, "fired": 0.0}


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("backend", ["reference", "c"])
def test_spikes_and_inputs_changed_in_place_leave_the_states_alone(step_mode, backend):
    neuron, x = Delayed(step_mode=step_mode, backend=backend), torch.rand(3, 4)
    spikes = neuron(x)
    before = [state.clone() for state in neuron.memories()]
    spikes.mul_(5), x.mul_(5)
    assert all(map(torch.equal, neuron.memories(), before))


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("backend", ["reference", "c"])
def test_states_are_detached_and_the_spikes_are_not(step_mode, backend):
    """Between the chunks of a truncated BPTT: a loss that is still to come needs their graph."""
    neuron, x = Delayed(step_mode=step_mode, backend=backend), torch.rand(3, 4, requires_grad=True)
    spikes, last = neuron(2 * x), neuron.last
    functional.detach_net(neuron)
    assert spikes.requires_grad
    assert last.requires_grad
    assert not any(state.requires_grad for state in neuron.memories())
