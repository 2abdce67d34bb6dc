"""A neuron's step and its derived derivative, in float64, against autograd through the unrolled step."""

import itertools
import math

import pytest
import torch

from neurons import build_neuron
from neurons.ops.derive import SAVE, derive
from neurons.ops.dynamics import Dynamics, Learned
from neurons.ops.graph import OPS, Graph, evaluate, inputs_of, ordered, reach
from neurons.ops.trace import DerivationError
from neurons.surrogate import SURROGATES

CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def leaky(c, u, gamma, spike):
    u = gamma * u + c
    s = spike(u - 1.0)
    return s, u - s


def complementary(c, u, m, tau, spike):
    u = (1 - 1 / tau) * u + c
    s = spike(u - 1.0)
    m = m * (u / tau).sigmoid() + s
    return s, u - s * (1.0 + m.sigmoid()), m


def odds_and_ends(c, u, a, w, k, spike):
    """Every kind of operation that a step may use."""
    f = torch.relu(k * torch.tanh(u)) + c.clamp(-2, 2) * w.sigmoid()
    s = spike(f - a.abs().sqrt() - 0.1)
    u = torch.where(f > 0.5, f - s.detach(), torch.minimum(f, c).exp() * 0.3) + (c / (1 + u.square())) ** 3
    return s, u, 0.9 * a - torch.maximum(a, f) * (f >= 0).to(f.dtype) * 0.1 + torch.sign(c) * 0.2


def with_copies(c, u, spike):
    out = u.clone()
    out *= 0.5
    out += c
    s = spike(out - torch.tensor(1.0, dtype=u.dtype))
    rises = (out - s).bool().to(u.dtype) * torch.tensor(2)
    return s, out * (1 - s) + torch.zeros_like(out) - 0.1 * s * rises


CASES = {
    "leaky": Dynamics("leaky", leaky, (("u", 0.0),), (), (("gamma", 0.5),)),
    "complementary": Dynamics("complementary", complementary, (("u", 0.0), ("m", 0.0)), (), (("tau", 1.7),)),
    "odds and ends": Dynamics("odds", odds_and_ends, (("u", 0.1), ("a", 0.0)), (Learned("w"), Learned("k"))),
    "with copies": Dynamics("copies", with_copies, (("u", -0.1),)),
}


