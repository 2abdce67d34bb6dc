"""Steps that nobody foresaw are computed right by back end c, or refused in one line; so are strange surroundings."""

import os
from types import SimpleNamespace

import pytest
import torch
from spikingjelly.activation_based import monitor

from models import build_model
from models.batch_norm import BatchNorm2d
from models.layers import Conv2d, norm_and_fire
from neurons import CLIF, Learned, SpikingNeuron, build_neuron
from neurons.ops.derive import derive

LEARNS = torch.nn.Parameter(torch.tensor(0.5))


def neuron_of(step, states=("v",), **declared):
    """A neuron class with a step of one line: (c, *states, spike) → (spikes, *states)."""
    return type("Odd", (SpikingNeuron,), {"step": staticmethod(step), "states": dict.fromkeys(states, 0.0)} | declared)


def changed_by_another_name(c, u, spike):
    u = u * 0.5 + c
    u.detach().add_(1.0)
    return spike(u - 1), u


def changed_argument(c, u, spike):
    u += c
    return spike(u - 1), u * 0.5


REFUSED = {
    "masks added": (lambda c, u, spike: (spike(u + ((c > 0) + (u > 0)).float() - 1), u + c), "with add"),
    "masks multiplied": (lambda c, u, spike: (spike(torch.where((c > 0) * (u < 1), u, c) - 1), u + c), "with mul"),
    "a mask of masks": (lambda c, u, spike: (spike(torch.where(u > 0, c > 0, c < 0) * u - 1), u + c), "with where"),
    "a shape": (lambda c, u, spike: (spike(u + c / c.shape[0] - 1), u + c), "of other tensors"),
    "dimensions": (lambda c, u, spike: (spike(u + c * c.dim() - 1), u + c), "of other tensors"),
    "a type": (lambda c, u, spike: (spike(u + c * (c.dtype == torch.float64) - 1), u + c), "of other tensors"),
    "a parameter from elsewhere": (lambda c, u, spike: (spike(u * LEARNS - 1), u + c), "declare it as learned"),
    "a power by a tensor": (lambda c, u, spike: (spike(u.abs() ** c - 1), u + c), "exponent is a tensor"),
    "in place by another name": (changed_by_another_name, "in place"),
    "an argument in place": (changed_argument, "in place"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_computed_wrong_is_refused(name):
    step, why = REFUSED[name]
    with pytest.raises(ValueError, match=why) as raised:
        neuron_of(step)(backend="c")(torch.randn(3, 4, 5))
    assert "\n" not in str(raised.value)


def chained(c, *states, spike):
    """Potentials each driven by the one before it."""
    after, drive = [], c
    for u in states:
        u = 0.5 * u * drive.sigmoid() + drive.tanh()
        after.append(u)
        drive = u * u + 0.5 * drive
    s = spike(drive - 1)
    return s, *(u - s * u.sigmoid() for u in after)


def test_no_thread_is_left_by_a_derivation():
    """One that ends while the interpreter does would abort the process."""
    before = set(os.listdir("/proc/self/task"))
    for width in range(1, 6):
        derive(CLIF(alpha=0.1 * width).dynamics())
        assert set(os.listdir("/proc/self/task")) <= before


def test_many_states_are_derived_as_soon_as_few():
    """Which values are kept is a minimum cut: trying all subsets would not end."""
    kind = neuron_of(chained, [f"u{i}" for i in range(8)])
    derived = derive(kind().dynamics())
    assert len(derived.saved) > 8
    assert len(repr(derived)) < 5000  # a node's paths to its inputs are as many as the subsets
    torch.manual_seed(0)
    x_seq, grad = torch.randn(6, 7, 40), torch.randn(6, 7, 40)
    found = []
    for backend in ("reference", "c"):
        leaf = x_seq.clone().requires_grad_()
        spikes = kind(backend=backend, surrogate="sigmoid", keep_state=False)(leaf)
        found.append((spikes, *torch.autograd.grad(spikes, leaf, grad)))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)


TAKEN = {
    "one number for all": lambda c, u, spike: (spike(u + c - 1), torch.tensor(0.25)),
    "a mask as a state": lambda c, u, spike: (spike(0.5 * u + c - 1), c > 0.5),
    "another type": lambda c, u, spike: (spike(u + c - 1), (0.5 * u + c).double()),
    "sigmoid far out": lambda c, u, spike: (spike(u + c - 1), 0.5 * u + c + torch.full_like(c, -1000.0).sigmoid()),
    "exp too far": lambda c, u, spike: (spike(u + c - 1), 0.5 * u + torch.full_like(c, 1000.0).exp().clamp(max=0.5)),
    "a root of less than zero": lambda c, u, spike: (
        spike(u + c - 1), 0.5 * u + torch.where(c > 100, torch.full_like(c, -1.0).sqrt(), c)
    ),
    "a logical and of numbers": lambda c, u, spike: (spike(u + torch.logical_and(c, u).float() - 1), 0.5 * u + c),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_step_may_do_is_the_same_in_c_and_from_call_to_call(name):
    seen = []
    for backend in ("reference", "c"):
        torch.manual_seed(1)
        neuron, x = neuron_of(TAKEN[name])(backend=backend), torch.randn(2, 4, 3, 5)
        seen.append(torch.cat([neuron(y) for y in x]))
        assert neuron.v.shape == (3, 5)
        assert neuron.v.dtype == torch.float32
    assert torch.equal(*seen)


@pytest.mark.parametrize("names", [("v", "g_v"), ("v", "g_s"), ("v-1",)])
def test_a_name_that_kernels_have_a_use_for_is_refused(names):
    with pytest.raises(TypeError, match="choose another"):
        neuron_of(lambda c, *states, spike: (spike(c), *states), names)
    with pytest.raises(TypeError, match="choose another"):
        neuron_of(lambda c, u, k, spike: (spike(c), u), learned=(Learned("g_v"),))


@pytest.mark.parametrize("gain", [torch.tensor(2.0), LEARNS, [2.0]])
@pytest.mark.parametrize("backend", ["reference", "c"])
def test_a_setting_that_may_change_unseen_is_refused(gain, backend):
    neuron = neuron_of(lambda c, u, gain, spike: (spike(u - 1), u * 0.5 + gain * c), settings=("gain",), gain=gain)
    with pytest.raises(TypeError, match="setting gain of Odd is a"):
        neuron(backend=backend)(torch.randn(3, 4))


@pytest.fixture
def default_type():
    """Sets torch's default type, until the test ends."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def trained(backend, x):
    """Spikes, gradients and statistics of a norm and a neuron that learns, with per-channel parameters of its own."""
    torch.manual_seed(0)
    norm, neuron = BatchNorm2d(5).float(), build_neuron("GLIF", T=4, channels=5, backend=backend, keep_state=False)
    for parameter in neuron.parameters():
        parameter.data.fill_(0.3)
    x = x.clone().requires_grad_()
    spikes = norm_and_fire(norm, neuron.float(), x)
    spikes.sum().backward()
    return [spikes.detach(), x.grad, *(p.grad for p in (*norm.parameters(), *neuron.parameters())), norm.running_var_t]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_kernels_do_not_depend_on_torchs_default_type(dtype, default_type):
    x = torch.randn(4, 3, 5, 6, 6) * 2
    expected = trained("reference", x)
    default_type(dtype)
    for found, wanted in zip(trained("c", x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_kernels_do_not_depend_on_torchs_default_device():
    x = torch.randn(4, 3, 5, 6, 6, requires_grad=True)
    norm, neuron = BatchNorm2d(5), build_neuron("PLIF", backend="c", keep_state=False)
    expected = neuron(norm(x))
    with torch.device("meta"):
        spikes = norm_and_fire(norm, neuron, x)
        spikes.sum().backward()
    assert torch.equal(spikes, expected)


def test_a_batch_without_samples_has_no_statistics():
    with pytest.raises(ValueError, match="without elements"):
        norm_and_fire(BatchNorm2d(5), CLIF(backend="c", keep_state=False), torch.zeros(2, 0, 5, 3, 3))


@pytest.mark.parametrize("listen", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
                                    "register_full_backward_pre_hook"])  # fmt: skip
@pytest.mark.parametrize("which", ["norm", "neuron"])
def test_whoever_listens_to_a_fused_layer_hears_it(listen, which):
    layers = SimpleNamespace(norm=BatchNorm2d(5), neuron=CLIF(backend="c", keep_state=False))
    heard = []
    getattr(getattr(layers, which), listen)(lambda *_: heard.append(which))
    norm_and_fire(layers.norm, layers.neuron, torch.randn(2, 3, 5, 4, 4, requires_grad=True)).sum().backward()
    assert heard


def test_spikingjellys_monitors_hear_every_neuron():
    net = build_model("snn5_noAP", "CLIF", num_classes=10, input_size=32, backend="c")
    heard = monitor.GradOutputMonitor(net, CLIF)
    net(torch.rand(2, 2, 3, 32, 32)).sum().backward()
    assert len(heard.records) == 5


def test_a_neuron_or_a_norm_that_does_more_is_not_passed_over():
    class Twice(CLIF):
        def multi_step_forward(self, x_seq):
            return 2 * super().multi_step_forward(x_seq)

    class Louder(CLIF):
        def forward(self, x_seq):
            return 2 * super().forward(x_seq)

    class Mute(BatchNorm2d):
        def forward(self, x):
            return 0 * super().forward(x)

    x, options = torch.randn(2, 3, 5, 4, 4) * 3, {"backend": "c", "keep_state": False}
    for neuron in (Twice(**options), Louder(**options)):
        assert norm_and_fire(BatchNorm2d(5), neuron, x).max() == 2
    assert not norm_and_fire(Mute(5), CLIF(**options), x).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("static", [False, True])
def test_a_convolution_of_any_type_runs_under_autocast(dtype, static):
    conv = Conv2d(3, 4, 3, padding=1, step_mode="m").to(dtype)
    x = torch.rand(2, 3, 3, 8, 8).to(dtype)
    x = x[:1].expand_as(x) if static else x
    expected = torch.nn.functional.conv2d(x.flatten(0, 1).float(), conv.weight.float(), conv.bias.float(), padding=1)
    with torch.autocast("cpu"):
        y = conv(x)
    assert y.dtype == (torch.float64 if dtype is torch.float64 else torch.bfloat16)
    torch.testing.assert_close(y.flatten(0, 1).float(), expected, rtol=2e-2, atol=2e-2)


def test_what_is_derived_is_that_of_the_step_alone():
    draws = iter(range(100))
    with pytest.raises(ValueError, match="not a pure function"):
        derive(neuron_of(lambda c, u, spike: (spike(u - 1), u + c * next(draws)))().dynamics())


@pytest.mark.parametrize("shape", [(), (0,), (0, 3, 4)])
@pytest.mark.parametrize("keep_state", [True, False])
def test_a_sequence_has_a_step(shape, keep_state):
    for name in ("CLIF", "PLIF", "ILIF"):
        with pytest.raises(ValueError, match=r"one step or more, and this is \["):
            build_neuron(name, keep_state=keep_state)(torch.zeros(shape))
    with pytest.raises(ValueError, match="one step or more"):
        build_model("mlp3", in_channels=1, input_size=4)(torch.zeros(0, 2, 1, 4, 4))
