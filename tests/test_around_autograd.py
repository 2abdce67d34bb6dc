"""What goes on around a neuron's node of autograd: hooks on what it saved, gradients in batches."""

import pytest
import torch

from models.batch_norm import BatchNorm2d
from models.layers import norm_and_fire
from neurons import build_neuron

BACKENDS = ("c", "triton")


def gradients(backend, T, with_norm):
    """Gradients of a layer whose frames are not contiguous in memory, and of all that it learns."""
    torch.manual_seed(0)
    layers = [build_neuron("PLIF", backend=backend, surrogate="atan", keep_state=False)]
    layers += [BatchNorm2d(3)] * with_norm
    x = torch.randn(T, 2, 4, 2, 3).movedim(-1, 2).requires_grad_()  # channels last
    spikes = norm_and_fire(layers[1], layers[0], x) if with_norm else layers[0](x)
    weights = [weight for layer in layers for weight in layer.parameters()]
    return torch.autograd.grad((spikes * torch.randn(spikes.shape)).sum(), [x, *weights])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("T", "with_norm"), [(3, True), (9, False)])
def test_a_hook_on_saved_tensors_may_lay_them_out_anew(backend, T, with_norm):
    pytest.importorskip("triton" if backend == "triton" else "torch")
    expected = gradients(backend, T, with_norm)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: x.clone(memory_format=torch.contiguous_format), lambda x: x
    ):
        found = gradients(backend, T, with_norm)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
