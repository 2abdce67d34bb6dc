"""A neuron class that says what cannot be meant is refused when it is declared, in one line."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from neurons import CLIF, PLIF, Learned, SpikingNeuron


def declare(step, states=("v",), **declared):
    return type("Odd", (SpikingNeuron,), {"step": staticmethod(step), "states": dict.fromkeys(states, 0.0)} | declared)


TAKEN_NAMES = ["T", "channels", "training", "table", "step", "surrogate", "backend", "forward", "float"]


@pytest.mark.parametrize("name", TAKEN_NAMES)
def test_a_name_that_every_neuron_has_is_refused(name):
    with pytest.raises(TypeError, match=f"calls something {name}, which is an attribute"):
        declare(lambda c, u, k, spike: (spike(c), u), learned=(Learned(name),))
    with pytest.raises(TypeError, match=f"calls something {name}, which is an attribute"):
        declare(lambda c, u, spike: (spike(c), u), [name])


def test_an_option_may_be_learned_but_is_no_state():
    declare(lambda c, u, tau, spike: (spike(c), u), learned=(Learned("tau"),))()
    with pytest.raises(TypeError, match="calls something tau"):
        declare(lambda c, u, spike: (spike(c), u), ["tau"])


def test_a_class_that_torch_makes_of_one_is_none_of_its_own():
    """As a parametrisation does, and then what shards a network."""
    neuron = PLIF(keep_state=False)
    parametrize.register_parametrization(neuron, "w", nn.Identity())
    neuron.__class__ = type("Sharded", (type(neuron),), {})
    assert neuron(torch.rand(3, 2)).shape == (3, 2)


ALONE = ["advance", "single_step_forward", "single_step_functional_forward", "neuronal_charge"]


@pytest.mark.parametrize("method", ALONE)
def test_what_changes_single_steps_alone_is_refused(method):
    def own(self, *inputs):
        return inputs

    with pytest.raises(TypeError, match=f"{method} of its own, which no sequence asks") as raised:
        type("Alone", (CLIF,), {method: own})
    assert "\n" not in str(raised.value)
    type("Both", (CLIF,), {method: own, "multi_step_forward": own})
