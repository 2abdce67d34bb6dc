"""Measured profiles against counts by hand, SpikingJelly's counters, and thop's figures in Table 6."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.op_counter import DispatchCounterMode, MACCounter, SynOpCounter
from torch import nn

from accounts.by_thop import thop_counts
from accounts.memory_energy import memory_energy
from accounts.operations import LayerShape
from accounts.profile import profile_network
from accounts.synops import synaptic_operations, synops_markdown
from models import build_model
from models.layers import Conv2d
from neurons import LIF


class Small(nn.Module):
    """SpikingJelly layers over [T, N, 2, 8, 8]: conv – norm – LIF – conv1×1 – LIF – pool – linear."""

    def __init__(self):
        super().__init__()
        self.conv1 = layer.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn = layer.BatchNorm2d(4)
        self.lif1 = neuron.LIFNode(decay_input=False)
        self.conv2 = layer.Conv2d(4, 3, 1)
        self.lif2 = neuron.LIFNode(decay_input=False)
        self.pool = layer.AvgPool2d(2)
        self.linear = layer.Linear(3 * 4 * 4, 5)
        functional.set_step_mode(self, "m")
        nn.init.constant_(self.conv2.bias, 0.5)

    def forward(self, x_seq):
        functional.reset_net(self)
        self.spikes1 = self.lif1(self.bn(self.conv1(x_seq)))
        self.spikes2 = self.lif2(self.conv2(self.spikes1))
        return self.linear(self.pool(self.spikes2).flatten(2))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small()


def test_profile_counts_what_passed(small):
    batches = [(torch.randn(3, n, 2, 8, 8), torch.zeros(n)) for n in (2, 1)]
    spikes1, spikes2, outputs = 0.0, 0.0, 3 * 3 * 64  # T·samples·H·W
    small.eval()
    with torch.no_grad():
        for x_seq, _ in batches:
            small(x_seq)
            spikes1, spikes2 = spikes1 + small.spikes1.sum().item(), spikes2 + small.spikes2.sum().item()
    assert 0 < spikes1 < 4 * outputs
    assert 0 < spikes2 < 3 * outputs
    rate1, rate2 = spikes1 / (4 * outputs), spikes2 / (3 * outputs)

    small.train()
    seen = profile_network(small, batches)
    assert small.training
    assert not any(m._forward_hooks for m in small.modules())
    assert (seen.T, seen.samples, seen.normalised) == (3, 3, 4 * 64)
    assert [s.name for s in seen.synapses] == ["conv1", "conv2", "linear"]
    assert [s.shape for s in seen.synapses] == [
        LayerShape((2, 8, 8), (4, 8, 8), (3, 3), bias=False),
        LayerShape((4, 8, 8), (3, 8, 8), (1, 1)),
        LayerShape((48,), (5,)),
    ]
    assert [s.rate for s in seen.synapses] == [None, pytest.approx(rate1), None]
    assert seen.firing_rates() == pytest.approx({"lif1": rate1, "lif2": rate2})
    assert seen.pooled == ((3 * 64, pytest.approx(rate2)),)
    ops = seen.operations("LIF", T=1)
    assert ops.macs == 4 * 64 * 18 + 5 * 49 + 2 * 4 * 64
    assert ops.acs == pytest.approx(3 * 64 * 5 * rate1 + 3 * 64 * rate2 + 7 * 64)
    shapes = [s.shape for s in seen.synapses]
    assert seen.memory_energy("CLIF") == memory_energy(shapes, list(seen.firing_rates().values()), 3, "CLIF")


def test_spikingjelly_counts_the_same_where_no_border_is_met(small):
    x_seq = torch.randn(3, 2, 2, 8, 8)
    small.eval()
    seen = profile_network(small, [(x_seq, torch.zeros(2))])
    synops, macs = SynOpCounter(), MACCounter()
    with torch.no_grad(), DispatchCounterMode([synops, macs]):
        small(x_seq)
    _, conv2, linear = seen.synapses
    frames = 3 * 2
    assert sum(synops.get_counts()["Small.conv2"].values()) == round(frames * conv2.shape.dense_operations * conv2.rate)
    assert sum(macs.get_counts()["Small.conv1"].values()) == frames * seen.synapses[0].shape.dense_operations
    assert sum(macs.get_counts()["Small.linear"].values()) == frames * linear.shape.dense_operations


def test_spikingjelly_counts_less_at_a_padded_border():
    conv, spikes = nn.Conv2d(2, 4, 3, padding=1, bias=False), torch.ones(1, 2, 8, 8)
    synops = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([synops]):
        conv(spikes)
    assert synops.get_total() == 4 * 2 * (3 * 8 - 2) ** 2 < LayerShape((2, 8, 8), (4, 8, 8), (3, 3)).dense_operations


def test_synaptic_operations_are_counted_in_every_way(small):
    """conv1 is fed by real values, half of them 0; conv2 (1×1) by spikes; the linear layer by a pool's averages."""
    x_seq = torch.randn(3, 2, 2, 8, 8)
    x_seq[..., :4] = 0
    counted, seen = synaptic_operations(small, x_seq), profile_network(small, [(x_seq, 0)])
    conv1, conv2, linear = seen.synapses
    assert small.training
    assert counted.dense == 3 * sum(each.shape.dense_operations for each in seen.synapses)
    assert counted.spikes_by_rate == pytest.approx(3 * 3 * 64 * 4 * conv2.rate)
    assert counted.spikes_met == pytest.approx(counted.spikes_by_rate)  # a 1×1 convolution meets no border
    assert counted.real == 3 * (4 * 64 * 18 + 5 * 48)
    assert counted.real_nonzero == pytest.approx(3 * (4 * 64 * 18 / 2 + 5 * 48 * linear.density))
    assert conv1.density == 0.5
    assert f"{counted.spikes_met / 1e6:.3f}" in synops_markdown(counted)


