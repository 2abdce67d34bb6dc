"""Every back end against the step function under autograd: spikes, gradients, states, at odd shapes and lengths.

Triton's kernels run here in Triton's interpreter on the CPU (TRITON_INTERPRET=1, set in conftest.py).
"""

import pytest
import torch
from spikingjelly.activation_based import functional

from models.layers import BatchNorm2d, norm_and_fire
from neurons import SURROGATES, build_neuron
from neurons.ops import c_build, c_launch, c_source
from neurons.ops.c_build import compiler
from neurons.ops.c_launch import over_threads

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")
BACKENDS = ["reference", pytest.param("c", marks=needs_compiler)]
NEURON_CASES = [
    *[("LIF", {}), ("LIF", {"v_reset": 0.0}), ("LIF", {"v_reset": -0.06, "decay_input": True, "detach_reset": True})],
    *[("PLIF", {}), ("PLIF", {"v_reset": 0.1}), ("PLIF", {"decay_input": True}), ("PLIF", {"channels": 3})],
    *[("CLIF", {}), ("KLIF", {}), ("KLIF", {"channels": 3}), ("ILIF", {}), ("GLIF", {}), ("GLIF", {"channels": 3})],
]
OF_ANY_LENGTH = [(name, options) for name, options in NEURON_CASES if name != "GLIF"]  # GLIF learns values of T steps
SHAPES = [(1, 7, 3), (2, 3, 3, 5), (6, 2, 3, 5, 5), (33, 100, 3)]


@pytest.fixture
def threads():
    """Sets the number of threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def current(shape, dtype=torch.float32, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.3).to(dtype)


def build(name, T, **options):
    """A neuron whose learned parameters are not what they start as, the same ones for the same name."""
    torch.manual_seed(0)
    neuron = build_neuron(name, T=T, **options)
    with torch.no_grad():
        for weight in neuron.parameters():
            weight += 0.3 * torch.rand_like(weight)
    return neuron


def run(neuron, x, grad, step_mode="m"):
    """Spikes [T, …], gradient of x, and of what the neuron learns."""
    x = x.clone().requires_grad_()
    if step_mode == "s":
        functional.set_step_mode(neuron, "s")
    functional.reset_net(neuron)
    spikes = neuron(x) if step_mode == "m" else torch.stack([neuron(x_t) for x_t in x])
    spikes.backward(grad.to(spikes.dtype))
    return spikes.detach(), x.grad, *[weight.grad for weight in neuron.parameters()]


def assert_same_gradient(ours, reference, rtol=1e-5):
    scale = reference.abs().max().item()
    torch.testing.assert_close(ours, reference, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(("name", "options"), NEURON_CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backend_matches_steps_under_autograd(shape, name, options, surrogate, backend):
    """In float64 but for the spikes, which fall where float32's do."""
    T, x, grad = shape[0], current(shape), current(shape, seed=1)
    options = {"surrogate": surrogate, "alpha": 0.8, **({} if name == "GLIF" else {"tau": 1.7}), **options}
    mode = "m" if name == "GLIF" else "s"
    expected = run(build(name, T, backend="reference", **options).double(), x.double(), grad.double(), mode)
    found = run(build(name, T, backend=backend, keep_state=False, **options), x, grad)
    assert torch.equal(found[0].double(), expected[0])
    assert_same_gradient(found[1].double(), expected[1])
    for one, other in zip(found[2:], expected[2:], strict=True):  # sums, much of which cancels
        assert_same_gradient(one.double(), other, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "options"), OF_ANY_LENGTH, ids=str)
