"""What back end c makes of numbers far out, and of those that are none: what torch does, whatever a step computes."""

import math

import pytest
import torch

from neurons import SpikingNeuron
from tests.test_machines import level  # noqa: F401, a fixture

FAR = (80.0, 86.0, 87.0, 88.7, 89.0, 95.0, 104.0, 1e30, math.inf)
NUMBERS = torch.tensor([*FAR, *(-x for x in FAR), 0.0, 0.5, math.nan])
OF = {
    "exp": lambda c, u: c.exp(),
    "a quotient of exp": lambda c, u: 1 / (1 + (-c).exp()),
    "sigmoid": lambda c, u: c.sigmoid(),
    "tanh": lambda c, u: c.tanh(),
    "the larger": torch.maximum,
    "the larger, the other way round": lambda c, u: torch.maximum(u, c),
    "the smaller": lambda c, u: torch.minimum(c, u + 1),
    "relu": lambda c, u: c.relu(),
    "clamped": lambda c, u: c.clamp(-1, 1),
}


def seen(of, backend):
    """Spikes, the potential after a step of it, and its gradient."""
    step = staticmethod(lambda c, u, spike: (spike(c - 1), of(c, u)))
    neuron = type("Far", (SpikingNeuron,), {"step": step, "states": {"v": 0.0}})(backend=backend)
    leaf = NUMBERS[None].clone().requires_grad_()  # [T, N]
    (spikes,), (potential,) = neuron.multi_step_functional_forward((leaf,), (0.0,))
    return spikes, potential, *torch.autograd.grad(potential.sum(), leaf)


def check(name):
    spikes, potential, gradient = seen(OF[name], "c")
    expected = seen(OF[name], "reference")
    torch.testing.assert_close(spikes, expected[0], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(potential, expected[1], rtol=4e-7, atol=3e-7, equal_nan=True)
    here = expected[2].isfinite()  # 0·∞ is 0 in a kernel
    torch.testing.assert_close(gradient[here], expected[2][here], rtol=4e-7, atol=3e-7)


@pytest.mark.parametrize("name", OF)
def test_numbers_far_out_are_torch_s(name):
    check(name)


@pytest.mark.slow
def test_numbers_far_out_are_torch_s_at_each_level(level):  # noqa: F811
    for name in OF:
        check(name)
