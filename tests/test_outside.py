"""Multiply-accumulates that no table would count: a network that has some is refused."""

import pytest
import torch
from spikingjelly.activation_based import layer
from spikingjelly.activation_based.functional import set_step_mode
from torch import nn
from torch.nn import functional

from accounts.profile import profile_network
from accounts.synops import synaptic_operations
from models import build_model
from models.layers import Conv2d
from neurons import LIF

T, N = 3, 2
SQUARE = torch.ones(256, 256)


class Called(nn.Module):
    """A function of someone's own."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Squared(nn.Linear):
    """A linear layer that multiplies by its weight twice."""

    def forward(self, x):
        return super().forward(super().forward(x))


class Pairs(nn.Bilinear):
    def forward(self, x):
        return super().forward(x, x)


class Recurrent(nn.LSTM):
    def forward(self, x):
        return super().forward(x)[0]


def framewise(*modules):
    """Modules over frames [T·N, 4, 8, 8]."""
    return nn.Sequential(nn.Flatten(0, 1), *modules, nn.Unflatten(0, (T, N)))


def flat(module):
    return nn.Sequential(nn.Flatten(2), module)  # [T, N, 256]


LEFT_OUT = {  # between spikes [T, N, 4, 8, 8] and 256 inputs of a layer → its multiply-accumulates per sample and step
    "ConvTranspose2d": (framewise(nn.MaxPool2d(2), nn.ConvTranspose2d(4, 4, 2, 2)), 4 * 64 * 4),
    "Conv1d": (framewise(nn.Flatten(2), nn.Conv1d(4, 4, 3, padding=1)), 4 * 64 * 4 * 3),
    "Conv3d": (framewise(nn.Unflatten(1, (1, 4)), nn.Conv3d(1, 1, 1), nn.Flatten(1, 2)), 256),
    "conv2d": (framewise(Called(lambda x: functional.conv2d(x, torch.ones(4, 4, 1, 1)))), 4 * 64 * 4),
    "linear": (flat(Called(lambda x: functional.linear(x, SQUARE))), 256 * 256),
    "einsum": (flat(Called(lambda x: torch.einsum("tnc,dc->tnd", x, SQUARE))), 256 * 256),
    "a vector": (flat(Called(lambda x: (x @ SQUARE[0])[..., None].expand(-1, -1, 256))), 256),
    "attention": (framewise(Called(lambda x: functional.scaled_dot_product_attention(x, x, x))), 2 * 4 * 8 * 8 * 8),
    "Bilinear": (flat(Pairs(256, 256, 256)), 256**3),
    "Recurrent": (flat(Recurrent(256, 256)), 4 * 2 * 256 * 256),
    "Squared": (flat(Squared(256, 256)), 256 * 256),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_not_counted_is_refused(name):
    between, macs = LEFT_OUT[name]
    first = (Conv2d(3, 4, 3, padding=1, step_mode="m"), LIF())
    net = nn.Sequential(*first, between, nn.Flatten(2), layer.Linear(256, 5, step_mode="m"))
    x_seq = torch.rand(N, 3, 8, 8).expand(T, N, 3, 8, 8)
    for count in (lambda: profile_network(net, [(x_seq, 0)] * 2), lambda: synaptic_operations(net, x_seq)):
        with pytest.raises(ValueError, match=f"^{T * macs:,} multiply-acc.* a sample .* not be counted: in 2[^,\n]*$"):
            count()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_network_itself_is_named_and_many_modules_are_few_words():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lif = Conv2d(3, 4, 3, padding=1, step_mode="m"), LIF()
            self.more = nn.ModuleList(nn.Conv3d(2, 2, 1, bias=False) for _ in range(4))

        def forward(self, x_seq):
            x = self.lif(self.conv(x_seq))
            for module in self.more:
                x = module(x)
            return x.flatten(2) @ torch.ones(256, 5)

    with pytest.raises(ValueError, match=r"in the network \(Own\), more\.0 \(Conv3d\), more\.1 \(Conv3d\) and 2 more$"):
        profile_network(Own(), [(torch.rand(T, 2, 3, 8, 8), 0)])


@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize("name", ["snn5", "sew_resnet18", "spike_driven_transformer", "spiking_vgg11_bn"])
def test_networks_of_the_project_do_nothing_else(name, step_mode):
    net = build_model(name, "CLIF", num_classes=10, in_channels=3, input_size=32)
    set_step_mode(net, step_mode)
    assert profile_network(net, [(torch.rand(1, 3, 32, 32).expand(2, -1, -1, -1, -1), 0)]).T == 2
