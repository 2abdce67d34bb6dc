"""Neurons against literal traces, in both step modes; and what holds of each of them, and of every back end."""

import pytest
import torch
from spikingjelly.activation_based import functional

from neurons import LIF, NEURONS, SpikingNeuron, build_neuron, lif_step, taking
from neurons.surrogate import SURROGATES, spike_function
from tests.golden import read_golden
from tests.test_states import BACKENDS, CASES, current

TRACES = read_golden("neuron_traces")


def trace_id(case):
    return f"{case['neuron']}-{case['surrogate']}-tau{case['tau']}-reset{case['v_reset']}"


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("case", TRACES, ids=trace_id)
def test_matches_literal_trace(case, step_mode):
    neuron = build_neuron(
        case["neuron"],
        tau=case["tau"],
        v_threshold=case["v_threshold"],
        v_reset=case["v_reset"],
        surrogate=case["surrogate"],
        step_mode=step_mode,
    ).double()
    if case["neuron"] == "PLIF":
        assert neuron.w.item() == pytest.approx(case["w"], abs=1e-7)
        neuron.w.data.fill_(case["w"])
    x = tensor(case["x"]).requires_grad_()
    close = {"rtol": 1e-9, "atol": 1e-12}

    if step_mode == "s":
        spikes, v = [], []
        for x_t in x:
            spikes.append(neuron(x_t))
            v.append(neuron.v)
        spikes = torch.stack(spikes)
        torch.testing.assert_close(torch.stack(v).detach(), tensor(case["v"]), **close)
    else:
        spikes = neuron(x)
        torch.testing.assert_close(neuron.v.detach(), tensor(case["v"])[-1], **close)
        if case["neuron"] == "CLIF":
            torch.testing.assert_close(neuron.m.detach(), tensor(case["m"])[-1], **close)
    assert torch.equal(spikes.detach(), tensor(case["spikes"]))

    (spikes * tensor(case["grad_spikes"])).sum().backward()
    torch.testing.assert_close(x.grad, tensor(case["grad_x"]), **close)
    if case["neuron"] == "PLIF":
        assert neuron.w.grad.item() == pytest.approx(case["grad_w"], rel=1e-9)


@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
def test_state_is_carried_until_reset_or_never_kept(name):
    x = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0)) * 2
    carried, fresh = build_neuron(name), build_neuron(name, keep_state=False)
    first, second = carried(x), carried(x)
    assert not torch.equal(first, second)
    functional.reset_net(carried)
    assert torch.equal(carried(x), first)
    assert torch.equal(fresh(x), first)
    assert torch.equal(fresh(x), first)
    assert fresh.v == 0.0


@pytest.mark.parametrize("name", ["LIF", "PLIF"])
@pytest.mark.parametrize("keep_state", [True, False])
def test_a_reset_value_that_is_set_later_is_where_states_start(name, keep_state):
    x = current((4, 10))
    made = build_neuron(name, v_reset=-0.5, keep_state=keep_state)
    later = build_neuron(name, v_reset=0.25, keep_state=keep_state)
    step_by_step = build_neuron(name, step_mode="s")
    later.v_reset = step_by_step.v_reset = -0.5
    wanted = made(x)
    assert torch.equal(later(x), wanted)
    assert torch.equal(torch.stack([step_by_step(c) for c in x]), wanted)
    for neuron in (later, step_by_step):
        neuron.reset()
        assert neuron.v == -0.5
        neuron.v_reset = None
        assert neuron.v == 0.0


def test_a_sequence_of_single_numbers_is_one_too():
    x = torch.rand(4, 1, generator=torch.Generator().manual_seed(0)) * 2
    for name in ("LIF", "CLIF", "PSN"):
        neuron = build_neuron(name, keep_state=False, **({"T": 4} if name == "PSN" else {}))
        assert torch.equal(neuron(x[:, 0]), neuron(x)[:, 0])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="did you mean CLIF"):
        build_neuron("CLlF")
    with pytest.raises(ValueError, match="tau must be > 1"):
        build_neuron("LIF", tau=1.0)
    with pytest.raises(ValueError, match="CLIF has no reset value"):
        build_neuron("CLIF", v_reset=0.0)
    with pytest.raises(ValueError, match="unknown surrogate"):
        build_neuron("LIF", surrogate="rectangel")
    with pytest.raises(TypeError):
        build_neuron("LIF", taw=2.0)


@pytest.mark.parametrize("surrogate", [None, 3, SURROGATES])
@pytest.mark.parametrize("name", [name for name in NEURONS if name != "relu"])
def test_a_surrogate_is_a_name_or_a_function(name, surrogate):
    with pytest.raises(ValueError, match="surrogate must be a name or a function"):
        build_neuron(name, surrogate=surrogate, T=3)


