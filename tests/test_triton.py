"""Back end ``triton`` against the steps under autograd in float64: on a GPU where there is one, else in Triton's
interpreter on the CPU (TRITON_INTERPRET=1, set in conftest.py).

The whole product of neurons, surrogates and lengths takes minutes in the interpreter: most of it is long.
"""

import itertools
from importlib.metadata import version

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not here")

from models.layers import BatchNorm2d, norm_and_fire
from neurons import SURROGATES, build_neuron
from neurons.ops import triton_launch
from neurons.ops.backends import load_kernels
from neurons.ops.dynamics import Inputs, parameter_table
from neurons.ops.triton_norm import combine_kernel
from neurons.ops.triton_tiling import FORWARD, MOST_PROGRAMS, Frame, chunk_length, launch
from tests.test_backends import NEURON_CASES, assert_same_gradient, build, current, run

LENGTHS = (1, 2, 6, 33)
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() and version("triton") < "3.7" and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="this Triton's interpreter cannot loop with this NumPy",
)


def sampled(*lists, every):
    """Every combination, of which one in ``every``, spread evenly, is quick: of the others no line is counted as
    covered (of the interpreter's own, which are most, coverage would look at each). One in four holds each pair of
    values at least once; without a GPU the rest is long."""
    cases = []
    for indices in itertools.product(*(range(len(each)) for each in lists)):
        values = [each[i] for i, each in zip(indices, lists, strict=True)]
        marks = [pytest.mark.slow, pytest.mark.no_cover] if sum(indices) % every else []
        if sum(indices) % 4 and not torch.cuda.is_available():
            marks.append(pytest.mark.long)
        cases.append(pytest.param(*values, id=" ".join(map(str, values)), marks=marks))
    return cases


def test_each_pair_of_values_stands_in_a_case_that_is_not_long():
    lists = NORM_CASES, KINDS, LENGTHS
    kept = [case.values for case in sampled(*lists, every=8) if pytest.mark.long not in case.marks]
    for i, j in itertools.combinations(range(3), 2):
        pairs = {(str(values[i]), str(values[j])) for values in kept}
        assert len(pairs) == len(lists[i]) * len(lists[j])


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def options_of(name, options, **more):
    return {**({} if name == "GLIF" else {"tau": 1.7}), "alpha": 0.8, **options, **more}


@pytest.mark.parametrize(("case", "surrogate", "T"), sampled(NEURON_CASES, list(SURROGATES), LENGTHS, every=4))
def test_kernels_match_steps_under_autograd(case, surrogate, T, device):
    name, options = case
    shape = (T, 3, 3, 31)  # several programs, the last tile not full
    x, grad = current(shape), current(shape, seed=1)
    options = options_of(name, options, surrogate=surrogate)
    mode = "m" if name == "GLIF" else "s"
    expected = run(build(name, T, backend="reference", **options).double(), x.double(), grad.double(), mode)
    neuron = build(name, T, backend="triton", keep_state=False, **options).to(device)
    found = [each.cpu() for each in run(neuron, x.to(device), grad.to(device))]
    assert torch.equal(found[0].double(), expected[0])
    assert_same_gradient(found[1].double(), expected[1])
    for one, other in zip(found[2:], expected[2:], strict=True):  # sums, much of which cancels
        assert_same_gradient(one.double(), other, rtol=1e-4)


