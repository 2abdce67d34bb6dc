"""KLIF, GLIF and PSN: their papers' equations written out, SpikingJelly's nodes, and life in our networks."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import neuron as spikingjelly

from models import build_model
from neurons import WHOLE_SEQUENCES, build_neuron
from neurons.surrogate import spike_function
from tests.helpers import ROOT, assert_refused, rows_of, run_training, weights_in

OTHERS = ("KLIF", "GLIF", "PSN")
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
TRAIN = "-dataset digits -model mlp3 -T 4 -b 32 -train_fraction 0.1 -epochs 2 -T_max 2 -device cpu".split()  # noqa: SIM905
INFERENCE = ROOT / "inference.py"
T = 5


def current(shape=(T, 3, 2, 4, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)


def build(name, seed=0, **options):
    torch.manual_seed(seed)
    neuron = build_neuron(name, T=T, **options).double()
    with torch.no_grad():
        for weight in neuron.parameters():  # not what they start as, where much cancels
            weight += 0.3 * torch.rand_like(weight)
    return neuron


def klif(neuron, x_seq, spike):
    v, spikes = torch.zeros_like(x_seq[0]), []
    for c in x_seq:
        f = (neuron.k * (v - v / neuron.tau + c)).relu()
        spikes.append(spike(f - 1.0))
        v = f - spikes[-1]
    return torch.stack(spikes)


def glif(neuron, x_seq, spike):
    """Yao et al. 2022, Eq. 5–10, with every gate a sigmoid; the reset acts in the step after the spike."""
    a, b, c, tau, threshold, leak, reset = (
        weight.sigmoid()
        for weight in (
            neuron.alpha, neuron.beta, neuron.gamma, neuron.tau,
            neuron.v_threshold, neuron.linear_decay, neuron.v_subreset,
        )
    )  # fmt: skip
    u, s, spikes = torch.zeros_like(x_seq[0]), torch.zeros_like(x_seq[0]), []
    for x, g in zip(x_seq, neuron.conduct.sigmoid(), strict=True):
        kept = 1 - a * (1 - tau)
        u = kept * u * (1 - c * s) - (1 - a) * leak + (1 - b * (1 - g)) * x - (1 - c) * reset * s
        s = spike(u - threshold)
        spikes.append(s)
    return torch.stack(spikes)


def psn(neuron, x_seq, spike):
    return spike(torch.einsum("ts,s...->t...", neuron.weight, x_seq) + neuron.bias.view(-1, *[1] * (x_seq.dim() - 1)))


EQUATIONS = {"KLIF": klif, "GLIF": glif, "PSN": psn}


@pytest.mark.parametrize("shape", [(T, 3, 2, 4, 4), (T, 3, 7)], ids=str)
@pytest.mark.parametrize("surrogate", ["rectangle", "sigmoid"])
@pytest.mark.parametrize("name", OTHERS)
def test_it_is_its_equations(name, surrogate, shape):
    results = []
    spike = spike_function(surrogate, 0.8)
    for forward in (lambda neuron, x: neuron(x), lambda neuron, x: EQUATIONS[name](neuron, x, spike)):
        neuron, x = build(name, surrogate=surrogate, alpha=0.8), current(shape).requires_grad_()
        spikes = forward(neuron, x)
        spikes.backward(current(shape, seed=1))
        results.append([spikes, x.grad, *[weight.grad for weight in neuron.parameters()]])
    ours, expected = results
    assert torch.equal(ours[0], expected[0])
    assert 0.05 < ours[0].mean() < 0.95
    for one, other in zip(ours[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_spikingjellys_node(name):
    x = current()
    sigmoid = spike_function("sigmoid", 1.0)  # SpikingJelly's, at its default width
    theirs = {
        "KLIF": lambda: spikingjelly.KLIFNode(decay_input=False, v_reset=None, step_mode="m"),
        "GLIF": lambda: spikingjelly.GatedLIFNode(T),
        "PSN": lambda: spikingjelly.PSN(T, surrogate_function=sigmoid),
    }[name]().double()
    ours = build(name, surrogate="sigmoid")
    theirs.load_state_dict(ours.state_dict())
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(ours(one), theirs(other))
    ours.zero_grad()
    functional.reset_net(theirs)
    functional.reset_net(ours)
    ours(one).sum().backward()
    theirs(other).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, **CLOSE)


@pytest.mark.parametrize("name", OTHERS)
def test_weights_are_a_function_of_torchs_seed(name):
    torch.manual_seed(0)
    one = build_neuron(name, T=T).state_dict()
    torch.manual_seed(0)
    other = build_neuron(name, T=T).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert one


@pytest.mark.parametrize("name", OTHERS)
def test_half_precision_fires_as_float32_does(name):
    """States and thresholds in float32, autocast or not, as in our own neurons."""
    x = current().bfloat16()
    neuron = build(name).float()
    expected = neuron(x.float())
    functional.reset_net(neuron)
    with torch.autocast("cpu", torch.bfloat16):
        spikes = neuron(x)
    assert spikes.dtype == torch.bfloat16
    assert torch.equal(spikes.float(), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_networks_keep_no_state_and_can_be_computed_twice(name):
    torch.manual_seed(0)
    net = build_model("mlp3", name, in_channels=1, T=T, drop_rate=0.2).double()
    again = copy.deepcopy(net)
    again.checkpoint = True
    x_seq = current((T, 6, 1, 32, 32))
    results = []
    for network in (net, again):
        torch.manual_seed(1)
        network(current((T, 2, 1, 32, 32), seed=5))  # leaves nothing behind
        logits = network(x_seq)
        logits.pow(2).sum().backward()
        results.append([logits, *[weight.grad for weight in network.parameters()], *network.buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert net.eval()(x_seq).equal(net(x_seq))
    assert (net.computed_by(torch.device("cpu")) == "neurons under autograd") == (name == "PSN")


def test_klif_goes_step_by_step():
    net = build_model("mlp3", "KLIF", in_channels=1).double().eval()
    x_seq = current((T, 6, 1, 32, 32))
    expected = net(x_seq)
    functional.set_step_mode(net, "s")
    torch.testing.assert_close(net(x_seq), expected, **CLOSE)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("GLIF", {}, "GLIF has weights for each time step: it needs T"),
        ("PSN", {}, "PSN has weights for each time step: it needs T"),
        *(("PSN", {"T": T}, f"T must be a whole number of 1 or more, not {T}") for T in (0, -1, 2.5, True)),
        ("PSN", {"T": 4, "step_mode": "s"}, "PSN sees whole sequences"),
        ("PSN", {"T": 4, "bptt_k": 2}, "bptt_k works with LIF, PLIF, CLIF, KLIF, GLIF and ILIF, not with PSN"),
        ("PSN", {"T": 4, "backend": "compile"}, "PSN has no step to derive kernels from"),
        ("KLIF", {"v_reset": 0.0}, "KLIF has no reset value"),
        ("KLIF", {"tau": 1.0}, "tau must be > 1"),
    ],
)
def test_what_they_have_not_is_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        build_neuron(name, **options)
    if "step_mode" not in options:
        with pytest.raises(ValueError, match=words):
            build_model("mlp3", name, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-neuron GLIF -step_mode s", "GLIF sees whole sequences"),
        ("-neuron PSN -backend compile", "PSN is computed by torch; leave -backend out"),
        ("-neuron KLIF -v_reset 0", "KLIF has no reset value"),
        (
            "-neuron PSN -bptt_k 2",
            "-bptt_k cuts the gradients through time of LIF, PLIF, CLIF, KLIF, GLIF, ILIF, not of PSN",
        ),
        ("-neuron LIF -bptt_k 2 -step_mode s", "-bptt_k works on whole sequences"),
        ("-neuron LIF -bptt_k 2 -backend compile", "-bptt_k is computed by torch"),
        ("-neuron LIF -bptt_k 0", "must be ≥ 1"),
        ("-neuron GLFI", "did you mean GLIF?"),
    ],
)
def test_options_that_do_not_go_together(options, words, tmp_path):
    assert_refused(run_training(*options.split(), cwd=tmp_path), words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WHOLE_SEQUENCES)
def test_sequences_of_another_length_are_refused(name):
    with pytest.raises(ValueError, match="was built for T = 5, and the sequence has 7 steps"):
        build_neuron(name, T=5)(torch.zeros(7, 2, 3))
    with pytest.raises(ValueError, match="step_mode can only be"):  # PSN took a batch of 5 for its steps
        functional.set_step_mode(build_neuron(name, T=5), "s")


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", [{}, {"step_mode": "s"}, {"keep_state": False}, {"bptt_k": 1}], ids=str)
def test_sequences_of_other_channels_are_refused_where_torch_would_broadcast(options, backend):
    for shape in ((3, 4), (3, 4, 1, 7), (3, 4, 5)):
        x = torch.zeros(shape[1:] if "step_mode" in options else shape)
        with pytest.raises(ValueError, match=r"built for 4 channels, and a step of the input is \[4"):
            build_neuron("PLIF", channels=4, backend=backend, **options)(x)
    for option, value in (("channels", 0), ("channels", 2.5), ("T", 0)):
        with pytest.raises(ValueError, match=f"{option} must be a whole number of 1 or more, not {value}"):
            build_neuron("GLIF", **{"T": 3, option: value})


@pytest.mark.parametrize("name", OTHERS)
def test_they_train_resume_and_run_as_themselves(name, tmp_path):
    """Two epochs under mixed precision are one, and one more after a resume; inference.py finds the same accuracy."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out_dir, epochs, more in ((whole, 2, []), (parts, 1, []), (parts, 2, ["-resume", "auto"])):
        words = [*TRAIN, "-neuron", name, "-out_dir", str(out_dir), "-name", "run", *more]
        words[words.index("-epochs") + 1] = str(epochs)
        result = run_training(*words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    one, other = weights_in(whole / "run/checkpoint_latest.pth"), weights_in(parts / "run/checkpoint_latest.pth")
    assert all(torch.equal(one[key], other[key]) for key in one)
    own = [key for key in one if ".act." in key]
    assert own
    seen = run_training(
        "-resume", whole / "run/checkpoint_latest.pth", "-device", "cpu", cwd=tmp_path, script=INFERENCE
    )
    assert seen.returncode == 0, seen.stderr
    assert f"test accuracy {rows_of(whole / 'run')[-1]['test_acc']:.2f}%" in seen.stdout
    for request in (["-neuron", "LIF"], ["-sweep"], ["-profile"], ["-export", "net.nir"]):
        refused = run_training(
            "-resume", whole / "run/checkpoint_latest.pth", "-device", "cpu", *request, cwd=tmp_path, script=INFERENCE
        )
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert name in refused.stderr
        assert "-export" not in request or "relu" not in refused.stderr  # NIR has no ReLU, either
