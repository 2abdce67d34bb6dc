"""Strange inputs and weights (how they lie in memory, their types, nothing in them), and settings put in by hand."""

import re

import pytest
import torch
from spikingjelly.activation_based import functional
from torch.func import functional_call

from models import build_model
from models.batch_norm import BatchNorm2d
from models.layers import Conv2d, norm_and_fire
from neurons import LIF, NEURONS, SpikingNeuron, build_neuron
from neurons.surrogate import atan
from tests.helpers import device_of

FUSED = ("c", "triton")


@pytest.fixture(params=("reference", *FUSED))
def backend(request):
    if request.param == "triton":
        pytest.importorskip("triton")
    with device_of(request.param):  # of what a test makes
        yield request.param


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


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_counts_and_masks_are_a_current(backend, dtype, step_mode):
    """What is learned got no gradient from them, and single steps returned spikes as whole numbers."""
    neuron, x_seq = build_neuron("PLIF", backend=backend, step_mode=step_mode), torch.tensor([1, 0, 1, 1])[:, None]

    def run(x_seq):
        neuron.reset()
        spikes = neuron(x_seq) if step_mode == "m" else torch.stack([neuron(x) for x in x_seq])
        return spikes.detach(), *torch.autograd.grad(spikes.sum(), neuron.w)

    for found, expected in zip(run(x_seq.to(dtype)), run(x_seq.float()), strict=True):
        assert torch.equal(found, expected)
        assert found.dtype == torch.float32


def test_counts_are_a_current_for_psn():
    psn, counts = build_neuron("PSN", T=4), torch.tensor([1, 0, 1, 1])[:, None]
    psn(counts).sum().backward()
    assert psn.bias.grad is not None


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NEURONS)
def test_weights_and_current_may_differ_in_precision(name, dtype, weights):
    """Spikes come back as the current came; PSN multiplied the two as they were, and torch refused."""
    neuron = build_neuron(name, T=4, backend="reference").to(weights)
    x_seq = (3 * torch.rand(4, 2, 3)).to(dtype).requires_grad_()
    spikes = neuron(x_seq)
    spikes.sum().backward()
    assert spikes.dtype == x_seq.grad.dtype == dtype
    assert all(weight.grad.dtype == weights for weight in neuron.parameters())


def test_a_complex_current_is_refused(backend):
    with pytest.raises(ValueError, match="is real, and this is complex64"):
        build_neuron("CLIF", backend=backend)(torch.zeros(3, 2, dtype=torch.complex64))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("step_mode", "shape"), [("m", (2, 3, 3, 3)), ("s", (2, 3, 3, 3, 3)), ("s", (3, 3, 3))])
def test_a_norm_of_frames_takes_no_sequence_and_the_other_way_round(step_mode, shape, training):
    """Where sizes agree by chance, it normalised over others than the channels."""
    norm = BatchNorm2d(3, step_mode=step_mode).train(training)
    with pytest.raises(ValueError, match=f"in step mode {step_mode} takes"):
        norm(torch.randn(shape))


@pytest.mark.parametrize("training", [True, False])
def test_a_fused_norm_takes_sequences_alone(backend, training):
    with pytest.raises(ValueError, match=r"takes \[T, N, C, H, W\], not \[2, 3, 3, 3\]"):
        Layer(backend).train(training)(torch.randn(2, 3, 3, 3))


def test_evaluation_of_an_empty_batch_is_empty(backend):
    """The last share of a data set, say; the reference took it, the others asked for statistics that it has."""
    layer, x = Layer(backend).eval(), torch.zeros(2, 0, 3, 4, 4, requires_grad=True)
    spikes = layer(x)
    spikes.sum().backward()
    assert spikes.shape == x.grad.shape == x.shape
    assert not layer.norm.weight.grad.any()


def test_a_negative_view_is_negative(backend):
    """A flag of the tensor says so, and its memory does not."""
    x = torch.complex(torch.zeros(4, 1), torch.tensor([[2.0], [-2.0], [0.6], [-3.0]])).conj().imag
    assert x.is_neg()
    spikes = build_neuron("LIF", backend=backend, v_threshold=1.5)(x)
    assert spikes.flatten().tolist() == [0, 0, 0, 1]


def test_an_empty_batch_passes_what_is_learned_of_each_channel(backend):
    neuron, x = build_neuron("PLIF", backend=backend, channels=3), torch.zeros(2, 0, 3, 4, 4)
    neuron(x).sum().backward()
    assert not neuron.w.grad.any()


def test_a_still_image_that_is_a_leaf_has_a_gradient_of_each_step(backend):
    """It was that of the first step, the sum over all, where the image went through a layer once."""
    torch.manual_seed(0)
    still = torch.randn(2, 3, 4, 4).expand(4, -1, -1, -1, -1)
    layers = {
        "norm": BatchNorm2d(3),
        "norm and neuron": Layer(backend),
        "neuron": build_neuron("PLIF", channels=3, backend=backend, surrogate="atan", keep_state=False),
        "convolution": Conv2d(3, 3, 3, padding=1, step_mode="m"),
    }
    for name, layer in layers.items():
        gradients = []
        for x in (still, still.contiguous()):
            x_seq = x.detach().requires_grad_()
            y = layer(x_seq)
            gradients += torch.autograd.grad((y * torch.arange(4).view(4, 1, 1, 1, 1)).square().sum(), x_seq)
        torch.testing.assert_close(*gradients, msg=name)


