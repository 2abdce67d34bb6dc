"""The spike itself, where random inputs never come: at the threshold to the last bit."""

import pytest
import torch

from neurons import build_neuron
from neurons.surrogate import SURROGATES, spike_function


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_zero_fires_and_what_is_below_does_not(surrogate):
    below = -torch.finfo(torch.float32).tiny
    assert spike_function(surrogate)(torch.tensor([0.0, -0.0, below])).tolist() == [1, 1, 0]


@pytest.mark.parametrize("step_mode", ["s", "m reference", "m c", "m torch", "m compile"])
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
def test_a_membrane_at_the_threshold_fires(name, step_mode):
    """u[0] = 1 = V_th fires, whatever computes it; one rounding less does not."""
    mode, _, backend = step_mode.partition(" ")
    neuron = build_neuron(name, step_mode=mode, backend=backend or "auto")
    c = torch.tensor([1.0, 1 - 2**-24])  # [N]
    spikes = neuron(c) if mode == "s" else neuron(c[None])[0]
    assert spikes.tolist() == [1, 0]
