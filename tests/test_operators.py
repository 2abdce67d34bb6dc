"""The fused kernels as operators of torch: opcheck, compile, export, fake tensors, pickles, copies."""

import copy
import io
import math
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from spikingjelly.activation_based import functional
from torch._subclasses.fake_tensor import FakeTensorMode

from models import build_model
from models.layers import BatchNorm2d, norm_and_fire
from neurons import SpikingNeuron, build_neuron
from neurons.ops.c_build import compiler
from neurons.ops.dynamics import named, parameter_table, spell
from neurons.ops.operators import fire_op, norm_fire_op
from tests.helpers import ENVIRONMENT, ROOT

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler here")
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def arguments(name, **options):
    neuron = build_neuron(name, backend="c", T=3, **options)
    dynamics = neuron.dynamics()
    table = parameter_table(dynamics, neuron.learned_values())
    table = None if table is None else table.detach().requires_grad_()
    return neuron, dynamics, table, spell(neuron.declared, dynamics)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF", "GLIF"])
def test_opcheck_of_fire(name, dtype):
    _, dynamics, table, spelt = arguments(name)
    x = torch.randn(3, 2, 5, dtype=dtype, requires_grad=True)
    states = [torch.rand(2, 5, requires_grad=True) for _ in dynamics.states]
    for given, last in ((states, True), ([], False)):
        torch.library.opcheck(
            fire_op._opoverload, (x, table, given, None, None, spelt, "c", last, True), test_utils=CHECKS
        )


@pytest.mark.parametrize("name", ["PLIF", "CLIF"])
def test_opcheck_of_norms(name):
    _, _, table, spelt = arguments(name)
    x = torch.randn(3, 2, 4, 5, 6).flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (3, 2))
    x.requires_grad_()
    scale, shift = (torch.rand(3, 4, requires_grad=True) for _ in range(2))
    weight, bias = (torch.rand(4, requires_grad=True) for _ in range(2))
    torch.library.opcheck(fire_op._opoverload, (x, table, [], scale, shift, spelt, "c", False, True), test_utils=CHECKS)
    for merged in (False, True):
        torch.library.opcheck(
            norm_fire_op._opoverload, (x, weight, bias, table, 1e-5, merged, "", spelt, "c", True), test_utils=CHECKS
        )


