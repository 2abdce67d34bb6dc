"""What is not finite stops training and evaluation: potentials, weights, buffers, momentum, data."""

import math

import pytest
import torch
from spikingjelly.activation_based import functional

from data import DataError, Split
from data.dvs_cifar10_pt import load_frames, read_pair
from data.made_up_events import write_dvs_cifar10_pt
from deploy.conversion import Score, climb, lif_twin
from models import build_model
from neurons import NEURONS, build_neuron
from tests.helpers import device_of
from tests.test_states import BACKENDS
from utils.engine import TrainState, evaluate, train_one_epoch
from utils.finite import NonFiniteLossError, first_not_finite
from utils.optim import build_optimizer

CPU = torch.device("cpu")


def cross_entropy(logits, target):  # of each step, as in TET: [T, N, K]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.repeat(len(logits)))


STEPPING = ("LIF", "PLIF", "CLIF", "KLIF", "GLIF", "ILIF")


@pytest.mark.parametrize("value", [math.nan, math.inf])
# in training, Triton's kernels do not compute the states after the last step: a ninth of the kernel, for this alone
@pytest.mark.parametrize(
    ("backend", "train"), [("reference", False), ("reference", True), ("c", False), ("c", True), ("triton", False)]
)
@pytest.mark.parametrize("name", STEPPING)
def test_a_potential_that_is_not_finite_ends_in_a_spike_that_is_nan(name, train, backend, value):
    """At its place alone, whatever computes it: a NaN does not fire, and nothing above would know of it."""
    T = 5
    x_seq = torch.rand(T, 3, 40, generator=torch.Generator().manual_seed(0)).to(device_of(backend)) * 1.5  # [T, N, C]
    neuron = build_neuron(name, backend=backend, T=T, keep_state=False).to(x_seq.device)
    with torch.set_grad_enabled(train):
        plain = neuron(x_seq).detach()
        x_seq[2, 1, 7] = value
        spikes = neuron(x_seq.requires_grad_(train)).detach()
    assert spikes.isnan().nonzero().tolist() == [[T - 1, 1, 7]]
    spikes[2:, 1, 7] = plain[2:, 1, 7]
    assert torch.equal(spikes, plain)


def test_psn_too():
    x_seq = torch.rand(4, 3, 5)
    x_seq[1, 2, 3] = math.nan
    assert build_neuron("PSN", T=4)(x_seq).isnan().nonzero().tolist() == [[3, 2, 3]]


def fired(neuron, x, step_mode):
    """Spikes, the last v, and the gradient of a weighted sum of the spikes and v by x (and by PLIF's w)."""
    x = x.clone().requires_grad_()
    functional.set_step_mode(neuron, step_mode)
    spikes = neuron(x) if step_mode == "m" else torch.stack([neuron(x_t) for x_t in x])
    weights = torch.arange(1.0, 1 + spikes.numel()).view_as(spikes)
    ((spikes * weights).sum() + torch.where(neuron.v.isfinite(), neuron.v, 0.0).sum()).backward()
    learned = [w.grad for w in neuron.parameters()]
    return spikes.detach(), neuron.v.detach(), x.grad, *learned


@pytest.mark.parametrize("infinity", [float("inf"), 3.4e38])
@pytest.mark.parametrize("backend", [*BACKENDS, "steps"])
@pytest.mark.parametrize("v_reset", [0.0, -0.06, 0.3])
@pytest.mark.parametrize("name", ["LIF", "PLIF"])
def test_a_hard_reset_takes_an_infinite_potential_back(name, v_reset, backend, infinity):
    x = torch.tensor([[0.2, 0.4], [infinity, 0.9], [0.5, 0.5], [0.9, infinity], [0.4, 0.8]])  # [T, N]
    step_mode = "s" if backend == "steps" else "m"
    neuron = build_neuron(name, v_reset=v_reset, backend="auto" if backend == "steps" else backend, step_mode=step_mode)
    spikes, v, g_x, *learned = fired(neuron, x, step_mode)
    # after the infinite step: as if a finite current had made the same spike
    reference = build_neuron(name, v_reset=v_reset, backend="reference")
    expected = fired(reference, x.clamp(max=100.0), "m")
    assert torch.equal(spikes, expected[0])
    torch.testing.assert_close(v, expected[1])
    torch.testing.assert_close(g_x, expected[2])
    for ours, theirs in zip(learned, expected[3:], strict=True):
        torch.testing.assert_close(ours, theirs)


def network(neuron="CLIF", **options):
    torch.manual_seed(0)
    return build_model("mlp3", neuron, in_channels=1, input_size=4, **options)


BATCHES = [(torch.rand(3, 8, 1, 4, 4), torch.arange(8)) for _ in range(2)]


