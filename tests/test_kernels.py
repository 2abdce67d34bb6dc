"""Every back end against the step function under autograd: spikes, gradients, states, at odd shapes and lengths.

Triton's kernels run here in Triton's interpreter on the CPU (TRITON_INTERPRET=1, set in conftest.py).
"""

import pytest
import torch
from spikingjelly.activation_based import functional

from benchmarks.parity import neuron_row, norm_row
from models.layers import BatchNorm2d, norm_and_fire
from neurons import build_neuron
from neurons.kernels import cpu_launch
from neurons.kernels.cpu_build import compiler
from neurons.kernels.cpu_launch import over_threads

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")
BACKENDS = ["torch", pytest.param("compile", marks=needs_compiler), "triton"]
NEURON_CASES = [("LIF", None), ("LIF", 0.0), ("LIF", -0.06), ("PLIF", None), ("PLIF", 0.1), ("CLIF", None)]
CPU = torch.device("cpu")
SHAPES = [(1, 7), (2, 3, 5), (6, 2, 3, 5, 5), (33, 300)]


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("surrogate", ["rectangle", "triangle", "sigmoid"])
@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backend_matches_steps_under_autograd(shape, name, v_reset, surrogate, backend):
    row = neuron_row(name, v_reset, surrogate, shape, torch.float32, CPU, backend, tie=0.0)
    assert row["ok"], row
    assert (row["backend"], row["ties"], row["spikes_differ"]) == (backend, 0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
def test_half_precision_matches_float32_on_the_same_rounded_input(name, dtype, backend):
    """The state is float32: spikes are identical, gradients differ by the rounding of the output alone."""
    row = neuron_row(name, None, "rectangle", (6, 5, 9), dtype, CPU, backend, tie=0.0)
    assert row["ok"], row
    assert row["dtype"] == str(dtype).removeprefix("torch.")


@needs_compiler
@pytest.mark.parametrize("size", [1 << 19, (1 << 19) + 3], ids=["aligned", "odd"])
@pytest.mark.parametrize(("dtype", "T"), [(torch.float32, 33), (torch.bfloat16, 65), (torch.float16, 65)], ids=str)
def test_outputs_written_past_the_cache_are_those_of_small_parts(dtype, T, size, threads):
    threads(2)
    x, grad = current((T, size), dtype), current((T, size), dtype, seed=1)
    neuron = build_neuron("CLIF", backend="compile", keep_state=False)
    parts = [run(neuron, *part, "m") for part in zip(x.split(1 << 17, 1), grad.split(1 << 17, 1), strict=True)]
    spikes, g_x, _ = run(neuron, x, grad, "m")
    assert spikes.nbytes >= 1 << 26 > max(part.nbytes for part, *_ in parts)
    assert torch.equal(spikes, torch.cat([part for part, *_ in parts], 1))
    assert torch.equal(g_x, torch.cat([part for _, part, _ in parts], 1))


@pytest.mark.parametrize("backend", BACKENDS)
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


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
@pytest.mark.parametrize("T", [1, 2, 6, 33])
def test_norm_and_fire_matches_norm_then_fire(T, name, v_reset, backend):
    """Spikes, gradients and running statistics of the fused pair, against batch norm step by step and the neuron."""
    row = norm_row(name, v_reset, (T, 3, 20, 4, 5), CPU, backend)
    assert row["ok"], row
    assert (row["backend"], row["behind a norm"]) == (backend, True)
    assert row["ties"] < 0.02 * row["elements"]


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_norm_and_fire_in_bfloat16_rounds_once(backend):
    """On the same rounded input the fused pair fires where float32 does: y is never rounded to bfloat16."""
    x = current((4, 3, 16, 5, 5)).bfloat16()
    neuron = build_neuron("CLIF", backend=backend, keep_state=False)
    fused = norm_and_fire(BatchNorm2d(16), neuron, x)
    plain = build_neuron("CLIF", backend="torch", keep_state=False)(BatchNorm2d(16)(x.float()))
    assert fused.dtype == torch.bfloat16
    assert torch.equal(fused.float(), plain)


@needs_compiler
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
def test_threads_share_the_work_and_change_nothing(name, threads, monkeypatch):
    """Shares of uneven size, with a norm, whose sums go over all of them, and without."""
    shares = []
    x, grad = current((5, 9, 32, 8, 8)), current((5, 9, 32, 8, 8), seed=1)
    monkeypatch.setattr(cpu_launch, "over_threads", lambda *args: shares.append(over_threads(*args)))
    results = []
    for count in (1, 3):
        threads(count)
        neuron = build_neuron(name, backend="compile", keep_state=False)
        leaf, norm = x.clone().requires_grad_(), BatchNorm2d(32)
        spikes = norm_and_fire(norm, neuron, leaf)
        spikes.backward(grad)
        results.append(
            (spikes.detach(), [leaf.grad, norm.weight.grad, norm.running_var, *run(neuron, x, grad, "m")[1:]])
        )
        assert set(shares) == {count}
        shares.clear()
    (spikes, alone), (spikes_of_three, shared) = results
    assert torch.equal(spikes, spikes_of_three)
    for one, other in zip(alone, shared, strict=True):
        if one is not None:
            assert_same_gradient(other, one, rtol=1e-6)
