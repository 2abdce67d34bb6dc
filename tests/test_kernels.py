"""Every back end against the step function under autograd: spikes, gradients, states, at odd shapes and lengths.

Triton's kernels run here in Triton's interpreter on the CPU (TRITON_INTERPRET=1, set in conftest.py).
"""

import pytest
import torch
from spikingjelly.activation_based import functional

from neurons import build_neuron

NEURON_CASES = [("LIF", None), ("LIF", 0.0), ("LIF", -0.06), ("PLIF", None), ("PLIF", 0.1), ("CLIF", None)]
SHAPES = [(1, 7), (2, 3, 5), (6, 2, 3, 5, 5), (33, 300)]


def current(shape, dtype=torch.float32, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.3).to(dtype)


def run(neuron, x, grad, step_mode):
    """Spikes [T, …], gradient of x, and PLIF's gradient of w."""
    x = x.clone().requires_grad_()
    functional.set_step_mode(neuron, step_mode)
    functional.reset_net(neuron)
    spikes = neuron(x) if step_mode == "m" else torch.stack([neuron(x_t) for x_t in x])
    spikes.backward(grad.to(spikes.dtype))
    w = getattr(neuron, "w", None)
    return spikes.detach(), x.grad, None if w is None else w.grad


def assert_same_gradient(ours, reference, rtol=1e-5):
    scale = reference.abs().max().item()
    torch.testing.assert_close(ours, reference, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("surrogate", ["rectangle", "triangle", "sigmoid"])
@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backend_matches_steps_under_autograd(shape, name, v_reset, surrogate, backend):
    x, grad = current(shape), current(shape, seed=1)
    options = {"tau": 1.7, "v_reset": v_reset, "surrogate": surrogate, "alpha": 0.8}
    expected = run(build_neuron(name, step_mode="s", **options), x, grad, "s")
    spikes, g_x, g_w = run(build_neuron(name, backend=backend, keep_state=False, **options), x, grad, "m")
    assert torch.equal(spikes, expected[0])
    assert_same_gradient(g_x, expected[1])
    if name == "PLIF":
        assert_same_gradient(g_w, expected[2])


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
def test_states_and_their_gradients_pass_through(name, v_reset, backend):
    """Two calls of 9 steps are one call of 18, and the gradient crosses the border."""
    x, grad = current((18, 4, 7)), current((18, 4, 7), seed=1)
    whole = run(build_neuron(name, v_reset=v_reset, backend=backend), x, grad, "m")
    neuron = build_neuron(name, v_reset=v_reset, backend=backend)
    halves = x.clone().requires_grad_()
    spikes = torch.cat([neuron(halves[:9]), neuron(halves[9:])])
    spikes.backward(grad)
    assert torch.equal(spikes.detach(), whole[0])
    assert_same_gradient(halves.grad, whole[1])


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
def test_half_precision_matches_float32_on_the_same_rounded_input(name, dtype, backend):
    """The state is float32: spikes are identical, gradients differ by the rounding of the output alone."""
    x, grad = current((6, 5, 9), dtype), current((6, 5, 9), dtype, seed=1)
    expected = run(build_neuron(name, backend="torch"), x.float(), grad.float(), "m")
    spikes, g_x, _ = run(build_neuron(name, backend=backend), x, grad, "m")
    assert spikes.dtype == g_x.dtype == dtype
    assert torch.equal(spikes.float(), expected[0])
    torch.testing.assert_close(g_x.float(), expected[1], rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_any_memory_format(backend):
    """channels_last, a transposed view with gaps, and one frame shown T times (stride 0) give the same numbers."""
    frames = current((3, 4, 5, 6))
    grad = current((5, 3, 4, 5, 6), seed=1)
    static = frames.expand(5, *frames.shape)
    expected = run(build_neuron("CLIF", backend="torch"), static.contiguous(), grad, "m")
    last = frames.to(memory_format=torch.channels_last).expand(5, *frames.shape)
    with_gaps = torch.stack([frames, frames], -1).expand(5, *frames.shape, 2)[..., 0]
    for x in (static, last, with_gaps):
        leaf = x.detach().requires_grad_()
        spikes = build_neuron("CLIF", backend=backend)(leaf)
        (g_x,) = torch.autograd.grad(spikes, leaf, grad)
        assert torch.equal(spikes, expected[0])
        assert_same_gradient(g_x, expected[1])


def test_auto_never_switches_silently():
    x = torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="backend triton has float32"):
        build_neuron("CLIF", backend="triton")(x)
    with pytest.raises(ValueError, match="unknown backend"):
        build_neuron("CLIF", backend="tritn")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "v_reset"), [("LIF", None), ("LIF", -0.06), ("PLIF", None), ("CLIF", None)])
def test_compiled_matches_torch(name, v_reset):
    x, grad = current((6, 4, 33)), current((6, 4, 33), seed=1)
    expected = run(build_neuron(name, v_reset=v_reset, backend="torch"), x, grad, "m")
    spikes, g_x, g_w = run(build_neuron(name, v_reset=v_reset, backend="compile", keep_state=False), x, grad, "m")
    assert torch.equal(spikes, expected[0])
    assert_same_gradient(g_x, expected[1])
    if name == "PLIF":
        assert_same_gradient(g_w, expected[2])
