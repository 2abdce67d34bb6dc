"""Inputs and weights that lie strangely in memory, have strange types, or have nothing in them."""

import pytest
import torch
from torch.func import functional_call

from models.batch_norm import BatchNorm2d
from models.layers import Conv2d, norm_and_fire
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
