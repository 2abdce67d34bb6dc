"""The gradient split by lag in whole networks: its parts sum to autograd's, on known cases and through the command."""

import json
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from data import build_dataset
from data.loader import build_loader
from deploy.conversion import lif_checkpoint, lif_twin
from figures.gradient_by_lag import gradient_flow, split_layer
from figures.gradient_flow import flow_of, settings_of
from models import build_model
from neurons import build_neuron
from tests.fixtures_images import write_cifar10
from tests.helpers import run_training
from utils.checkpoint import save_checkpoint
from utils.loss import bptt_loss

T = 6


def split(neuron, model="mlp3", surrogate="rectangle", v_reset=None, seed=0):
    torch.manual_seed(seed)
    net = build_model(model, neuron, in_channels=1, surrogate=surrogate, v_reset=v_reset).double().train()
    x_seq = torch.randn(T, 3, 1, 32, 32, dtype=torch.float64)
    return net, gradient_flow(net, x_seq, torch.tensor([1, 2, 3]), partial(bptt_loss, loss_lambda=0.05))


@pytest.mark.parametrize("model", ["mlp3", "snn5_noAP"])
@pytest.mark.parametrize(
    ("neuron", "surrogate", "v_reset"),
    [("LIF", "rectangle", None), ("LIF", "sigmoid", -0.1), ("PLIF", "triangle", None), ("CLIF", "rectangle", None)],
)
def test_parts_sum_to_autograds_gradient(model, neuron, surrogate, v_reset):
    net, layers = split(neuron, model, surrogate, v_reset)
    assert [layer.name for layer in layers] == [f"features.{i}.act" for i in range(2 if model == "mlp3" else 5)]
    assert all(weight.grad is None for weight in net.parameters())
    for layer in layers:
        assert layer.neuron == neuron
        assert layer.error < 1e-10
        assert len(layer.share) == T
        assert sum(layer.share) == pytest.approx(1)
        assert layer.share[0] > layer.share[1] > 0


def test_a_wrong_split_is_noticed():
    neuron = build_neuron("CLIF").double()
    c = torch.randn(T, 2, 3, dtype=torch.float64, requires_grad=True)
    g_s = torch.randn(T, 2, 3, dtype=torch.float64)
    (g_c,) = torch.autograd.grad(neuron(c), c, g_s)
    split_layer("one", neuron, c.detach(), g_s, g_c)
    with pytest.raises(ArithmeticError, match="one: the parts by lag miss autograd's gradient by"):
        split_layer("one", neuron, c.detach(), g_s, g_c * (1 + 1e-8))


def layer_of(name, c, g_s):
    neuron = build_neuron(name).double()
    c = torch.tensor(c, dtype=torch.float64)[:, None, None].requires_grad_()  # [T] → [T, 1, 1]
    g_s = torch.tensor(g_s, dtype=torch.float64)[:, None, None]
    (g_c,) = torch.autograd.grad(neuron(c), c, g_s)
    return split_layer("one", neuron, c.detach(), g_s, g_c)


class Bypassed(torch.nn.Module):
    """A neuron whose input takes a way past it, too, as in the Spike-Driven Transformer."""

    def __init__(self):
        super().__init__()
        self.linear, self.neuron = torch.nn.Linear(5, 5), build_neuron("CLIF", keep_state=False)

    def forward(self, x_seq):
        c = self.linear(x_seq)
        return c + self.neuron(c)


def test_what_goes_past_a_neuron_is_not_its_gradient():
    torch.manual_seed(0)
    net, x_seq = Bypassed().double(), torch.randn(4, 3, 5, dtype=torch.double)
    (layer,) = gradient_flow(net, x_seq, torch.zeros(3), lambda out, _: out.square().sum())
    assert layer.error < 1e-12
    assert sum(layer.share) == pytest.approx(1)