@pytest.mark.parametrize(
    ("surrogate", "alpha"), [("rectangle", 1.0), ("triangle", 0.5), ("sigmoid", 2.0), ("atan", 0.05)]
)
def test_surrogate_derivative_integrates_to_one(surrogate, alpha):
    from neurons.surrogate import spike_function

    x = torch.linspace(-60, 60, 600_001, dtype=torch.float64, requires_grad=True)
    spike_function(surrogate, alpha)(x).sum().backward()
    assert torch.trapezoid(x.grad, x.detach()).item() == pytest.approx(1.0, rel=1e-3)


def test_auto_never_switches_silently():
    x = torch.rand(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="backend triton has float32"):
        build_neuron("CLIF", backend="triton")(x)
    with pytest.raises(ValueError, match="unknown backend"):
        build_neuron("CLIF", backend="tritn")


class Twitchy(LIF):
    """LIF with a step of its own."""

    @staticmethod
    def step(c, u, gamma, v_threshold, v_reset, spike, decay_input, detach_reset):
        return lif_step(c + 0.3, u, 0.5, v_threshold, v_reset, spike)


def test_a_step_of_one_s_own_is_what_runs_over_a_sequence():
    x = torch.rand(6, 2, 3)
    neuron = Twitchy(keep_state=False)
    steps = Twitchy(step_mode="s")
    assert torch.equal(neuron(x), torch.stack([steps(c) for c in x]))
    assert not torch.equal(neuron(x), LIF(keep_state=False)(x))


@pytest.mark.parametrize("backend", [*BACKENDS, "windowed"])
@pytest.mark.parametrize("keep_state", [True, False])
@pytest.mark.parametrize(("name", "v_reset"), CASES)
def test_spikes_may_be_changed_in_place(name, v_reset, keep_state, backend):
    """No back end keeps spikes for its backward: the gradient is that of the same change out of place."""
    options = {"bptt_k": 1} if backend == "windowed" else {"backend": backend}
    gradients = []
    for change in (lambda s: s.mul_(3).add_(1), lambda s: s * 3 + 1):
        neuron = build_neuron(name, v_reset=v_reset, keep_state=keep_state, **options)
        x = current((4, 10)).requires_grad_()
        changed = change(neuron(x))
        (changed * changed).sum().backward()
        gradients.append((x.grad, *(w.grad for w in neuron.parameters())))
    assert gradients[0][0].any()
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_neuron_without_states_runs_in_every_way(dtype):
    threshold = type(
        "Threshold", (SpikingNeuron,), {"states": {}, "step": staticmethod(lambda c, spike: (spike(c - 1),))}
    )
    x = (torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2).to(dtype)
    for options in ({"backend": "c"}, {"backend": "reference"}, {"bptt_k": 1}, {"keep_state": False}):
        y = threshold(**options)(x.requires_grad_())
        y.sum().backward()
        assert torch.equal(y, (x >= 1).to(dtype))
    step_by_step = threshold(step_mode="s")
    assert torch.equal(torch.stack([step_by_step(c) for c in x]), (x >= 1).to(dtype))


# -- the spike itself, where random inputs never come: at the threshold to the last bit


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_zero_fires_and_what_is_below_does_not(surrogate):
    below = -torch.finfo(torch.float32).tiny
    assert spike_function(surrogate)(torch.tensor([0.0, -0.0, below])).tolist() == [1, 1, 0]


@pytest.mark.parametrize("step_mode", ["s", "m reference", "m c", "m torch", "m compile"])
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
def test_a_membrane_at_the_threshold_fires(name, step_mode):
    """u[0] = 1 = V_th fires, whatever computes it; one rounding less does not."""
    mode, _, backend = step_mode.partition(" ")
    neuron = build_neuron(name, step_mode=mode, backend=backend or "auto")
    c = torch.tensor([1.0, 1 - 2**-24])  # [N]
    spikes = neuron(c) if mode == "s" else neuron(c[None])[0]
    assert spikes.tolist() == [1, 0]


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_a_surrogate_has_a_width(alpha):
    with pytest.raises(ValueError, match="width must be > 0 and finite"):
        build_neuron("CLIF", alpha=alpha)


@pytest.mark.parametrize("name", [name for name in NEURONS if name not in taking("channels")])
@pytest.mark.parametrize("channels", [0, 3])
def test_channels_are_refused_by_a_neuron_that_has_none(name, channels):
    """0 passed for "not asked"."""
    with pytest.raises(ValueError, match=rf"channels works with .*, not with {name}"):
        build_neuron(name, channels=channels, T=2)
