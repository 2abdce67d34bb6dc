"""SEW-ResNet-18 against SpikingJelly's, which has the stem for large images in front of the same stages."""

import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model import sew_resnet
from torch import nn

from models import build_model
from neurons import build_neuron


def test_stages_are_spikingjellys():
    torch.manual_seed(0)
    ours = build_model("sew_resnet18", "LIF", bn="merged", num_classes=7).double()
    theirs = sew_resnet.sew_resnet18(cnf="ADD", spiking_neuron=build_neuron, name="LIF", num_classes=7).double()
    functional.set_step_mode(theirs, "m")
    theirs.maxpool = nn.Identity()
    theirs.conv1 = type(theirs.conv1)(3, 64, 3, 1, 1, bias=False, step_mode="m").double()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    x_seq = torch.randn(3, 2, 3, 16, 16, dtype=torch.float64)
    for training in (True, False):
        functional.reset_net(theirs)
        one, other = ours.train(training)(x_seq), theirs.train(training)(x_seq)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        assert one.std() > 0
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [28, 32, 48])
def test_shapes_and_sums_of_spikes(size):
    net = build_model("sew_resnet18", "CLIF", in_channels=1, input_size=size, T=2)
    block = net.layer1[1]
    seen = []
    block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert net(torch.randn(2, 2, 1, size, size)).shape == (2, 2, 10)
    assert set(seen[0].unique().tolist()) <= {0, 1, 2, 3}
    assert seen[0].max() > 1