def test_lif_by_hand():
    """u = 0.2, 0.9, 0.65 (reset to −0.1 after … no spike): H = 0, 1, 1 and γ = ½, gradients 0, 0, 8 of the spikes.

    u[2] takes 8; u[1] = 0.9 lies within the rectangle, where 1 − H = 0 cuts it (part II): u[1] and u[0] take nothing.
    """
    layer = layer_of("LIF", [0.2, 0.8, 0.2], [0.0, 0.0, 8.0])
    assert layer.l1 == [8.0, 0.0, 0.0]
    assert (layer.zero, layer.cut) == (1.0, 1.0)
    assert layer.m1 is None


def test_lif_that_is_not_cut():
    """u = 0.2, 0.3, 0.65: H = 0, 0, 1, so that 8 goes back as 4 and 2."""
    layer = layer_of("LIF", [0.2, 0.2, 0.5], [0.0, 0.0, 8.0])
    assert layer.l1 == [8.0, 4.0, 2.0]
    assert (layer.zero, layer.cut) == (0.0, 0.0)
    assert layer.share == pytest.approx([8 / 14, 4 / 14, 2 / 14])


def test_clif_is_not_cut_there():
    """1 − (V_th + σ(m))·H is −σ(m) where LIF has 0; with m = 0, 8 goes back to u[1] as −½·½·8 = −2, to u[0] as −1.

    There is no spike, so that nothing has passed m.
    """
    layer = layer_of("CLIF", [0.2, 0.8, 0.2], [0.0, 0.0, 8.0])
    assert layer.m1 == pytest.approx([8.0, 2.0, 1.0])
    assert (layer.zero, layer.cut) == (0.0, 0.0)
    assert layer.m2 == [0.0, 0.0, 0.0]


def test_no_step_sends_anything():
    layer = layer_of("LIF", [0.1, 0.1, 0.1], [1.0, 1.0, 1.0])
    assert layer.l1 == [0.0, 0.0, 0.0]
    assert (layer.zero, layer.cut) == (1.0, 0.0)


def test_clif_reaches_further_than_lif():
    lif, clif = split("LIF")[1], split("CLIF")[1]
    for one, other in zip(lif, clif, strict=True):
        assert sum(other.share[2:]) > 1.2 * sum(one.share[2:])
        assert other.cut < 0.01 < 0.1 < one.cut
        assert other.m2[0] == 0 < min(other.m2[1:])  # the spatial term does not pass m
        assert other.m1[0] == pytest.approx(other.l1[0])


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["figures.gradient_flow", *map(str, words)])
    code = 0
    try:
        runpy.run_module("figures.gradient_flow", run_name="__main__")
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_command_on_trained_and_on_fresh_networks(tmp_path, monkeypatch, capsys):
    words = "-dataset digits_seq -model mlp3 -T 4 -b 32 -train_fraction 0.1 -epochs 2 -T_max 2 -neuron LIF -device cpu"
    words += f" -switch_neuron 1:CLIF -bptt_k 2 -out_dir {tmp_path} -name run"
    assert run_training(*words.split(), cwd=tmp_path).returncode == 0
    code, out, err = command(
        monkeypatch, capsys, "-resume", tmp_path / "run/checkpoint_latest.pth", "-b", 16, "-out_dir", tmp_path / "flow"
    )
    assert code == 0, err
    assert "CLIF, trained: features.1.act" in out
    assert "run/checkpoint_latest.pth was trained with -bptt_k 2; here its gradient is not cut" in out
    written = json.loads((tmp_path / "flow/gradient_flow.json").read_text())
    (network,) = written["networks"]
    assert (network["neuron"], network["T"], network["batch"]) == ("CLIF", 4, 16)
    assert (tmp_path / "flow/gradient_flow.md").read_text() in out
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"flow/gradient_flow.{suffix}").stat().st_size > 5000
    code, out, err = command(monkeypatch, capsys, "-T", 2, "-neuron", "PLIF", "-b", 8, "-out_dir", tmp_path / "fresh")
    assert code == 0, err
    assert "PLIF, fresh: features.0.act" in out


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-resume", "nowhere/a.pth"], "no checkpoint at nowhere/a.pth"),
        (["-resume", "zoo:digits_CLIF", "-T", "5"], "-T is for fresh networks"),
        (["-resume", "zoo:digits_CLIF_as_LIF"], "zoo:digits_CLIF_as_LIF: its layers differ in v_reset"),
        (["-neuron", "PSN"], "no LIF, PLIF, CLIF, KLIF, GLIF, ILIF whose gradient could be split"),
        (["-dataset", "digits", "-T", "1000000000000"], "out of memory with -b 64 and -T 1000000000000"),
        (["-T", "6"], "-T 6 does not divide"),
        (["-dataset", "cifar10"], "cifar"),
    ],
)
def test_bad_requests_end_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(monkeypatch, capsys, *words, "-out_dir", "flow")
    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "flow").exists()


