"""Figures 7 and 8: the traces are the neurons' own, and the same seed gives the same bytes."""

import json
import runpy
import sys
import warnings

import numpy as np
import pytest
import torch

from figures import neuron_traces
from neurons import build_neuron


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
