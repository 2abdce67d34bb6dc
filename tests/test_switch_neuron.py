"""Neurons exchanged in mid-training (Figure 3a): the network stays as it was, with other neurons."""

import json
import sys

import pytest
import torch

from deploy.conversion import lif_twin
from models import build_like, build_model, exchange_neurons, replace_neurons
from neurons import CLIF, LIF, SpikingNeuron, build_neuron
from tests.helpers import (
    ROOT,
    SCRIPT,
    TIMING,
    assert_refused,
    outcome,
    rows_of,
    run_training,
    started,
    weights_in,
)
from tests.test_distributed import as_torchrun

RUN = "-dataset digits_seq -model mlp3 -T 4 -b 32 -train_fraction 0.1 -T_max 3 -neuron LIF -no_amp -device cpu".split()  # noqa: SIM905
SWITCH = ("-switch_neuron", "1:CLIF")


def train(home, name, *options, epochs=3):
    """Train; the heading says which neurons."""
    result = run_training(*RUN, *options, "-epochs", epochs, "-out_dir", home, "-name", name, cwd=home)
    assert result.returncode == 0, result.stderr
    assert (" with LIF, from epoch 1 on CLIF, T = " in result.stdout) == (SWITCH[1] in options)
    return home / name


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("switch")


@pytest.fixture(scope="module")
def whole(home):
    """Three epochs, the second and third of them with CLIF."""
    return train(home, "whole", *SWITCH)


def test_settings_go_over_and_weights_stay():
    net = build_model("snn5_noAP", "LIF", tau=1.5, surrogate="triangle", alpha=0.7, backend="torch", bptt_k=3).eval()
    neurons = [module for module in net.modules() if isinstance(module, SpikingNeuron)]
    weights = {name: weight.data_ptr() for name, weight in net.named_parameters()}
    exchange_neurons(net, "CLIF")
    exchanged = [module for module in net.modules() if isinstance(module, SpikingNeuron)]
    assert len(exchanged) == len(neurons) == 5
    for new, old in zip(exchanged, neurons, strict=True):
        assert type(new) is CLIF
        assert not new.training
        for setting in ("tau", "v_threshold", "surrogate", "alpha", "step_mode", "backend", "keep_state", "bptt_k"):
            assert getattr(new, setting) == getattr(old, setting)
    assert {name: weight.data_ptr() for name, weight in net.named_parameters()} == weights
    other = build_model("snn5_noAP", "CLIF", tau=1.5, surrogate="triangle", alpha=0.7, backend="torch").eval()
    other.load_state_dict(net.state_dict())
    x_seq = torch.randn(4, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(x_seq), other(x_seq))


@pytest.mark.parametrize(("neuron", "other"), [("LIF", "PLIF"), ("PLIF", "LIF"), ("relu", "CLIF"), ("KLIF", "LIF")])
def test_neurons_with_weights_are_refused(neuron, other):
    net = build_model("mlp3", neuron)
    with pytest.raises(ValueError, match="only LIF, CLIF, ILIF can stand in for each other"):
        exchange_neurons(net, other)
    assert not any(isinstance(module, LIF | CLIF) for module in net.modules()) or neuron == "LIF"


def test_where_one_neuron_cannot_be_exchanged_none_is():
    net = build_model("snn5_noAP", "LIF")
    net.features[2].act.v_reset = -0.06  # CLIF has no reset value
    neurons = [module for module in net.modules() if isinstance(module, SpikingNeuron)]
    with pytest.raises(ValueError, match="v_reset"):
        exchange_neurons(net, "CLIF")
    assert [module for module in net.modules() if isinstance(module, SpikingNeuron)] == neurons


@pytest.mark.parametrize("other", ["GLIF", "KLIF", "PSN"])
def test_what_is_learned_is_no_setting_and_sizes_go_over(other):
    old = build_neuron("GLIF", T=4, channels=3, alpha=0.7)
    old.alpha.data.fill_(0.1)  # a gate
    new = build_like(old, other)
    assert (new.surrogate_function.keywords["alpha"] if other == "PSN" else new.width) == 0.7
    if other != "PSN":
        assert new.channels == 3
    if other != "KLIF":
        assert new.T == 4
        return
    assert (new.tau, new.v_threshold) == (2.0, 1.0)
    assert build_like(new, "LIF").channels is None


def test_a_neuron_by_itself_stands_in_no_network():
    neuron = LIF()
    with pytest.raises(ValueError, match="no spiking neurons in it"):
        replace_neurons(neuron, lambda name, old: CLIF())
    assert not list(neuron.children())


def test_epochs_before_it_are_those_of_the_old_neuron(home, whole):
    old, new = rows_of(train(home, "old"), without=TIMING), rows_of(whole, without=TIMING)
    assert new[0] == old[0]
    assert new[1]["train_loss"] != old[1]["train_loss"]