def test_states_and_their_gradients_pass_through(name, options, backend):
    """Two calls of 9 steps are one call of 18, and the gradient crosses the border."""
    x, grad = current((18, 4, 3)), current((18, 4, 3), seed=1)
    whole = run(build(name, None, backend=backend, **options), x, grad)
    neuron = build(name, None, backend=backend, **options)
    halves = x.clone().requires_grad_()
    spikes = torch.cat([neuron(halves[:9]), neuron(halves[9:])])
    spikes.backward(grad)
    assert torch.equal(spikes.detach(), whole[0])
    for one, other in zip([halves.grad, *[w.grad for w in neuron.parameters()]], whole[1:], strict=True):
        assert_same_gradient(one, other, rtol=3e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF", "KLIF", "ILIF", "GLIF"])
def test_half_precision_matches_float32_on_the_same_rounded_input(name, dtype, backend):
    """The state is float32: spikes are identical, gradients differ by the rounding of the output alone."""
    x, grad = current((6, 5, 9), dtype), current((6, 5, 9), dtype, seed=1)
    expected = run(build(name, 6, backend="reference"), x.float(), grad.float())
    spikes, g_x, *_ = run(build(name, 6, backend=backend), x, grad)
    assert spikes.dtype == g_x.dtype == dtype
    assert torch.equal(spikes.float(), expected[0])
    torch.testing.assert_close(g_x.float(), expected[1], rtol=torch.finfo(dtype).eps, atol=2e-6)


@needs_compiler
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF", "ILIF"])
def test_c_without_wide_registers_computes_the_same(name, monkeypatch):
    """What runs where there is no AVX-512: plain C, with a division in σ."""
    c_source.built.cache_clear()
    monkeypatch.setattr(c_build, "FLAGS", tuple(f for f in c_build.FLAGS if not f.startswith("-m")))
    c_build.library.cache_clear()
    try:
        for dtype in (torch.float32, torch.bfloat16):
            x, grad = current((6, 5, 4, 3, 3), dtype), current((6, 5, 4, 3, 3), dtype, seed=1)
            plain = run(build(name, None, backend="c", keep_state=False), x, grad)
            reference = run(build(name, None, backend="reference"), x.float(), grad.float())
            assert torch.equal(plain[0].float(), reference[0])
            assert_same_gradient(plain[1].float(), reference[1], rtol=max(1e-5, torch.finfo(dtype).eps))
            neuron, norm = build(name, None, backend="c", keep_state=False), BatchNorm2d(4)
            assert torch.equal(norm_and_fire(norm, neuron, x).float(), neuron(norm(x.float())))
    finally:
        c_source.built.cache_clear()
        c_build.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("size", [1 << 19, (1 << 19) + 3], ids=["aligned", "odd"])
@pytest.mark.parametrize(("dtype", "T"), [(torch.float32, 33), (torch.bfloat16, 65), (torch.float16, 65)], ids=str)
def test_outputs_written_past_the_cache_are_those_of_small_parts(dtype, T, size, threads):
    threads(2)
    x, grad = current((T, size), dtype), current((T, size), dtype, seed=1)
    neuron = build_neuron("CLIF", backend="c", keep_state=False)
    parts = [run(neuron, *part) for part in zip(x.split(1 << 17, 1), grad.split(1 << 17, 1), strict=True)]
    spikes, g_x = run(neuron, x, grad)
    assert spikes.nbytes >= 1 << 26 > max(part.nbytes for part, *_ in parts)
    assert torch.equal(spikes, torch.cat([part for part, *_ in parts], 1))
    assert torch.equal(g_x, torch.cat([part for _, part in parts], 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_memory_format(backend):
    """channels_last, a transposed view with gaps, and one frame shown T times (stride 0) give the same numbers."""
    frames = current((3, 4, 5, 6))
    grad = current((5, 3, 4, 5, 6), seed=1)
    static = frames.expand(5, *frames.shape)
    expected = run(build_neuron("CLIF", backend="reference"), static.contiguous(), grad)
    last = frames.to(memory_format=torch.channels_last).expand(5, *frames.shape)
    with_gaps = torch.stack([frames, frames], -1).expand(5, *frames.shape, 2)[..., 0]
    for x in (static, last, with_gaps):
        leaf = x.detach().requires_grad_()
        spikes = build_neuron("CLIF", backend=backend)(leaf)
        (g_x,) = torch.autograd.grad(spikes, leaf, grad)
        assert torch.equal(spikes, expected[0])
        assert_same_gradient(g_x, expected[1])


NORM_CASES = [case for case in NEURON_CASES if "channels" not in case[1]] + [("KLIF", {"channels": 20})]
NORMS = ["per step", "merged", "running, shared", "running, per step"]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize(("name", "options"), NORM_CASES, ids=str)
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("T", [1, 2, 6, 33])
def test_norm_and_fire_matches_norm_then_fire(T, kind, name, options, backend):
    """Spikes, gradients and running statistics of the fused pair, against batch norm and the neuron in float64.

    Gradients may be off by as much as float32's own under autograd are (ILIF's, over 33 steps, by half a percent).
    """
    C = 160 if T == 2 else 20  # wider and narrower than a block
    options = options if "channels" not in options else {"channels": C}
    x, grad = 2 * current((T, 3, C, 4, 5)) + 0.7, current((T, 3, C, 4, 5), seed=1)
    results = []
    for used, dtype in (("reference", torch.float64), ("reference", torch.float32), (backend, torch.float32)):
        norm = BatchNorm2d(C, merged=kind == "merged")
        torch.manual_seed(0)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
        norm.to(dtype)
        if kind.startswith("running"):
            norm(x.to(dtype))
            norm.eval().zero_grad()
            norm.statistics = "per_step" if kind == "running, per step" else "shared"
        options = {**({} if name == "GLIF" else {"tau": 1.7}), **options, "surrogate": "sigmoid"}  # without an edge
        neuron = build(name, T, **options, backend=used, keep_state=False)
        leaf = x.clone().to(dtype).requires_grad_()
        spikes = norm_and_fire(norm, neuron.to(dtype), leaf)
        spikes.backward(grad.to(dtype))
        learned = [weight.grad for weight in neuron.parameters()]
        statistics = [norm.running_mean, norm.running_var, norm.num_batches_tracked.to(dtype)]
        statistics += [] if norm.running_mean_t is None else [norm.running_mean_t, norm.running_var_t]
        results.append((spikes.detach(), [leaf.grad, norm.weight.grad, norm.bias.grad, *learned, *statistics]))
    (expected_spikes, expected), (_, narrow), (spikes, found) = results
    same = spikes.double() == expected_spikes
    assert (~same).sum() <= 2  # one rounding from the threshold
    if same.all():
        for ours, theirs, reference in zip(found, narrow, expected, strict=True):
            error, allowed = ((each.double() - reference).abs().max() for each in (ours, theirs))
            assert error <= 2 * allowed + 5e-5 * reference.abs().max()


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_norm_and_fire_in_bfloat16_rounds_once(backend):
    """On the same rounded input the fused pair fires where float32 does: y is never rounded to bfloat16."""
    x = current((4, 3, 16, 5, 5)).bfloat16()
    neuron = build_neuron("CLIF", backend=backend, keep_state=False)
    fused = norm_and_fire(BatchNorm2d(16), neuron, x)
    plain = build_neuron("CLIF", backend="reference", keep_state=False)(BatchNorm2d(16)(x.float()))
    assert fused.dtype == torch.bfloat16
    assert torch.equal(fused.float(), plain)


@needs_compiler
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
@pytest.mark.parametrize("of", ["torch", "its own"])
def test_threads_share_the_work_and_change_nothing(name, of, threads, monkeypatch):
    """Shares of uneven size, with a norm, whose sums go over all of them, and without."""
    if of == "its own":
        monkeypatch.setattr(c_launch, "torchs_threads", lambda: None)
    elif c_launch.torchs_threads() is None:
        pytest.skip("this torch computes without OpenMP")
    shares = []
    x, grad = current((5, 9, 32, 8, 8)), current((5, 9, 32, 8, 8), seed=1)
    monkeypatch.setattr(c_launch, "over_threads", lambda *args: shares.append(over_threads(*args)))
    results = []
    for count in (1, 3):
        threads(count)
        neuron = build_neuron(name, backend="c", keep_state=False)
        leaf, norm = x.clone().requires_grad_(), BatchNorm2d(32)
        spikes = norm_and_fire(norm, neuron, leaf)
        spikes.backward(grad)
        results.append((spikes.detach(), [leaf.grad, norm.weight.grad, norm.running_var, *run(neuron, x, grad)[1:]]))
        assert set(shares) == {count}
        shares.clear()
    (spikes, alone), (spikes_of_three, shared) = results
    assert torch.equal(spikes, spikes_of_three)
    for one, other in zip(alone, shared, strict=True):
        if one is not None:
            assert_same_gradient(other, one, rtol=1e-6)
