"""What goes on around a neuron's node of autograd: hooks on what it saved, gradients in batches, programs of it."""

import io
import subprocess
import sys

import pytest
import torch

from models import build_model
from models.batch_norm import BatchNorm2d
from models.layers import norm_and_fire
from neurons import build_neuron
from tests.helpers import device_of

BACKENDS = ("c", "triton")


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip("triton" if request.param == "triton" else "torch")
    with device_of(request.param):  # of what a test makes
        yield request.param


def gradients(backend, T, with_norm):
    """Gradients of a layer whose frames are not contiguous in memory, and of all that it learns."""
    torch.manual_seed(0)
    layers = [build_neuron("PLIF", backend=backend, surrogate="atan", keep_state=False)]
    layers += [BatchNorm2d(3)] * with_norm
    x = torch.randn(T, 2, 4, 2, 3).movedim(-1, 2).requires_grad_()  # channels last
    spikes = norm_and_fire(layers[1], layers[0], x) if with_norm else layers[0](x)
    weights = [weight for layer in layers for weight in layer.parameters()]
    return torch.autograd.grad((spikes * torch.randn(spikes.shape)).sum(), [x, *weights])


@pytest.mark.parametrize(("T", "with_norm"), [(3, True), (9, False)])
def test_a_hook_on_saved_tensors_may_lay_them_out_anew(backend, T, with_norm):
    expected = gradients(backend, T, with_norm)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: x.clone(memory_format=torch.contiguous_format), lambda x: x
    ):
        found = gradients(backend, T, with_norm)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_kernels_loaded_under_fake_tensors_run_on_others_afterwards():
    """A constant that their module made there was fake for the rest of the process."""
    script = """
import warnings
warnings.simplefilter("error")
import torch
from torch._subclasses import FakeTensorMode
from neurons import CLIF
neuron = CLIF(backend="c", keep_state=False)
with FakeTensorMode():
    neuron(torch.empty(4, 6))
assert neuron(torch.full((4, 6), 2.0)).any()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("with_norm", [False, True])
def test_gradients_in_batches_are_the_reference_s(backend, with_norm):
    """Kernels failed at the address of a tensor that has no memory."""

    def spikes_of(backend):
        torch.manual_seed(0)
        neuron, x = build_neuron("LIF", backend=backend, keep_state=False), torch.rand(2, 2, 3, 2, 2)
        x.requires_grad_()
        return x, norm_and_fire(BatchNorm2d(3), neuron, x) if with_norm else neuron(x)

    x, spikes = spikes_of("reference")
    grads = torch.randn(3, *x.shape)
    batched = torch.autograd.grad(spikes, x, grads, is_grads_batched=True, retain_graph=True)[0]
    each = torch.stack([torch.autograd.grad(spikes, x, grad, retain_graph=True)[0] for grad in grads])
    torch.testing.assert_close(batched, each)
    x, spikes = spikes_of(backend)
    with pytest.raises(RuntimeError, match="no gradients in batches"):
        torch.autograd.grad(spikes, x, grads, is_grads_batched=True)


@pytest.mark.filterwarnings("ignore")  # of the tracer, on shapes; and torch.jit is deprecated
def test_torch_jit_traces_a_network_and_saves_it(backend):
    net = build_model("mlp3", "CLIF", in_channels=1, input_size=4, backend=backend).eval()
    x, file = torch.rand(2, 2, 3, 1, 4, 4) * 4, io.BytesIO()
    torch.jit.save(torch.jit.trace(net, x[0]), file)  # its check traces again, under no_grad
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(x[1]), net(x[1]))


@pytest.mark.filterwarnings("ignore")
def test_a_neuron_traced_without_gradients_has_them(backend):
    neuron, x = build_neuron("CLIF", backend=backend, keep_state=False), torch.rand(10, 2, 5) * 2
    with torch.no_grad():
        traced = torch.jit.trace(neuron, x)
    x.requires_grad_()
    found, expected = (torch.autograd.grad(run(x).sum(), x)[0] for run in (traced, neuron))
    assert expected.count_nonzero()
    torch.testing.assert_close(found, expected)


def firing(net, x_seq):
    """``net`` for evaluation, in which the neurons fire: its norms know ``x_seq``."""
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = 1.0
    net(x_seq)
    return net.eval()


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_was_traced_with_one_frame_for_all_steps_takes_others():
    """A traced program does not look at strides again."""
    x = torch.rand(2, 2, 3, 32, 32)
    net = firing(build_model("snn5", "CLIF", backend="c"), x)
    traced = torch.jit.trace(net, x[:1].expand(x.shape), check_trace=False)
    torch.testing.assert_close(traced(x), net(x))


@pytest.mark.parametrize("steps", [3, 1])
def test_an_exported_network_computes_the_same(steps):
    other = torch.rand(3, 2, 3, 32, 32)
    net = firing(build_model("snn5", "CLIF", backend="c"), other)
    x_seq = torch.rand(steps, 2, 3, 32, 32).expand(3, -1, -1, -1, -1)
    program = torch.export.export(net, (x_seq,))
    assert any("fire" in str(node.target) for node in program.graph.nodes)
    for seen in (x_seq, other):
        torch.testing.assert_close(program.module()(seen), net(seen))


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_a_state_that_has_outlived_its_vmap_is_named(step_mode):
    """The next call ended in torch's words on escaped tensors."""
    neuron, x = build_neuron("CLIF", step_mode=step_mode), torch.rand(3, 4, 2)
    by_gradients = torch.func.grad(lambda x: neuron(x).sum())
    for transformed in (torch.vmap(neuron), torch.vmap(torch.vmap(neuron)), torch.vmap(by_gradients)):
        neuron.reset()
        transformed(torch.rand(5, *x.shape))
        with pytest.raises(ValueError, match=r"state v is of a torch.vmap that has ended: call functional.reset_net"):
            neuron(x)
    neuron.reset()
    steps = torch.vmap(lambda x: neuron(x) + neuron(x))  # inside it lives
    assert torch.equal(steps(x[None])[0] > 0, neuron_twice(build_neuron("CLIF", step_mode=step_mode), x) > 0)


def neuron_twice(neuron, x):
    return neuron(x) + neuron(x)