def test_every_layer_that_sees_the_still_image_is_counted_once():
    """Two convolutions before the first neuron, 3 steps: 256 outputs each, of 27 and 36 inputs and a bias."""
    convs = (Conv2d(3, 4, 3, padding=1, step_mode="m"), Conv2d(4, 4, 3, padding=1, step_mode="m"))
    net = nn.Sequential(*convs, LIF(), layer.Flatten(step_mode="m"), layer.Linear(256, 5, step_mode="m"))
    x_seq = torch.rand(2, 3, 8, 8).expand(3, 2, 3, 8, 8)
    seen = profile_network(net, [(x_seq, 0)])
    assert [each.is_static for each in seen.synapses] == [True, True, False]
    assert seen.operations("LIF").macs == seen.operations("LIF", T=1).macs == 256 * 28 + 256 * 37
    assert synaptic_operations(net, x_seq).real == 256 * 27 + 256 * 36


def test_profile_refuses_what_it_cannot_count(small):
    x_seq = torch.randn(3, 2, 2, 8, 8)
    with pytest.raises(ValueError, match="no batch at all"):
        profile_network(small, [])
    with pytest.raises(ValueError, match=r"one T, got \[2, 3\]"):
        profile_network(small, [(x_seq, 0), (x_seq[:2], 0)])
    with pytest.raises(ValueError, match="no sample"):
        profile_network(small, [(x_seq[:, :0], 0)])
    with pytest.raises(ValueError, match="0 neuron layers"):
        profile_network(small, [(x_seq, 0)], is_neuron=lambda module: False)
    conv = layer.Conv2d(2, 2, 1, step_mode="m")
    twice = nn.Sequential(conv, neuron.LIFNode(step_mode="m"), conv)
    with pytest.raises(ValueError, match="0 ran on 12 frames where samples × T = 6"):
        profile_network(twice, [(x_seq, 0)])
    small.conv2 = layer.Conv2d(4, 4, 1, groups=2, step_mode="m")
    small.linear = layer.Linear(64, 5, step_mode="m")
    with pytest.raises(ValueError, match="conv2: grouped"):
        profile_network(small, [(x_seq, 0)])
    assert not any(m._forward_hooks for m in small.modules())


def test_table_7_counts_a_chain_or_nothing():
    x_seq = torch.rand(1, 1, 3, 8, 8).expand(2, -1, -1, -1, -1)
    seen = profile_network(build_model("sew_resnet18", "CLIF"), [(x_seq, 0)])
    chain = [layer.shape.outputs for layer in seen.synapses if "downsample" not in layer.name]
    assert len(chain) == len(seen.synapses) - 3
    assert seen.memory_energy("CLIF").counts.mac == 3 * 2 * sum(chain)
    assert seen.memory_energy("relu").counts.write_out == sum(chain)
    with pytest.raises(ValueError, match="do not take turns"):  # queries, keys and values, side by side
        profile_network(build_model("spike_driven_transformer", "CLIF"), [(x_seq, 0)]).memory_energy("CLIF")


