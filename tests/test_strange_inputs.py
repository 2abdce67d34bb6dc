"""Inputs and weights that lie strangely in memory, have strange types, or have nothing in them."""

import pytest
import torch
from torch.func import functional_call

from models.batch_norm import BatchNorm2d
from models.layers import norm_and_fire
from neurons import build_neuron

FUSED = ("c", "triton")


@pytest.fixture(params=("reference", *FUSED))
def backend(request):
    if request.param == "triton":
        pytest.importorskip("triton")
    return request.param


class Layer(torch.nn.Module):
    """A batch norm and a neuron."""

    def __init__(self, backend):
        super().__init__()
        self.norm, self.neuron = (
            BatchNorm2d(3),
            build_neuron("LIF", backend=backend, surrogate="atan", keep_state=False),
        )

    def forward(self, x):
        return norm_and_fire(self.norm, self.neuron, x)


def test_weights_of_a_norm_may_be_views(backend):
    """Of a hypernetwork's output, say: kernels that read one number after the other would read others'."""
    torch.manual_seed(0)
    x, both = torch.randn(2, 2, 3, 4, 4), torch.randn(3, 2, requires_grad=True)

    def gradient(weight, bias):
        spikes = functional_call(Layer(backend), {"norm.weight": weight, "norm.bias": bias}, (x,))
        return torch.autograd.grad((spikes * x).sum(), both)[0]

    expected = gradient(both[:, 0].clone(), both[:, 1].clone())
    torch.testing.assert_close(gradient(both[:, 0], both[:, 1]), expected)