def test_a_lif_checkpoint_has_its_own_reset_and_time_constant(tmp_path):
    """Beside the config.json of the run that it was made from."""
    twin = lif_twin(build_model("mlp3", "CLIF"), -0.9, tau=1.5)
    known = {"dataset": "digits", "model": "mlp3", "T": 3, "trained_with": "CLIF", "seed": 4}
    save_checkpoint(lif_checkpoint(twin, known), tmp_path / "lif.pth")
    (tmp_path / "config.json").write_text(json.dumps({**known, "neuron": "CLIF", "loss_lambda": 0.3, "b": 5}))
    found = settings_of(tmp_path / "lif.pth")
    expected = {"neuron": "LIF", "v_reset": -0.9, "tau": 1.5, "loss_lambda": 0.3, "T": 3, "seed": 4, "drop_rate": 0.0}
    assert {name: found[name] for name in expected} == expected


def test_a_network_of_the_zoo_has_its_settings_in_it():
    found = settings_of(Path("zoo:digits_CLIF"))
    assert (found["neuron"], found["model"], found["v_reset"]) == ("CLIF", "snn5_noAP", None)


def test_settings_that_inference_does_not_take_are_the_checkpoints_own(tmp_path):
    known = {"dataset": "cifar10", "model": "mlp3", "neuron": "LIF", "T": 3, "cutupmix_auto": True, "surrogate": "atan"}
    save_checkpoint({"net": build_model("mlp3", "LIF").state_dict(), "settings": known}, tmp_path / "a.pth")
    found = settings_of(tmp_path / "a.pth")
    assert {name: found[name] for name in known} == known


@pytest.fixture
def batch_of(monkeypatch):
    """(settings) → the batch whose gradient is split, and what the loss is of it."""
    seen = []

    def split(net, x_seq, target, criterion):
        seen[:] = [x_seq, target, criterion(net(x_seq), target)]
        return []

    monkeypatch.setattr("figures.gradient_flow.gradient_flow", split)

    small = {"dataset": "digits", "model": "mlp3", "neuron": "LIF", "T": 2}
    return lambda **settings: (flow_of({**small, **settings}, None, 8), seen)[1]


def first_of(task, **how):
    loader = build_loader(task.train, batch_size=8, T=2, device=torch.device("cpu"), seed=2022, shuffle=True, **how)
    return next(loader.epoch(0))


@pytest.mark.parametrize("shares", [{}, {"train_fraction": 0.5, "val_split": 0.3}], ids=["all", "a share"])
def test_the_batch_is_of_what_was_trained_on(batch_of, shares):
    task = build_dataset("digits", T=2)
    task = task.keep_fraction(0.5, 2022).hold_out(0.3, 2022) if shares else task
    x_seq, target, _ = batch_of(**shares)
    assert torch.equal(x_seq, first_of(task)[0].double())
    assert torch.equal(target, first_of(task)[1])


def test_the_batch_is_augmented_and_mixed_as_in_training(tmp_path, batch_of):
    write_cifar10(tmp_path, per_batch=2)
    task = build_dataset("cifar10", tmp_path, T=2, cutupmix_auto=True)
    expected = first_of(task, drop_last=True, mix=task.mix)
    x_seq, target, loss = batch_of(dataset="cifar10", data_dir=tmp_path, cutupmix_auto=True)
    assert torch.equal(x_seq, expected[0].double())
    assert torch.equal(target, expected[1].double())
    assert target.shape == (8, 10)
    assert loss.isfinite()