def drive(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_graph(d, x, states, learned, g, g_last):
    """Spikes, last states, and the gradients of x, the states and the learned parameters, from the graphs alone."""
    of = d.inputs
    given = dict(zip(of(*(each.name for each in d.dynamics.learned)), learned, strict=True))
    names, spikes, kept = d.dynamics.state_names, [], []
    for c in x:
        now = {**dict(zip(of("c", *names), (c, *states), strict=True)), **given}
        s, *rest = evaluate((*d.forward, *d.saved), now)
        states = rest[: len(names)]
        spikes.append(s)
        kept.append(rest[len(names) :])
    g_x, g_states, sums = [], list(g_last), [torch.zeros(()).double()] * len(learned)
    for saved, g_s in zip(reversed(kept), reversed(g), strict=True):
        now = {**dict(zip(d.saved, saved, strict=True)), **given}
        now |= dict(zip(of("g_s", *(f"g_{n}" for n in names)), (g_s, *g_states), strict=True))
        g_c, *rest = evaluate(d.back, now)
        g_x.append(g_c)
        g_states = rest[: len(names)]
        sums = [a + b.sum() for a, b in zip(sums, rest[len(names) :], strict=True)]
    return [torch.stack(spikes), *states], [torch.stack(g_x[::-1]), *g_states, *sums]


@pytest.mark.parametrize("T", [1, 2, 6, 33])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("case", CASES)
def test_graphs_are_the_step_and_its_derivative(case, surrogate, T):
    dynamics = Dynamics(**{**vars(CASES[case]), "surrogate": surrogate, "alpha": 0.8})
    x = (0.4 + 1.2 * drive(T, 5, 7)).requires_grad_()
    states = [(0.2 + 0.3 * drive(5, 7, seed=i)).requires_grad_() for i, _ in enumerate(dynamics.states)]
    learned = [torch.tensor(0.3 + i, dtype=torch.float64, requires_grad=True) for i, _ in enumerate(dynamics.learned)]
    g, g_last = drive(T, 5, 7, seed=8), [drive(5, 7, seed=9 + i) for i, _ in enumerate(states)]
    after, spikes = states, []
    for c in x:
        s, *after = dynamics.advance(c, *after, *learned)
        spikes.append(s)
    expected = [torch.stack(spikes), *after]
    gradients = torch.autograd.grad(expected, [x, *states, *learned], [g, *g_last])
    found, derived = by_graph(derive(dynamics), x.detach(), [s.detach() for s in states], learned, g, g_last)
    assert torch.equal(found[0], expected[0])
    for one, other in zip([*found, *derived], [*expected, *gradients], strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_what_is_saved_is_as_little_as_can_be():
    saved = {case: len(derive(dynamics).saved) for case, dynamics in CASES.items()}
    assert saved["leaky"] == 1  # u before the reset
    assert saved["complementary"] == 4  # u, m[t − 1] and both sigmoids


def test_the_same_step_gives_the_same_graph_whatever_was_traced_before():
    """Nodes are numbered within a derivation: emitted code, and its cache, must not depend on history."""
    texts = []
    for _ in range(2):
        derive.cache_clear()
        d = derive(CASES["complementary"])
        texts.append([(n.number, n.op, [a.number for a in n.args]) for n in ordered((*d.forward, *d.back))])
        derive(CASES["odds and ends"])
    assert texts[0] == texts[1]


def test_a_state_may_be_cut_out_of_the_gradient():
    """With m cut, what remains is carried by u alone: m is a constant wherever it is used."""
    dynamics = CASES["complementary"]
    d = derive(dynamics, cut=("m",))
    c, u, m, g_s, g_u = (drive(40, seed=i) for i in range(5))
    leaves = [c.requires_grad_(), u.requires_grad_()]
    charged = (1 - 1 / 1.7) * u + c
    s = dynamics.spike(charged - 1.0)
    constant = (m * (charged / 1.7).sigmoid() + s).detach()
    expected = torch.autograd.grad([s, charged - s * (1.0 + constant.sigmoid())], leaves, [g_s, g_u])
    given = dict(zip(d.inputs("c", "u", "m", "g_s", "g_u"), (c, u, m, g_s, g_u), strict=True))
    g_c, g_before, g_m = evaluate(d.back, {**given, **dict(zip(d.inputs("g_m"), (g_s,), strict=True))})
    torch.testing.assert_close(g_c, expected[0], **CLOSE)
    torch.testing.assert_close(g_before, expected[1], **CLOSE)
    assert not g_m.any()


def test_simplification_is_exact():
    graph = Graph()
    u, w = graph.variable("u"), graph.variable("w")
    make = graph.make
    assert make("mul", 2.0, make("mul", u, 3.0)) is make("mul", 6.0, u)
    assert make("ge", make("sub", u, 1.0), 0.0) is make("ge", u, 1.0)
    assert make("sub", u, make("neg", w)) is make("add", w, u)
    assert make("div", u, 4.0) is make("mul", 0.25, u)
    assert make("mul", w, make("sub", 1.0, w)) is make("sub", w, make("mul", w, w))
    assert make("mul", 3.0, graph.indicator(make("gt", u, w))) is make("where", make("gt", u, w), 3.0, 0.0)


def too_few(c, u, m, spike):
    return spike(u + c), u


def sums(c, u, m, spike):
    return spike(u + c), u.cumsum(0), m


def branches(c, u, m, spike):
    return spike(u + c), u if u > 0 else c, m


def looks(c, u, m, spike):
    return spike(u + c), u * c.item(), m


def carries(c, u, m, spike):
    return spike(u + c), u * torch.ones(3, dtype=u.dtype), m


def floors(c, u, m, spike):
    return spike(u + c), torch.div(u, 2, rounding_mode="floor"), m


def unbinds(c, u, m, spike):
    return spike(u + c), u.unbind(0)[0].reshape(u.shape) * c, m


def counts(c, u, m, spike):
    return spike(u + c), (4 * u).int() / 4, m


def rounds(c, u, m, spike):
    return spike(u + c), (u + c).half().to(u.dtype), m


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (floors, "floors's step uses div with rounding_mode, which has no point-wise form"),
        (unbinds, "unbinds's step uses unbind, which returns several tensors"),
        (counts, "counts's step makes torch.int32 with _to_copy"),
        (rounds, "rounds's step makes torch.float16 with _to_copy"),
        (too_few, "too_few's step returns 2 values; it must return 3 tensors: spikes, u, m"),
        (sums, "sums's step uses cumsum, which has no point-wise form"),
        (branches, "branches's step looks at the values of tensors"),
        (looks, "looks's step looks at the values of tensors"),
        (carries, "carries's step uses"),
    ],
)
def test_a_step_that_cannot_be_derived_is_told_why(step, words):
    with pytest.raises(ValueError, match=words) as error:
        derive(Dynamics(step.__name__, step, (("u", 0.0), ("m", 0.0))))
    assert "\n" not in str(error.value)
    assert isinstance(error.value, DerivationError) == (step is not too_few)


def price_of(saved, derived):
    """What it costs to keep these values of a step and to compute the others again; infinite if it cannot be done."""
    of_step = {"c", *derived.dynamics.state_names}
    gradients = {"g_s", *(f"g_{state}" for state in derived.dynamics.state_names)}
    names = {n: inputs_of(n) for n in reach(*derived.back)}
    primal = {n for n, inputs in names.items() if inputs & of_step and not inputs & gradients}
    forward = reach(*derived.forward)
    price = sum(SAVE + sum(OPS[m.op].cost for m in ordered([n]) if m not in forward) for n in saved)
    seen = set(saved)
    todo = [n for n in primal if n in derived.back or any(n in user.args for user in names.keys() - primal)]
    while todo:
        node = todo.pop()
        if node in seen or node not in primal:
            continue
        if not node.args:
            return math.inf
        seen.add(node)
        price += OPS[node.op].cost
        todo.extend(node.args)
    return price


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF", "KLIF", pytest.param("ILIF", marks=pytest.mark.long)])
def test_no_other_values_cost_less_to_keep(name):
    derived = derive(build_neuron(name).dynamics())
    values = sorted((n for n in reach(*derived.back) if not n.is_mask and n.constant is None), key=lambda n: n.number)
    prices = [price_of(some, derived) for size in range(4) for some in itertools.combinations(values, size)]
    assert price_of(derived.saved, derived) <= min(prices) + 1e-9