# -- what is set on a neuron after it was built takes effect, or is refused in one line


@pytest.mark.parametrize("backend", ["reference", "c"])
@pytest.mark.parametrize("alpha", [torch.nn.Parameter(torch.tensor(0.5)), torch.tensor(0.5)])
def test_a_width_that_is_a_tensor_is_refused(backend, alpha):
    """As a parameter it was passed over, and the width of the constructor taken."""
    neuron = LIF(backend=backend, keep_state=False)
    neuron.alpha = alpha
    with pytest.raises(TypeError, match="setting alpha of LIF is a"):
        neuron(torch.rand(3, 4))
    assert repr(neuron)


def test_a_surrogate_of_ones_own_may_learn_its_width():
    neuron = LIF(keep_state=False)
    neuron.alpha = torch.nn.Parameter(torch.tensor(0.5))
    neuron.surrogate = lambda x: (x >= 0).float().detach() + x * atan(x, neuron.alpha) * 0
    neuron(torch.rand(3, 4)).sum().backward()
    assert neuron.alpha.grad is not None


@pytest.mark.parametrize("backend", ["reference", "c"])
def test_a_step_that_is_put_in_by_hand_is_refused(backend):
    """It was passed over."""
    neuron = build_neuron("LIF", backend=backend)
    neuron.step = lambda c, u, **settings: (c, u)
    with pytest.raises(TypeError, match="declare a subclass of LIF"):
        neuron(torch.rand(3, 4))


def delayed_step(c, u, last, fired, spike):
    """States are the last input and the last spikes themselves; and a mask."""
    u = 0.5 * u * (1 - last) + c
    s = spike(u - 1)
    return s, c > 0.5, c, s


class Delayed(SpikingNeuron):
    step = staticmethod(delayed_step)
    states = {"v": 0.0, "last": 0.0, "fired": 0.0}


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("backend", ["reference", "c"])
def test_spikes_and_inputs_changed_in_place_leave_the_states_alone(step_mode, backend):
    neuron, x = Delayed(step_mode=step_mode, backend=backend), torch.rand(3, 4)
    spikes = neuron(x)
    before = [state.clone() for state in neuron.memories()]
    spikes.mul_(5), x.mul_(5)
    assert all(map(torch.equal, neuron.memories(), before))


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("backend", ["reference", "c"])
def test_states_are_detached_and_the_spikes_are_not(step_mode, backend):
    """Between the chunks of a truncated BPTT: a loss that is still to come needs their graph."""
    neuron, x = Delayed(step_mode=step_mode, backend=backend), torch.rand(3, 4, requires_grad=True)
    spikes, last = neuron(2 * x), neuron.last
    functional.detach_net(neuron)
    assert spikes.requires_grad
    assert last.requires_grad
    assert not any(state.requires_grad for state in neuron.memories())


@pytest.mark.parametrize("shape", [(), (0, 2, 3, 32, 32)])
@pytest.mark.parametrize("name", ["snn5_noAP", "plif_fashion_32"])
def test_every_network_wants_a_step(name, shape):
    with pytest.raises(ValueError, match="has one step or more"):
        build_model(name, "CLIF")(torch.rand(shape))


UNFIT = {"tau": 0.5, "v_threshold": float("nan"), "v_reset": 2.0, "alpha": 0.0, "surrogate": "step", "backend": "cpp",
         "bptt_k": 0, "decay_input": "no", "detach_reset": 2, "keep_state": "False"}  # fmt: skip


@pytest.mark.parametrize("option", UNFIT)
def test_an_option_set_later_is_checked_as_in_the_constructor(option):
    with pytest.raises(ValueError, match=option if option != "alpha" else "width") as refused:
        LIF(**{option: UNFIT[option]})
    neuron = LIF(v_reset=-0.5, keep_state=False)
    before = getattr(neuron, option)
    with pytest.raises(ValueError, match=re.escape(str(refused.value))):
        setattr(neuron, option, UNFIT[option])
    assert getattr(neuron, option) == before
    neuron.v_threshold, neuron.v_reset, neuron.tau, neuron.alpha, neuron.surrogate = 0.25, -0.25, 4, 0.5, "atan"
    other = LIF(4, 0.25, v_reset=-0.25, alpha=0.5, surrogate="atan", keep_state=False)
    x_seq = torch.randn(4, 3, 5)
    assert torch.equal(neuron(x_seq), other(x_seq))


def test_what_a_neuron_of_ones_own_calls_like_an_option_is_its_own():
    class Own(SpikingNeuron):
        step = staticmethod(lambda c, u, tau, spike: (spike(tau * u + c - 1), tau * u + c))
        states, settings = {"v": 0.0}, ("tau",)

    neuron = Own()
    neuron.tau = 0.5
    assert neuron(torch.full((3, 1), 0.6)).flatten().tolist() == [0, 0, 1]  # u: 0.6, 0.9, 1.05
