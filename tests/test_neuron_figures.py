"""Figures 7 and 8: the traces are the neurons' own, the same seed gives the same bytes; names of networks."""

import json
import runpy
import sys
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch

from figures import evaluation_gap, gradient_by_lag, gradient_flow, neuron_traces
from models import build_model
from neurons import build_neuron
from settings.training import DEFAULTS
from utils.cli import UsageError
from utils.loss import bptt_loss


def test_traces_are_those_of_the_neuron():
    c = neuron_traces.poisson_input(200, rate=0.6, weight=0.8, seed=1)
    lif, clif = (neuron_traces.simulate(name, c, tau=2.0) for name in ("LIF", "CLIF"))
    for name, trace in (("LIF", lif), ("CLIF", clif)):
        assert torch.equal(trace.spikes, build_neuron(name)(c[:, None])[:, 0])
        assert torch.equal(trace.spikes, (trace.u >= 1).double())
    assert lif.m is None
    m = 0.0
    for u, s, expected in zip(clif.u, clif.spikes, clif.m, strict=True):
        m = m * (u / 2).sigmoid() + s
        assert m == pytest.approx(expected.item(), abs=1e-12)
    assert 0 < clif.spikes.sum() < lif.spikes.sum()  # the paper's extra refractoriness


def test_input_is_poisson_of_the_seed():
    c = neuron_traces.poisson_input(50_000, rate=0.6, weight=0.5, seed=3)
    assert torch.equal(c, neuron_traces.poisson_input(50_000, rate=0.6, weight=0.5, seed=3))
    assert not torch.equal(c, neuron_traces.poisson_input(50_000, rate=0.6, weight=0.5, seed=4))
    assert c.mean().item() == pytest.approx(0.3, rel=0.05)
    assert c.var().item() == pytest.approx(0.25 * 0.6, rel=0.05)


def test_a_network_that_no_gradient_passes_is_drawn(tmp_path):
    net = build_model("mlp3", "CLIF", in_channels=1, input_size=4, num_classes=3).double()
    for block in net.features:
        block.fwd[1].bias.data.fill_(-10.0)  # far from the threshold: a dead layer
    x_seq, labels = torch.rand(3, 3, 1, 4, 4).double(), torch.tensor([0, 1, 2])
    layers = [asdict(layer) for layer in gradient_by_lag.gradient_flow(net, x_seq, labels, bptt_loss)]
    assert layers[0]["l1"] == [0, 0, 0]
    told = {name: DEFAULTS[name] for name in ("neuron", *gradient_flow.TOLD_BY)}
    gradient_flow.draw([{**told, "neuron": "CLIF", "T": 3, "checkpoint": None, "layers": layers}], tmp_path / "flow")
    assert (tmp_path / "flow.png").stat().st_size


def test_autocorrelation_by_its_definition():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(neuron_traces.autocorrelation(x, 3), [30 / 4, (2 + 6 + 12) / 4, (3 + 8) / 4])


