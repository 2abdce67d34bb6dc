"""Gradients through time cut after k steps, and split by lag: against the step functions under autograd."""

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from figures.gradient_by_lag import gradient_flow
from models import build_model
from neurons import LIF, build_neuron
from neurons.ops import gradient_by_lag
from neurons.surrogate import SURROGATES
from utils.loss import bptt_loss

NEURON_CASES = [("LIF", None), ("LIF", 0.0), ("LIF", -0.1), ("PLIF", None), ("PLIF", 0.1), ("CLIF", None)]
CLOSE = {"rtol": 1e-10, "atol": 1e-13}
SHAPE = (2, 3, 2, 2)


def drive(T, shape=SHAPE, seed=0):
    """Input current and ∂L/∂s [T, …], float64, with every regime of the neurons in it."""
    generator = torch.Generator().manual_seed(seed)
    x = 1.2 * torch.randn(T, *shape, dtype=torch.float64, generator=generator) + 0.4
    return x, torch.randn(T, *shape, dtype=torch.float64, generator=generator)


def build(name, v_reset, surrogate="rectangle", alpha=1.0, tau=1.7, **options):
    return build_neuron(name, v_reset=v_reset, surrogate=surrogate, alpha=alpha, tau=tau, **options).double()


def by_brute_force(neuron, x, grad, k):
    """[k, T, …]: (j, t) is what the spike of step t + j alone sends to the input of step t, and the same for w.

    For each step t′ the k steps that end with it are run again from detached states, and its spike alone is
    differentiated: no gradient can reach further back.
    """
    T = len(x)
    states, trajectory = neuron.materialize_states((x,), tuple(neuron._memories_rv.values()), "m"), []
    for x_t in x:
        trajectory.append(states)
        _, *states = neuron.advance(x_t, *states)
    by_lag, g_w = torch.zeros(k, *x.shape, dtype=x.dtype), 0.0
    weights = list(neuron.parameters())
    for last in range(T):
        first = max(0, last - k + 1)
        states = [state.detach() for state in trajectory[first]]
        window = x[first : last + 1].detach().clone().requires_grad_()
        for x_t in window:
            spike, *states = neuron.advance(x_t, *states)
        g_x, *g_weights = torch.autograd.grad(spike, [window, *weights], grad[last])
        for t in range(first, last + 1):
            by_lag[last - t, t] = g_x[t - first]
        g_w += sum(g.item() for g in g_weights)
    return by_lag, g_w


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
@pytest.mark.parametrize(("T", "k"), [(1, 1), (6, 1), (6, 2), (6, 3), (6, 6), (9, 4)])
def test_windowed_gradient_is_that_of_brute_force(T, k, name, v_reset, surrogate):
    x, grad = drive(T)
    neuron = build(name, v_reset, surrogate, alpha=0.8, keep_state=False, bptt_k=k)
    by_lag, g_w = by_brute_force(neuron, x, grad, k)
    x = x.requires_grad_()
    spikes = neuron(x)
    assert torch.equal(spikes, build(name, v_reset, surrogate, alpha=0.8)(x))
    spikes.backward(grad)
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(x.grad, by_lag.sum(0), **CLOSE)
    if name == "PLIF":
        assert neuron.w.grad.item() == pytest.approx(g_w, rel=1e-9)


@pytest.mark.parametrize("lags", [1, 3, 7])
@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
def test_each_lag_is_that_of_brute_force(name, v_reset, lags):
    x, grad = drive(7)
    neuron = build(name, v_reset)
    ours = gradient_by_lag(x, grad, neuron.dynamics(), neuron.learned_values(), lags=lags).detach()
    expected, _ = by_brute_force(neuron, x, grad, lags)
    torch.testing.assert_close(ours, expected, **CLOSE)
    assert all(ours[j, : 7 - j].abs().sum() > 0 for j in range(min(lags, 4)))  # LIF's sixth has vanished
    assert all(ours[j, 7 - j :].abs().sum() == 0 for j in range(lags))