def test_a_switch_is_a_run_that_goes_on_with_the_new_neuron(home, whole):
    """The optimiser and the schedule stay: an epoch of LIF, resumed with CLIF, is the same to the last bit.

    Such a resume is refused, unless nobody knows any more that the run had LIF.
    """
    before = train(home, "before", epochs=1)
    latest = before / "checkpoint_latest.pth"
    words = ["CLIF" if word == "LIF" else word for word in RUN]
    resume = [*words, "-epochs", 3, "-resume", latest]
    assert_refused(run_training(*resume, cwd=home), "was trained with -neuron LIF, not CLIF")
    state = torch.load(latest, weights_only=True)
    del state["settings"]
    torch.save(state, latest)
    (before / "config.json").unlink()
    result = run_training(*resume, cwd=home)
    assert result.returncode == 0, result.stderr
    assert rows_of(before, without=TIMING) == rows_of(whole, without=TIMING)
    one, other = (weights_in(folder / "checkpoint_latest.pth") for folder in (before, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("at", [0, 1, 2], ids=["before it", "within its epoch", "after it"])
def test_resume_across_the_switch(home, whole, at):
    """Killed in a batch of epoch ``at`` and resumed: the neurons are those of that moment."""
    folder = home / f"killed{at}"
    words = [*RUN, *SWITCH, "-epochs", 3, "-out_dir", home, "-name", folder.name, "-save_every", 1e-5]
    latest = folder / "checkpoint_latest.pth"

    def is_there():
        if not latest.exists() or len(rows_of(folder)) < at:
            return False
        return at == 0 or len(rows_of(folder)) == at

    run_training(*words, cwd=home, kill_when=is_there)
    result = run_training(*words, "-resume", "auto", cwd=home)
    assert result.returncode == 0, result.stderr
    assert rows_of(folder, without=TIMING) == rows_of(whole, without=TIMING)
    one, other = (weights_in(path / "checkpoint_latest.pth") for path in (folder, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_checkpoint_says_which_neuron_it_is(home, whole):
    """Before the exchange it is LIF's, after it CLIF's; inference.py runs each as itself."""
    before = train(home, "early", *SWITCH, epochs=2)
    assert json.loads((whole / "config.json").read_text())["neuron"] == "LIF"
    seen = run_training("-resume", whole / "checkpoint_latest.pth", cwd=home, script=ROOT / "inference.py")
    assert seen.returncode == 0, seen.stderr
    assert "trained with CLIF, run as CLIF" in seen.stdout
    assert f"test accuracy {rows_of(whole)[-1]['test_acc']:.2f}%" in seen.stdout
    assert torch.load(before / "checkpoint_latest.pth", weights_only=True)["neuron"] == "CLIF"
    plain = torch.load(train(home, "plain", epochs=1) / "checkpoint_latest.pth", weights_only=True)
    assert "neuron" not in plain


@pytest.mark.slow
def test_on_two_ranks(home, whole):
    """Each rank exchanges its own neurons, under DistributedDataParallel: to rounding, the run of one process."""
    words = [*RUN, *SWITCH, "-epochs", "3", "-out_dir", str(home), "-name", "ranks"]
    with started([[sys.executable, SCRIPT, *words]] * 2, cwd=home, environments=as_torchrun(2)) as ranks:
        results = [outcome(rank) for rank in ranks]
    assert [result.returncode for result in results] == [0, 0], results
    for one, other in zip(rows_of(home / "ranks"), rows_of(whole), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-switch_neuron CLIF", "'CLIF' is not EPOCH:NEURON, such as 40:CLIF"),
        ("-switch_neuron x:CLIF", "'x' is not a whole number"),
        ("-switch_neuron=-1:CLIF", "must be ≥ 0, not -1"),
        ("-switch_neuron 1:CLIFF", "did you mean CLIF?"),
        ("-switch_neuron 1:PLIF", "exchanges LIF, CLIF, ILIF, which learn nothing, and not PLIF"),
        ("-switch_neuron 1:GLIF", "and not GLIF"),
        ("-switch_neuron 1:LIF -neuron KLIF", "and not KLIF"),
        ("-switch_neuron 1:relu", "and not relu"),
        ("-switch_neuron 1:LIF", "the network has LIF from the start"),
        ("-switch_neuron 3:CLIF -epochs 3", "-epochs 3 end before that"),
        ("-switch_neuron 1:CLIF -decay_input", "-decay_input works with LIF and PLIF, and -switch_neuron goes over to"),
        ("-switch_neuron 1:ILIF -detach_reset", "-switch_neuron goes over to ILIF"),
        ("-switch_neuron 1:CLIF -v_reset 0", "CLIF has no reset value, and -switch_neuron goes over to it"),
    ],
)
def test_what_cannot_be_exchanged_is_refused(options, words, tmp_path):
    assert_refused(run_training("-neuron", "LIF", *options.split(), cwd=tmp_path), words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["KLIF", "ILIF", "GLIF"])
def test_lif_stands_in_for_none_that_does_more(name):
    """KLIF's learned slope, say, would be lost without a word."""
    net = build_model("mlp3", name, T=2)
    with pytest.raises(ValueError, match=rf"layer features\.0\.act: LIF .* LIF, PLIF, CLIF, not for {name}$"):
        lif_twin(net)