@pytest.fixture
def draw(monkeypatch, capsys):
    """Run the command: arguments → (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["figures.neuron_traces", *map(str, words)])
        code = 0
        try:
            with warnings.catch_warnings(action="ignore"):  # runpy's, that it has been imported before
                runpy.run_module("figures.neuron_traces", run_name="__main__")
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.mark.slow
def test_command_draws_both_and_the_same_again(draw, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        code, out, err = draw("-out_dir", folder, "-steps", 30)
        assert code == 0, err
    for name in ("figure7.png", "figure7.pdf", "figure8.png", "figure8.pdf", "neurons.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    numbers = json.loads((folders[0] / "neurons.json").read_text())
    lif, clif = (numbers["quantities"][f"spikes per step of {name}"] for name in ("LIF", "CLIF"))
    assert clif < lif
    assert f"LIF {lif:.3f}" in out
    R = {name: np.array(values) for name, values in numbers["autocorrelation"].items()}
    remembers = {name: (r[2] - r[-1]) / (1 - r[-1]) for name, r in R.items()}  # above where it levels out
    assert remembers["m of CLIF"] > 3 * remembers["u of LIF"]


def test_an_input_that_never_fires_is_refused(draw, tmp_path):
    code, _, err = draw("-out_dir", tmp_path / "out", "-weight", "1e-9")
    assert code == 2
    assert err.count("\n") == 1
    assert "-weight 1e-09 and -rate 0.6 make no spike" in err
    assert not (tmp_path / "out").exists()


def flow(**settings):
    layer = {"name": "act", "share": [0.75, 0.25], "zero": 0.0, "cut": settings["seed"] / 100, "m1": None}
    own = {"dataset": "digits", "model": "mlp3", "T": 2, "tau": 2.0, "surrogate": "rectangle", "alpha": 1.0}
    return {**own, "checkpoint": "a.pth", "layers": [layer], **settings}


def test_what_u_alone_carries_bears_its_network_s_name(tmp_path, monkeypatch):
    """GLIF's and ILIF's were called CLIF's, in one black, and the gradient of the current one of u."""
    drawn = []
    monkeypatch.setattr(gradient_flow, "save_figure", lambda figure, path: drawn.append(figure))

    def layers(m1):
        return [{"name": "act", "share": [0.75, 0.25], "l1": [3.0, 1.0], "zero": 0.0, "cut": 0.0, "m1": m1}]

    networks = [("GLIF", 1, [3.0, 0.5]), ("LIF", 1, None), ("CLIF", 1, [3.0, 0.5]), ("CLIF", 2, [3.0, 0.5])]
    for some in (networks, networks[1:3]):
        flows = [flow(neuron=neuron, seed=seed) | {"layers": layers(m1)} for neuron, seed, m1 in some]
        gradient_flow.draw(flows, tmp_path / "flow")
    names = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in drawn]
    assert [name for name in names[0] if "alone" in name] == [
        "GLIF, by u alone",
        "CLIF, seed 1, by u alone (M1)",
        "CLIF, seed 2, by u alone (M1)",
    ]
    assert names[1] == ["LIF, trained", "CLIF, trained", "CLIF, by u alone (M1)"]
    lines = [line for line in drawn[0].axes[0].lines if "alone" in line.get_label()]
    assert len({line.get_color() for line in lines}) == 3
    assert drawn[0].axes[0].get_ylabel() == "share of |∂L/∂c|"


def test_networks_of_one_neuron_are_told_apart_by_what_differs(tmp_path):
    """The last one's values stood for both."""
    flows = [flow(neuron="LIF", seed=1), flow(neuron="LIF", seed=2), flow(neuron="CLIF", seed=1)]
    found = gradient_flow.quantities(flows)
    assert {name: value for name, value in found.items() if "cut" in name} == {
        "LIF, seed 1, cut (%)": 1.0,
        "LIF, seed 2, cut (%)": 2.0,
        "CLIF, cut (%)": 1.0,
    }
    assert "| LIF, seed 2, trained: act | " in gradient_flow.table(flows)
    gradient_flow.draw(flows, tmp_path / "flow")

    layer = {"train": {"shift": [0.0, 0.0], "ratio": [1.0, 1.0]}, "test_shared": {"ratio": [1.0, 1.0]}}
    known = {"v_reset": None, "b": 4, "layers": [layer]}
    gaps = [
        flow(neuron="LIF", seed=1, checkpoint=path, **known, accuracy={"train": {}, "test": {"shared": accuracy}})
        for path, accuracy in (("a_.pth", 10.0), ("b.pth", 20.0))
    ]
    text = evaluation_gap.write(gaps, tmp_path, {})
    quantities = json.loads((tmp_path / "evaluation_gap.json").read_text())["quantities"]
    assert quantities == {"LIF, a_.pth, test, shared": 10.0, "LIF, b.pth, test, shared": 20.0}
    assert r"| LIF, seed 1, a\_.pth: " in text
    assert evaluation_gap.table(gaps[:1]).startswith("| batch norm normalises by | LIF, seed 1: ")


@pytest.mark.parametrize(
    ("of", "words", "says"),
    [
        (gradient_flow, ["-neuron", "LIF", "CLIF", "LIF"], "-neuron names LIF twice; leave one of them out"),
        (gradient_flow, ["-resume", "a.pth", "a.pth"], "-resume names a.pth twice"),
        (evaluation_gap, ["-resume", "a.pth", "a.pth"], "-resume names a.pth twice"),
    ],
)
def test_a_network_that_is_named_twice_is_refused(tmp_path, monkeypatch, of, words, says):
    monkeypatch.setattr(sys, "argv", ["figure", *words, "-out_dir", str(tmp_path / "out")])
    with pytest.raises(UsageError, match=says):
        of.main()
    assert not (tmp_path / "out").exists()