def test_the_reference_has_a_second_derivative():
    """Of one step's spikes it is the surrogate's own derivative; over time it flows through the states too."""
    neuron = build_neuron("CLIF", backend="reference", surrogate="sigmoid", keep_state=False).double()
    x = torch.randn(1, 50, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(neuron(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(g.sum(), x)
    y = (4 * (x - 1)).sigmoid()
    torch.testing.assert_close(g, 4 * y * (1 - y))
    torch.testing.assert_close(second, 16 * y * (1 - y) * (1 - 2 * y))
    x_seq = torch.randn(4, 50, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(neuron(x_seq)[-1].sum(), x_seq, create_graph=True)
    (second,) = torch.autograd.grad(g[-1].sum(), x_seq)
    assert (second[0] != 0).any()


def test_fused_neurons_refuse_a_second_derivative():
    norm, x = BatchNorm2d(3), torch.randn(4, 2, 3, 2, 2, requires_grad=True)
    neuron = build_neuron("CLIF", backend="c", keep_state=False)
    for spikes in (neuron(x), norm_and_fire(norm, neuron, x), norm_and_fire(norm.eval(), neuron, x)):
        (g,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="can be differentiated once; take backend reference") as error:
            g.sum().backward()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["LIF", "CLIF", "KLIF"])
def test_functional_transforms_take_the_reference(name):
    x = torch.randn(4, 3, 5, requires_grad=True)
    neuron = build_neuron(name, keep_state=False)
    (expected,) = torch.autograd.grad(neuron(x).sum(), x)
    by_sample = torch.vmap(torch.func.grad(lambda x: neuron(x).sum()), in_dims=1, out_dims=1)(x.detach())
    torch.testing.assert_close(by_sample, expected)
    with pytest.raises(ValueError, match="backend c goes through no functional transform"):
        torch.func.grad(lambda x: build_neuron(name, backend="c")(x).sum())(x)


NETWORKS = [("snn5", 32, 4), pytest.param("spiking_vgg11_bn", 32, 4, marks=pytest.mark.long),
            pytest.param("spiking_resnet18", 32, 4, marks=pytest.mark.slow)]  # fmt: skip


def one_step(net, forward, x_seq):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loss = forward(x_seq).square().mean()
    loss.backward()
    optimizer.step()
    return [loss.detach(), *net.state_dict().values()]


@pytest.mark.parametrize(("model", "size", "batch"), NETWORKS)
def test_a_compiled_network_trains_a_step_with_the_same_numbers(model, size, batch):
    x_seq = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1, -1)
    torch.manual_seed(0)
    net = build_model(model, "CLIF", input_size=size, backend="c").train()
    again = copy.deepcopy(net)
    torch._dynamo.reset()
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    for one, other in zip(one_step(net, net, x_seq), one_step(again, compiled, x_seq), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "step_mode"), [("CLIF", "m"), ("CLIF", "s"), ("PLIF", "m"), ("PLIF", "s"), ("GLIF", "m")]
)
def test_the_reference_is_compiled(name, step_mode):
    neuron = build_neuron(name, backend="reference", T=4, step_mode=step_mode, keep_state=False, surrogate="atan")
    x = torch.rand((4, 6) if step_mode == "m" else (6,), generator=torch.Generator().manual_seed(0)) * 2
    inputs = [x.requires_grad_(), *neuron.parameters()]
    torch._dynamo.reset()
    compiled = torch.compile(neuron, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x).sum(), inputs)
    functional.reset_net(neuron)
    for one, other in zip(found, torch.autograd.grad(neuron(x).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other)


FIRST_USE = """
import copy, sys, torch
from neurons import build_neuron
neuron = build_neuron(sys.argv[1], step_mode=sys.argv[2], T=4)
again = copy.deepcopy(neuron)
compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
for N in (3, 2):
    x_seq = torch.rand(4, N, 5, generator=torch.Generator().manual_seed(N)) * 2
    gradients = []
    for module, forward in ((again, compiled), (neuron, neuron)):
        module.reset()
        x = x_seq.clone().requires_grad_()
        spikes = forward(x) if sys.argv[2] == "m" else torch.stack([forward(c) for c in x])
        (spikes * torch.linspace(-1, 1, 5)).sum().backward()
        gradients.append((spikes, x.grad, *(w.grad for w in module.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step_mode"),
    [("CLIF", "m"), ("LIF", "s")]
    + [pytest.param(name, "m", marks=pytest.mark.long) for name in ("PLIF", "GLIF", "KLIF")],
)
def test_a_neuron_s_first_use_may_be_a_compiled_one(name, step_mode):
    """In a new process: what is made once and kept must not be made of tensors without memory."""
    done = subprocess.run([sys.executable, "-c", FIRST_USE, name, step_mode],
                          cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["LIF", "CLIF", "GLIF"])
def test_fake_tensors_have_shapes_and_no_memory(name):
    with FakeTensorMode():
        neuron = build_neuron(name, backend="c", T=6, keep_state=False)
        spikes = neuron(torch.empty(6, 2, 3, 4, 4))
        assert spikes.shape == (6, 2, 3, 4, 4)
        norm = BatchNorm2d(3)
        assert norm_and_fire(norm, neuron, torch.empty(6, 2, 3, 4, 4)).shape == (6, 2, 3, 4, 4)


@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF", "KLIF", "GLIF", "ILIF"])
def test_a_neuron_with_live_states_is_copied_and_pickled(name):
    torch.manual_seed(0)
    neuron = build_neuron(name, T=3)
    x = torch.rand(3, 2, 5, requires_grad=True)
    neuron(x)
    copies = [copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))]
    expected = neuron(x)
    for other in copies:
        assert torch.equal(other(x), expected)
    functional.reset_net(neuron)
    assert not torch.equal(neuron(x), expected)


def test_a_network_is_pickled_whole():
    net = build_model("snn5", "CLIF").eval()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    x_seq = torch.rand(2, 2, 3, 32, 32)
    assert torch.equal(other(x_seq), net(x_seq))


@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_nothing_in_a_neuron(training):
    neuron, norm = build_neuron("PLIF", backend="c", keep_state=False), BatchNorm2d(16).train(training)
    x = torch.randn(4, 3, 16, 5, 5)
    expected = norm_and_fire(copy.deepcopy(norm), neuron, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm_and_fire(norm, neuron, x), expected)
        assert neuron(x).dtype == torch.float32


def test_endless_settings_are_spelt_and_read():
    neuron = build_neuron("LIF")
    dynamics = replace(neuron.dynamics(), settings=(("tau", 2.0), ("v_threshold", math.inf), ("v_reset", -math.inf)))
    spelt = spell(neuron.declared, dynamics)
    assert named(spelt).settings == dynamics.settings
    with pytest.raises(ValueError, match="malformed"):
        named(spelt.replace("inf", "__import__"))


def test_an_unknown_neuron_is_named():
    *_, table, spelt = arguments("CLIF")
    with pytest.raises(ValueError, match="CLOF is not known here"):
        fire_op(torch.zeros(3, 2), table, [], None, None, spelt.replace("clif.CLIF", "clif.CLOF"), "c", False, False)


def test_two_classes_of_one_name_stay_apart():
    def make(rest):
        def step(c, u, spike):
            s = spike(u + c - rest)
            return s, u + c - s

        return type("Cell", (SpikingNeuron,), {"step": staticmethod(step), "states": {"v": 0.0}})

    x = torch.full((1, 1), 0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [make(rest)(backend="c")(x).item() for rest in (0.5, 0.9)] == [1, 0]