@pytest.mark.parametrize("how", ["c", "reference", "step by step"])
def test_a_hidden_overflow_is_seen_in_evaluation_and_its_layer_is_named(how):
    """Weights, buffers and data are finite, and so was the loss."""
    net = network(backend="auto" if how == "step by step" else how).eval()
    functional.set_step_mode(net, "s" if how == "step by step" else "m")
    with torch.no_grad():
        net.features[0].fwd[0].weight.fill_(3e38)
    with pytest.raises(NonFiniteLossError, match=r"step 0 of the test set, and neither is the output of features\.0\."):
        evaluate(net, BATCHES, cross_entropy, device=CPU, steps=2)


def state_of(net, opt="SGD", lr=0.1):
    optimizer = build_optimizer(opt, net.parameters(), lr=lr, momentum=0.9, weight_decay=0.0, device=CPU)
    return TrainState(net, optimizer, cross_entropy, CPU)


def test_an_infinite_gradient_of_a_hidden_layer_stops_the_epoch():
    """1e-39 is the width of a surrogate that float32 has no inverse of: NaN weights, whose neurons never fire."""
    state = state_of(network(surrogate="sigmoid", alpha=1e-39))
    with pytest.raises(NonFiniteLossError, match=r"features\.0\.fwd\.0\.weight"):
        train_one_epoch(state, BATCHES, 2)


SPOILT = {
    "a weight": (lambda state: state.net.features[1].fwd[0].weight, "features.1.fwd.0.weight"),
    "a buffer": (lambda state: state.net.features[1].fwd[1].running_var, "features.1.fwd.1.running_var"),
    "momentum": (
        lambda state: state.optimizer.state[state.net.classifier.weight]["momentum_buffer"],
        "momentum_buffer of classifier.weight",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_the_loss_does_not_show_is_found_at_the_end_of_the_epoch(case):
    state = state_of(network(), lr=1e-9)
    find, name = SPOILT[case]

    def spoil() -> None:
        if state.step == 2:
            with torch.no_grad():
                find(state).view(-1)[0] = math.inf

    with pytest.raises(NonFiniteLossError, match=f"{name} is not finite at the end of epoch 0"):
        train_one_epoch(state, BATCHES, 2, spoil)


def test_what_is_finite_is_not_found():
    state = state_of(network("PLIF"), "AdamW")
    assert first_not_finite(state.net, state.optimizer) is None
    train_one_epoch(state, BATCHES, 2)
    assert first_not_finite(state.net, state.optimizer) is None
    assert first_not_finite(torch.nn.Identity()) is None


# -- data


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_pixel_that_is_no_number_names_its_sample(value):
    def load(index):
        return torch.full((1, 2, 2), value if index == 3 else 0.5)

    split = Split(load, [0] * 5, torch.nn.Identity(), seed=0)
    assert split[0, 2][0].isfinite().all()
    with pytest.raises(DataError, match="sample 3 holds a number that is not finite"):
        split[0, 3]


def test_a_pixel_that_is_no_number_names_its_file(tmp_path):
    file = write_dvs_cifar10_pt(tmp_path, T=2, train=1, test=1) / "train" / "0.pt"
    frames, label = torch.load(file, weights_only=True)
    frames = frames.float()
    frames[0, 1, 2, 3] = math.nan
    torch.save((frames, label), file)
    for read in (lambda: read_pair(file), lambda: load_frames([file], 0)):
        with pytest.raises(DataError, match=r"0\.pt holds numbers that are not finite"):
            read()


# -- a reset that takes u to the threshold or above it


@pytest.mark.parametrize("v_reset", [1.0, 2.0, 3e38, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["LIF", "PLIF"])
def test_a_reset_value_lies_below_the_threshold(name, v_reset):
    with pytest.raises(ValueError, match=r"v_reset must be below V_th = 1, not"):
        build_neuron(name, v_reset=v_reset)
    with pytest.raises(ValueError, match="v_reset must be below V_th"):
        lif_twin(network(), v_reset)
    assert build_neuron(name, v_threshold=2.5, v_reset=1.0).v_reset == 1.0


@pytest.mark.parametrize("v_threshold", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name in STEPPING if NEURONS[name].takes("v_threshold")])
def test_a_threshold_is_a_finite_number(name, v_threshold):
    with pytest.raises(ValueError, match=f"v_threshold must be a finite number, not {v_threshold}"):
        build_neuron(name, v_threshold=v_threshold)


def test_calibration_climbs_no_higher_than_half_the_lowest_threshold():
    tried = []

    def score(value):
        tried.append(value)
        return Score(100 * value, 0.0)  # the higher, the better

    assert climb(0.2, score, 0.02, 0.5) == pytest.approx(0.24)
    assert max(tried) < 0.25 + 1e-9