@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
def test_lags_sum_to_autograd(name, v_reset):
    x, grad = drive(12)
    neuron = build(name, v_reset, step_mode="s")
    x.requires_grad_()
    spikes = torch.stack([neuron(x_t) for x_t in x])
    spikes.backward(grad)
    parts = gradient_by_lag(x.detach(), grad, neuron.dynamics(), neuron.learned_values()).detach()
    assert parts.shape == (12, *x.shape)
    torch.testing.assert_close(parts.sum(0), x.grad, rtol=1e-10, atol=1e-12)


def test_what_clif_carries_by_u_alone_is_lifs_recursion():
    """M1: Π γ(1 − (V_th + σ(m))·H) between the two steps, written out."""
    x, grad = drive(6)
    neuron = build("CLIF", None, tau=2.0)
    by_u = gradient_by_lag(x, grad, neuron.dynamics(), cut=("m",))
    u = m = torch.zeros(SHAPE, dtype=torch.float64)
    hs, epsilons = [], []
    for x_t in x:
        charged = 0.5 * u + x_t
        _, u, m = neuron.advance(x_t, u, m)
        h = ((charged - 1).abs() <= 0.5).double()
        hs.append(h)
        epsilons.append(0.5 * (1 - (1 + m.sigmoid()) * h))
    for t in range(6):
        for j in range(6 - t):
            product = torch.ones(SHAPE, dtype=torch.float64)
            for between in range(t, t + j):
                product = product * epsilons[between]
            torch.testing.assert_close(by_u[j, t], grad[t + j] * hs[t + j] * product, **CLOSE)
    whole = gradient_by_lag(x, grad, neuron.dynamics())
    torch.testing.assert_close(whole[0], by_u[0], **CLOSE)
    assert (whole[1:] - by_u[1:]).abs().sum() > 0


def test_spikes_that_are_a_state_too_meet_the_layers_above_with_the_state_cut():
    """GLIF's reset reads the last spikes: cut, they are constants to the next step, and spikes all the same."""
    x, grad = drive(5)
    neuron = build_neuron("GLIF", T=5, surrogate="sigmoid").double()
    learned, dynamics = neuron.learned_values(), neuron.dynamics()
    by_u = gradient_by_lag(x, grad, dynamics, learned, cut=("fired",)).detach()
    u = fired = torch.zeros(SHAPE, dtype=torch.float64)
    spikes, x = [], x.requires_grad_()
    for x_t, conduct in zip(x, neuron.conduct, strict=True):
        s, u, fired = dynamics.advance(x_t, u, fired.detach(), *learned[:-1], conduct)
        spikes.append(s)
    (expected,) = torch.autograd.grad(torch.stack(spikes), x, grad)
    torch.testing.assert_close(by_u.sum(0), expected, **CLOSE)
    whole = gradient_by_lag(x.detach(), grad, dynamics, learned)
    torch.testing.assert_close(whole[0], by_u[0], **CLOSE)
    assert (whole[1] - by_u[1]).abs().sum() > 0


@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
@pytest.mark.parametrize("k", [6, 50])
def test_a_window_over_all_steps_is_full_bptt(name, v_reset, k):
    x, grad = drive(6)
    gradients = []
    for bptt_k in (None, k):
        neuron = build(name, v_reset, keep_state=False, backend="reference", bptt_k=bptt_k)
        leaf = x.clone().requires_grad_()
        neuron(leaf).backward(grad)
        gradients.append([leaf.grad, *[w.grad for w in neuron.parameters()]])
    for cut, full in zip(*gradients, strict=True):
        torch.testing.assert_close(cut, full, **CLOSE)


@pytest.mark.parametrize(("name", "v_reset"), NEURON_CASES)
def test_states_go_on_and_their_gradient_does_not(name, v_reset):
    x, grad = drive(8)
    whole, cut = build(name, v_reset), build(name, v_reset, bptt_k=2)
    first, second = x[:4].clone().requires_grad_(), x[4:].clone().requires_grad_()
    spikes = [cut(first), cut(second)]
    assert torch.equal(torch.cat(spikes), whole(x))
    for name_of in cut._memories:
        assert torch.equal(getattr(cut, name_of), getattr(whole, name_of))
        assert not getattr(cut, name_of).requires_grad
    spikes[1].backward(grad[4:])
    assert first.grad is None
    assert second.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF", "ILIF"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 6])
