"""What is set on a neuron after it was built takes effect, or is refused in one line."""

import pytest
import torch

from neurons import LIF, build_neuron
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
