"""A neuron's step is its only description: change it and every back end follows; write one and it runs fused."""

import inspect
import subprocess
import time
import warnings
from functools import cache

import pytest
import torch

from neurons import CLIF, GLIF, LIF, NEURONS, PSN, SpikingNeuron, base, build_neuron, clif
from neurons.ops import DerivationError, backends, gradient_by_lag
from neurons.ops.c_build import compiler
from tests.helpers import ROOT

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")
BACKENDS = ["reference", pytest.param("c", marks=needs_compiler)]
# of clif_step: a threshold, a sign
CHANGES = [("spike(u - v_threshold)", "spike(u - 0.7 * v_threshold)"), ("sigmoid() + s\n", "sigmoid() - s\n")]


def changed_step(old, new):
    text = inspect.getsource(clif.clif_step)
    assert text.count(old) == 1
    namespace = dict(vars(clif))
    exec(text.replace(old, new), namespace)
    return staticmethod(namespace["clif_step"])


def current(*shape, seed=0):
    return 0.3 + 1.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient(neuron, x, grad):
    leaf = x.clone().requires_grad_()
    spikes = neuron(leaf)
    return spikes.detach(), *torch.autograd.grad(spikes, leaf, grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_step_changes_every_back_end(change, backend, monkeypatch):
    x, grad = current(6, 4, 50), current(6, 4, 50, seed=1)
    before = gradient(CLIF(backend=backend, keep_state=False), x, grad)
    monkeypatch.setattr(CLIF, "step", changed_step(*change))
    steps = CLIF(step_mode="s")
    states, spikes, leaf = [torch.zeros(4, 50).double()] * 2, [], x.double().requires_grad_()
    for c in leaf:
        s, *states = CLIF.step(c, *states, 2.0, 1.0, steps.dynamics().spike)
        spikes.append(s)
    expected = torch.stack(spikes)
    (g_x,) = torch.autograd.grad(expected, leaf, grad.double())
    after = gradient(CLIF(backend=backend, keep_state=False), x, grad)
    assert torch.equal(after[0].double(), expected)
    torch.testing.assert_close(after[1].double(), g_x, rtol=1e-4, atol=1e-5)
    assert not torch.equal(after[1], before[1])
    by_lag = gradient_by_lag(x.double(), grad.double(), steps.dynamics())
    torch.testing.assert_close(by_lag.sum(0), g_x)


def test_each_neurons_dynamics_stand_once():
    """Of each paper's equations, the one that no other neuron has."""
    for words in ("m * (u / tau).sigmoid() + s", "(k * ((1 - 1 / tau) * v + c)).relu()", "decay * (i + c * s)",
                  "gamma * (u - v_reset) + c", "(1 - b * (1 - conduct.sigmoid())) * c"):  # fmt: skip
        found = subprocess.run(
            ["git", "grep", "-n", "-F", words, "--", "neurons"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert found.stdout.count("\n") == 1, found.stdout or words


def integrate_step(c, u, v_threshold, spike):
    u = u + c
    s = spike(u - v_threshold)
    return s, u - v_threshold * s


class IF(SpikingNeuron):
    """CONTRIBUTING's neuron."""

    step, states, options = staticmethod(integrate_step), {"v": 0.0}, ("v_threshold",)


def adaptive_step(c, u, a, tau, v_threshold, rise, spike):
    """A spike raises the threshold by ``rise``, and the rise decays by a tenth a step."""
    u = (1 - 1 / tau) * u + c
    threshold = v_threshold + rise * a
    s = spike(u - threshold)
    return s, u - s * threshold, 0.9 * a + s


class AdaptiveLIF(SpikingNeuron):
    """LIF with an adaptive threshold; states ``v`` = u and ``a``."""

    step, states = staticmethod(adaptive_step), {"v": 0.0, "a": 0.0}
    options, settings = ("tau", "v_threshold"), ("tau", "v_threshold", "rise")
    rise = 0.2


@needs_compiler
@pytest.mark.parametrize("neuron", [IF, AdaptiveLIF])
def test_a_neuron_of_ones_own_runs_fused_on_the_cpu(neuron):
    x, grad = current(6, 32, 4096), current(6, 32, 4096, seed=1)
    fused, loop = neuron(keep_state=False), neuron(keep_state=False, backend="reference")
    started = time.perf_counter()
    assert fused.backend_for(x) == "c"
    found = gradient(fused, x, grad)
    first = time.perf_counter() - started
    expected = gradient(loop.double(), x.double(), grad.double())
    loop.float()
    same = (found[0].double() == expected[0]).all(0)  # neurons none of whose spikes is one rounding from its threshold
    assert same.float().mean() > 0.9999
    torch.testing.assert_close((found[1] * same).double(), expected[1] * same, rtol=1e-3, atol=1e-4)
    seconds = {}
    for _ in range(5):
        for each in (fused, loop):
            started = time.thread_time()
            gradient(each, x, grad)
            seconds.setdefault(each, []).append(time.thread_time() - started)
    quickest = {each: min(times) for each, times in seconds.items()}
    print(f"{neuron.__name__}: {quickest[loop] / quickest[fused]:.1f} × the speed of its steps under autograd, "
          f"both ways; its first use took {first:.1f} s")  # fmt: skip
    assert quickest[fused] < quickest[loop]


def too_few(c, u, spike):
    return (spike(u + c),)


def sums(c, u, spike):
    u = u.cumsum(-1) + c
    return spike(u), u


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (too_few, "returns 1 values; it must return 2 tensors: spikes, v"),
        (sums, "uses cumsum, which has no point-wise"),
    ],
)
def test_a_step_that_cannot_be_derived_is_told_why_and_falls_back_only_if_asked(step, words):
    neuron = type("Odd", (SpikingNeuron,), {"step": staticmethod(step), "states": {"v": 0.0}})
    x = current(3, 2, 5)
    if compiler() is not None:
        with pytest.raises(ValueError, match=words) as error:
            neuron()(x)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, DerivationError) == (step is sums)
    if step is sums:
        assert neuron(backend="reference")(x).shape == x.shape
    else:
        with pytest.raises(ValueError, match=words):
            neuron(backend="reference")(x)


