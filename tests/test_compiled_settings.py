"""A compiled neuron computes with the settings it has: a second value of one, one that changes, that of a copy."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from models import build_model
from neurons import ILIF, SpikingNeuron, build_neuron
from neurons.ops.c_build import compiler
from neurons.ops.layout import is_dense

BACKENDS = [pytest.param("c", marks=pytest.mark.skipif(compiler() is None, reason="no C compiler here")), "reference"]
OPTIONS = [("LIF", "tau", (2.0, 3.3)), ("LIF", "v_reset", (-0.1, -0.2)), ("LIF", "v_threshold", (0.7, 0.8)),
           ("LIF", "alpha", (0.5, 0.7)), ("CLIF", "tau", (2.0, 3.3)), ("PLIF", "v_reset", (-0.1, -0.2)),
           ("GLIF", "alpha", (0.5, 0.7))]  # fmt: skip
X = 2 * torch.rand(2, 2, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, fullgraph=True, backend="eager")


def spikes_and_gradient(module: nn.Module) -> tuple[Tensor, Tensor]:
    x = X.clone().requires_grad_()
    spikes = module(x)
    (g,) = torch.autograd.grad((spikes * torch.linspace(-1, 1, 5)).sum(), x)
    return spikes, g


def check_same(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(spikes_and_gradient(one), spikes_and_gradient(other), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "option", "values"), OPTIONS, ids=[f"{name}-{option}" for name, option, _ in OPTIONS])
def test_a_second_value_is_compiled(name, option, values, backend):
    for value in values:
        neuron = build_neuron(name, backend=backend, T=2, keep_state=False, **{option: value})
        check_same(compiled(neuron), neuron)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_setting_that_changes_takes_effect(backend):
    neuron = build_neuron("LIF", backend=backend, keep_state=False)
    run, settings = compiled(neuron), {}
    before = spikes_and_gradient(run)
    for option, value in (("tau", 3.3), ("v_reset", -0.5)):
        setattr(neuron, option, value)
        settings[option] = value
        check_same(run, build_neuron("LIF", backend=backend, keep_state=False, **settings))
    assert not any(map(torch.equal, before, spikes_and_gradient(run)))


@pytest.mark.slow
def test_a_second_network_is_compiled():
    for tau in (2.0, 3.0):
        net = build_model("mlp3", "CLIF", input_size=8, tau=tau).eval()
        x_seq = torch.rand(2, 2, 3, 8, 8)
        torch.testing.assert_close(compiled(net)(x_seq), net(x_seq))


def test_a_setting_of_the_class_is_never_an_old_one(monkeypatch):
    neuron = build_neuron("ILIF", keep_state=False)
    spikes_and_gradient(compiled(neuron))
    monkeypatch.setattr(ILIF, "decay", 0.9)
    torch._dynamo.reset()  # beside the first it would be refused: a symbol that no text fits
    check_same(compiled(neuron), neuron)


class Shifted(SpikingNeuron):
    """Has a setting that is there only after the base class is built, and one that is computed."""

    states = {"v": 0.0}
    settings = ("rest", "half")

    def __init__(self, rest: float, backend: str):
        super().__init__(backend=backend, keep_state=False)
        self.rest = rest

    @property
    def half(self) -> float:
        return self.rest / 2

    @staticmethod
    def step(c, v, rest, half, spike):
        s = spike(v + c - rest)
        return s, v + c - s * half


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_settings_of_a_subclass_are_compiled(backend):
    for rest in (0.5, 0.9):
        neuron = Shifted(rest, backend)
        check_same(compiled(neuron), neuron)


def test_copies_have_settings_of_their_own():
    neuron = build_neuron("LIF", keep_state=False)
    copies = [copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron)), from_before(neuron)]
    for tau, other in zip((3.0, 4.0, 5.0), copies, strict=True):
        other.tau = tau
        check_same(compiled(other), build_neuron("LIF", keep_state=False, tau=tau))
    check_same(compiled(neuron), neuron)


def from_before(neuron: SpikingNeuron) -> SpikingNeuron:
    """As from a pickle made before neurons kept their text."""
    old = type(neuron).__new__(type(neuron))
    old.__setstate__({name: value for name, value in vars(neuron).items() if name != "_spelt"})
    return old


@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_a_second_shape_is_compiled(backend):
    """torch has symbols for its strides then, and refused to sort them."""
    for x in (torch.rand(2, 2, 8, 3, 5), torch.rand(2, 2, 3, 4, 6).transpose(2, 4)):
        neuron = build_neuron("LIF", backend=backend, keep_state=False)
        assert torch.equal(compiled(neuron)(x), neuron(x))


def test_dense_is_without_gaps_and_overlaps():
    sizes, strides = [(2, 3, 1), (3, 2, 2), (1, 1, 1)], itertools.product((0, 1, 2, 3, 4, 6), repeat=3)
    for shape, stride in itertools.product(sizes, strides):
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        addresses = torch.arange(last + 1).as_strided(shape, stride).unique()
        is_all = len(addresses) == last + 1 == math.prod(shape)
        assert is_dense(torch.empty(last + 1).as_strided(shape, stride)) == is_all, (shape, stride)