@pytest.mark.parametrize(("name", "options"), [case for case in NEURON_CASES if case[0] != "GLIF"], ids=str)
def test_states_and_their_gradients_pass_through(name, options, device):
    """Two calls, of 9 steps (two chunks) and of 3, are one call of 12, and the gradient crosses the border."""
    x, grad = current((12, 4, 3)).to(device), current((12, 4, 3), seed=1).to(device)
    whole = run(build(name, None, backend="reference", **options).to(device), x, grad)
    neuron = build(name, None, backend="triton", **options).to(device)
    leaf = x.clone().requires_grad_()
    spikes = torch.cat([neuron(leaf[:9]), neuron(leaf[9:])])
    spikes.backward(grad)
    assert torch.equal(spikes.detach(), whole[0])
    for one, other in zip([leaf.grad, *[w.grad for w in neuron.parameters()]], whole[1:], strict=True):
        assert_same_gradient(one, other, rtol=3e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF", "KLIF", "ILIF", "GLIF"])
def test_half_precision_matches_float32_on_the_same_rounded_input(name, dtype, device):
    """States are float32: spikes are identical, gradients differ by the rounding of the output alone."""
    x, grad = (current((6, 5, 9), dtype, seed).to(device) for seed in (0, 1))
    expected = run(build(name, 6, backend="reference").to(device), x.float(), grad.float())
    spikes, g_x, *_ = run(build(name, 6, backend="triton").to(device), x, grad)
    assert spikes.dtype == g_x.dtype == dtype
    assert torch.equal(spikes.float(), expected[0])
    torch.testing.assert_close(g_x.float(), expected[1], rtol=torch.finfo(dtype).eps, atol=2e-6)


def test_any_memory_format(device):
    """channels_last, a transposed view with gaps, and one frame shown T times (stride 0) give the same numbers."""
    frames, grad = current((3, 4, 5, 6)).to(device), current((5, 3, 4, 5, 6), seed=1).to(device)
    static = frames.expand(5, *frames.shape)
    expected = run(build_neuron("CLIF", backend="reference"), static.contiguous(), grad)
    last = frames.to(memory_format=torch.channels_last).expand(5, *frames.shape)
    with_gaps = torch.stack([frames, frames], -1).expand(5, *frames.shape, 2)[..., 0]
    for x in (static, last, with_gaps):
        leaf = x.detach().requires_grad_()
        spikes = build_neuron("CLIF", backend="triton")(leaf)
        (g_x,) = torch.autograd.grad(spikes, leaf, grad)
        assert torch.equal(spikes, expected[0])
        assert_same_gradient(g_x, expected[1])


NORM_CASES = [case for case in NEURON_CASES if "channels" not in case[1]] + [("KLIF", {"channels": 70})]
KINDS = ["per step", "merged", "static", "running"]


def normed(name, options, kind, backend, dtype, x, grad):
    """Spikes, and gradients and running statistics, of a norm and the neuron behind it."""
    T, C = x.shape[0], x.shape[2]
    norm = BatchNorm2d(C, merged=kind == "merged").to(x.device)
    torch.manual_seed(0)
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.normal_()
    norm.to(dtype)
    if kind == "running":
        norm(x.to(dtype))
        norm.eval().zero_grad()
    neuron = build(name, T, **options, backend=backend, keep_state=False).to(x.device, dtype)
    leaf = x[:1].to(dtype).requires_grad_() if kind == "static" else x.to(dtype).requires_grad_()
    spikes = norm_and_fire(norm, neuron, leaf.expand(x.shape))
    spikes.backward(grad.to(dtype))
    learned = [weight.grad for weight in neuron.parameters()]
    statistics = [norm.running_mean, norm.running_var]
    return spikes.detach(), [leaf.grad, norm.weight.grad, norm.bias.grad, *learned, *statistics]


@pytest.mark.parametrize(("case", "kind", "T"), sampled(NORM_CASES, KINDS, LENGTHS, every=8))
def test_norm_and_fire_matches_norm_then_fire(case, kind, T, device):
    """Gradients may be off by as much as float32's own under autograd are (ILIF's, at T = 33, by half a percent)."""
    name, options = case
    shape = (T, 2, 70, 2, 3)
    if T == 33:  # the interpreter's time is that of the programs: two along the rows, or along the columns too
        shape = (T, 1, 70, 1, 3) if "channels" in options else (T, 11, 3, 1, 3)
    x, grad = 2 * current(shape).to(device) + 0.7, current(shape, seed=1).to(device)
    options = options_of(name, options, surrogate="sigmoid")  # without an edge
    expected_spikes, expected = normed(name, options, kind, "reference", torch.float64, x, grad)
    _, narrow = normed(name, options, kind, "reference", torch.float32, x, grad)
    spikes, found = normed(name, options, kind, "triton", torch.float32, x, grad)
    same = spikes.double() == expected_spikes
    assert (~same).sum() <= 2  # one rounding from the threshold
    if same.all():
        for ours, theirs, reference in zip(found, narrow, expected, strict=True):
            error, allowed = ((each.double() - reference).abs().max() for each in (ours, theirs))
            assert error <= 2 * allowed + 5e-5 * reference.abs().max()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("T", [1, 6])
def test_running_statistics_follow_the_reference(T, merged, device):
    """Of several programs, of one frame for all steps, of a longer sequence than before, of n on the device."""
    norms = {backend: BatchNorm2d(70, merged=merged).to(device) for backend in ("reference", "triton")}
    many = torch.tensor(12.0, dtype=torch.float64, device=device)
    for seed, (steps, n) in enumerate([(T, 2), (T, 30), (1, many), (T + 2, 3)]):
        torch.manual_seed(seed)
        mean, var = torch.randn(steps, 70, device=device), torch.rand(1, 70, device=device).expand(steps, 70)
        for backend, norm in norms.items():
            norm.momentum = 0.1 + 0.3 * seed
            norm.track(mean, var, n, backend)
    theirs, ours = (norm.state_dict() for norm in norms.values())
    assert ours.keys() == theirs.keys()
    assert ours["num_batches_tracked"] == 3 * T + 3
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_norm_and_fire_in_bfloat16_rounds_once(device):
    """On the same rounded input the fused pair fires where float32 does: y is never rounded to bfloat16."""
    x = current((4, 3, 16, 5, 5)).bfloat16().to(device)
    fused = norm_and_fire(BatchNorm2d(16).to(device), build_neuron("CLIF", backend="triton", keep_state=False), x)
    norm = BatchNorm2d(16).to(device)
    plain = build_neuron("CLIF", backend="reference", keep_state=False)(norm(x.float()))
    assert fused.dtype == torch.bfloat16
    assert torch.equal(fused.float(), plain)


@pytest.mark.slow
@pytest.mark.parametrize("T", [6, 10])
def test_sums_are_the_same_every_time_and_of_all_programs(T, device, monkeypatch):
    """Several programs, each of several tiles; one program alone adds up the same numbers in another order."""
    x = current((T, 5, 70, 2, 3)).to(device)
    neuron = build("PLIF", None, backend="triton", keep_state=False).to(device)
    x, grad = (each.movedim(2, -1).contiguous().movedim(-1, 2) for each in (x, current(x.shape, seed=1).to(device)))
    dynamics, kernels = neuron.dynamics(), load_kernels("triton")
    table = parameter_table(dynamics, neuron.learned_values()).detach()
    norm = tuple(1 + 0.1 * current((T, 70), seed=seed).to(device) for seed in (2, 3))

    def sums():
        inputs = Inputs(dynamics, x, table, norm=norm)
        _, _, saved = kernels.forward(inputs, False, True)
        _, g_table, _, of_norm = kernels.backward(inputs, saved, grad, ())
        return [g_table, *of_norm, *kernels.statistics(x)]

    several = sums()
    assert all(map(torch.equal, several, sums()))
    monkeypatch.setattr(triton_launch, "shared_among", lambda tiles, columns, device, most=1: (1, tiles))
    for one, other in zip(several, sums(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("shape", [(6, 256, 64, 32, 33), (6, 2048, 64, 128, 128), (6, 1, 70_000, 1, 1)], ids=str)
@pytest.mark.parametrize("channels", [False, True])
def test_grids_of_large_frames_fit_a_gpu(shape, channels):
    """A grid's second and third axes end at 65,535, which the interpreter does not know."""
    frame = Frame.of(torch.empty(shape, device="meta"), channels)
    tile = FORWARD[frame.flat].over(frame)
    across, down = frame.tiles(tile)
    grid = frame.grid(tile, down)
    assert all(n <= most for n, most in zip(grid, MOST_PROGRAMS, strict=True))
    assert grid[0] * grid[1] * grid[2] >= across * down
    assert grid[0] * grid[1] * grid[2] * tile.rows * tile.columns >= frame.size
    assert (grid[1] - 1) * grid[2] < down  # hardly more than it takes


def test_a_grid_that_no_gpu_has_is_refused():
    with pytest.raises(ValueError, match="combine_kernel needs a grid"):
        launch(combine_kernel, (1, 70_000, 1))


def test_an_empty_batch_gives_empty_spikes(device):
    x = torch.empty(4, 0, 3, device=device).requires_grad_()
    spikes = build_neuron("CLIF", backend="triton", keep_state=False)(x)
    spikes.sum().backward()
    assert spikes.shape == x.grad.shape == x.shape


@pytest.mark.parametrize("T", range(1, 70))
def test_chunks_are_as_few_as_can_be_and_even(T):
    K = chunk_length(T)
    assert K <= 8
    assert -(-T // K) == -(-T // 8)