class Between(nn.Module):
    """conv – LIF – conv – LIF – ``between`` – linear; with ``add``, the second neuron's spikes and the first's."""

    def __init__(self, between, features, add=False):
        super().__init__()
        self.conv1, self.conv2 = Conv2d(3, 4, 3, padding=1, step_mode="m"), Conv2d(4, 4, 1, step_mode="m")
        self.lif1, self.lif2, self.between, self.add = LIF(v_threshold=0.2), LIF(v_threshold=0.2), between, add
        self.linear = layer.Linear(features, 5, step_mode="m")

    def forward(self, x_seq):
        functional.reset_net(self)
        first = self.lif1(self.conv1(x_seq))
        self.sum = self.lif2(self.conv2(first)) + (first if self.add else 0)
        self.read = self.between(self.sum)
        return self.linear(self.read.flatten(2))


def test_table_7_counts_what_arrives_by_a_shortcut_or_through_a_pool():
    torch.manual_seed(0)
    x_seq = torch.rand(3, 2, 3, 8, 8)
    average, widest = layer.AvgPool2d(2, step_mode="m"), layer.MaxPool2d(2, step_mode="m")
    for between, features, add in ((nn.Identity(), 256, True), (widest, 64, False), (average, 64, True)):
        net = Between(between, features, add)
        seen = profile_network(net, [(x_seq, 0)])
        arrives = net.sum if between is average else net.read
        share = arrives.count_nonzero().item() / arrives.numel()
        fired = list(seen.firing_rates().values())
        assert share > fired[1] > 0
        shapes = [each.shape for each in seen.synapses]
        assert seen.memory_energy("LIF") == memory_energy(shapes, fired, 3, "LIF", [fired[0], share])
    # what is averaged is spikes: the published rule
    seen = profile_network(Between(nn.Sequential(average, layer.AdaptiveAvgPool2d(3, step_mode="m")), 36), [(x_seq, 0)])
    rates = list(seen.firing_rates().values())
    assert seen.synapses[-1].density > seen.synapses[-1].arriving == rates[1] > 0
    assert seen.memory_energy("LIF") == memory_energy([each.shape for each in seen.synapses], rates, 3, "LIF")


@pytest.mark.parametrize("kind", ["LIF", "CLIF"])
def test_a_spiking_network_is_the_same_layer_by_layer_and_step_by_step(kind):
    torch.manual_seed(0)
    net = build_model("spiking_vgg11_bn", kind)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.5)
    x_seq = torch.rand(3, 32, 32).expand(3, 2, 3, 32, 32)  # stride 0 in T and in N
    layerwise = profile_network(net, [(x_seq, torch.zeros(2))])
    functional.set_step_mode(net, "s")
    stepwise = profile_network(net, [(x_seq, torch.zeros(2))])
    assert layerwise.synapses[0].is_static
    assert not layerwise.synapses[1].is_static
    assert not stepwise.synapses[0].is_static
    assert layerwise.synapses[0].density == pytest.approx(stepwise.synapses[0].density)
    assert layerwise.firing_rates() == pytest.approx(stepwise.firing_rates())
    assert min(layerwise.firing_rates().values()) > 0
    assert layerwise.operations(kind, T=1).macs == stepwise.operations(kind, T=1).macs
    assert layerwise.memory_energy(kind).energy == pytest.approx(stepwise.memory_energy(kind).energy)


@pytest.mark.parametrize(
    ("name", "num_classes", "C", "size", "macs", "parameters"),
    [
        ("spiking_resnet18", 10, 3, 32, 557.65, 11.2),
        ("spiking_resnet18", 100, 3, 32, 557.70, 11.2),
        ("spiking_vgg13_bn", 200, 3, 64, 922.21, 14.4),
        ("spiking_vgg11_bn", 11, 2, 128, 2445.30, 9.5),
    ],
)
def test_thop_gives_its_known_macs_and_the_parameters_of_table_6(name, num_classes, C, size, macs, parameters):
    net = build_model(name, "relu", num_classes=num_classes, in_channels=C, input_size=size)
    keys = list(net.state_dict())
    counted, weights = thop_counts(net, torch.rand(1, 2, C, size, size))
    assert (round(counted / 1e6, 2), round(weights / 1e6, 1)) == (macs, parameters)
    assert weights == sum(p.numel() for p in net.parameters())
    assert list(net.state_dict()) == keys