def test_declarations_say_what_a_neuron_takes():
    assert [name for name, neuron in NEURONS.items() if neuron.takes("v_reset")] == ["LIF", "PLIF"]
    assert [name for name, neuron in NEURONS.items() if neuron.takes("T")] == ["GLIF", "PSN"]
    assert [name for name, neuron in NEURONS.items() if not neuron.takes("bptt_k")] == ["PSN", "relu"]
    with pytest.raises(ValueError, match="CLIF takes no v_reset"):
        CLIF(v_reset=0.0)
    with pytest.raises(ValueError, match="detach_reset works with LIF and PLIF, not with CLIF"):
        build_neuron("CLIF", detach_reset=True)
    with pytest.raises(TypeError, match="has two of s"):
        type("Twice", (SpikingNeuron,), {"step": staticmethod(sums), "states": {"s": 0.0}})
    with pytest.raises(ValueError, match="GLIF has weights for each time step: it needs T"):
        GLIF()
    assert not PSN.takes("backend")


def test_the_literatures_convention_is_an_option():
    """c/τ charges, and no gradient passes the reset: SpikingJelly's default LIF."""
    from spikingjelly.activation_based import neuron, surrogate

    theirs = neuron.LIFNode(
        tau=3.0, v_reset=-0.2, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
    )
    ours = LIF(3.0, v_reset=-0.2, surrogate="atan", decay_input=True, detach_reset=True)
    x, grad = 2 * current(5, 4, 30).double(), current(5, 4, 30, seed=1).double()
    theirs.v = torch.full((4, 30), -0.2, dtype=torch.float64)
    for one, other in zip(gradient(ours, x, grad), gradient(theirs, x, grad), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_without_a_compiler_it_is_said_once_with_the_remedy(monkeypatch):
    backends.WARNED.clear()
    monkeypatch.setattr(backends, "why_not", lambda backend: "backend c wants a C compiler: install gcc or clang")
    monkeypatch.setattr(base, "chosen_backend", cache(backends.choose_backend))  # none chosen yet
    x = current(3, 2, 5)
    with pytest.warns(UserWarning, match=r"install gcc or clang.*reference, which is slower") as said:
        assert [CLIF().backend_for(x) for _ in range(3)] == ["reference"] * 3
    assert len(said) == 1
    with pytest.raises(ValueError, match="backend c wants a C compiler"):
        CLIF(backend="c")(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CLIF(backend="reference")(x)


@pytest.mark.parametrize("change", [{"v": torch.zeros(2, 6)}, {"v": torch.zeros(2, 5).double()}])
def test_states_of_another_frame_are_named(change):
    neuron = CLIF()
    neuron(current(3, 2, 5))
    for name, value in change.items():
        setattr(neuron, name, value)
    with pytest.raises(ValueError, match=r"^state v is .*reset_net"):
        neuron(current(3, 2, 5))