def test_no_gradient_passes_from_one_call_to_the_next_however_short_they_are(name, chunk):
    neuron, (x, _) = build(name, None, "atan", bptt_k=3), drive(6)
    x = x.requires_grad_()
    spikes = torch.cat([neuron(part) for part in x.split(chunk)])
    (g_x,) = torch.autograd.grad(spikes[-1].sum(), x)
    reached = (g_x != 0).flatten(1).any(1).tolist()
    assert reached == [t >= 6 - min(chunk, 3) for t in range(6)]


def test_half_precision_and_memory_formats():
    x, grad = drive(6, (2, 4, 3, 3))
    x, grad = x.bfloat16(), grad.bfloat16()
    frames = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    gradients = []
    for current in (x.float(), x, frames, x[:1].expand(6, 2, 4, 3, 3)):
        leaf = current.detach().requires_grad_()
        spikes = build_neuron("CLIF", keep_state=False, bptt_k=2)(leaf)
        assert spikes.dtype == current.dtype
        spikes.backward(grad.to(spikes.dtype))
        gradients.append(leaf.grad.float())
    one_rounding = {"rtol": torch.finfo(torch.bfloat16).eps, "atol": 1e-6}
    torch.testing.assert_close(gradients[1], gradients[0], **one_rounding)
    torch.testing.assert_close(gradients[2], gradients[1], **one_rounding)
    assert gradients[3].shape == x.shape


def test_a_network_takes_it_to_every_neuron():
    x_seq = torch.randn(6, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = {}
    for k in (None, 1, 3, 6):
        torch.manual_seed(0)
        net = build_model("snn5_noAP", "LIF", bptt_k=k).double()
        net(x_seq).pow(2).sum().backward()
        gradients[k] = [w.grad for w in net.parameters()]
        assert k is None or net.computed_by(torch.device("cpu")) == "backend reference"
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(gradients[6], gradients[None], strict=True))
    last = -2  # the classifier reads spikes, which no k changes
    assert torch.equal(gradients[1][last], gradients[None][last])
    for k in (1, 3):
        assert not torch.allclose(gradients[k][0], gradients[None][0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bptt_k": 0}, "must be a whole number of 1 or more, not 0"),
        ({"bptt_k": 1.5}, "must be a whole number of 1 or more, not 1.5"),
        ({"bptt_k": 2, "backend": "compile"}, "backend compile was asked for"),
        ({"bptt_k": 2, "backend": "triton"}, "backend triton was asked for"),
        ({"bptt_k": 2, "surrogate": torch.sigmoid}, "not with one of your own"),
    ],
)
def test_what_it_cannot_do_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build_neuron("LIF", **options)


def test_single_steps_are_refused():
    neuron = build_neuron("CLIF", bptt_k=2)
    functional.set_step_mode(neuron, "s")
    with pytest.raises(ValueError, match="step mode s"):
        neuron(torch.zeros(2, 3))


def test_relu_is_refused():
    with pytest.raises(ValueError, match="bptt_k works with LIF, PLIF, CLIF, KLIF, GLIF and ILIF, not with relu"):
        build_neuron("relu", bptt_k=2)


def test_a_neuron_that_runs_more_than_once_is_not_split():
    """The last of its runs alone would be."""
    net = build_model("mlp3", "LIF", in_channels=1, input_size=4).double()
    x_seq, target = torch.rand(3, 3, 1, 4, 4).double(), torch.tensor([0, 1, 2])
    twice = nn.Sequential(nn.Linear(4, 4), LIF(keep_state=False)).double()
    with pytest.raises(ValueError, match="1 runs more than once"):
        gradient_flow(nn.Sequential(*twice, *twice), x_seq.flatten(2)[..., :4], target, bptt_loss)
    functional.set_step_mode(net, "s")
    with pytest.raises(ValueError, match=r"features\.0\.act runs more than once"):
        gradient_flow(net, x_seq, target, bptt_loss)
