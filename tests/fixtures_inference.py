"""What the tests of inference.py share: small trained networks, and calls of it on them."""

import json
import runpy
import shutil
import sys

import pytest
import torch

from data.digits import FEW_TESTED
from tests.helpers import ROOT, run_training

SCRIPT = ROOT / "inference.py"
LAYERS = [f"features.{i}.act" for i in range(5)]  # of snn5_noAP
TRAIN = "-dataset digits -model snn5_noAP -T 2 -b 16 -epochs 1 -T_max 1 -train_fraction 0.2 -no_amp -device cpu"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Runs folder with a small trained network of each neuron, for reading only."""
    runs = tmp_path_factory.mktemp("runs")
    for neuron in ("CLIF", "PLIF", "relu"):
        result = run_training(*TRAIN.split(), "-neuron", neuron, "-out_dir", runs, "-name", neuron, cwd=runs)
        assert result.returncode == 0, result.stderr
    return runs


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the CLIF run's folder."""
    shutil.copytree(trained / "CLIF", tmp_path / "CLIF")
    return tmp_path / "CLIF"


@pytest.fixture
def infer(monkeypatch, capsys):
    """Run inference.py as a program, on few of the test digits: arguments → (exit code, stdout, stderr)."""
    monkeypatch.setattr("data.digits._tested", FEW_TESTED)

    def call(*args):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "-device", "cpu", *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def all_tested(infer, monkeypatch):
    """On all of them, as in training."""
    monkeypatch.setattr("data.digits._tested", None)


def result(run, name):
    """What the last call has written under this name; each way to run a checkpoint has a folder of its own."""
    return json.loads(max((run / "inference").rglob(name), key=lambda path: path.stat().st_mtime_ns).read_text())


def published(run, name):
    """The run's weights as the published code would have left them: without statistics of each step."""
    state = torch.load(run / "checkpoint_latest.pth", weights_only=True)
    weights = {key: value for key, value in state["net"].items() if not key.endswith("_t")}
    (run / name).mkdir()
    torch.save({"net": weights, "epoch": 1, "max_test_acc": 0.5}, run / name / "authors.pth")
    torch.save(weights, run / name / "bare.pth")
    return run / name


def all_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refused(infer, checkpoint, options, *says):
    """Exit code 2, one line that holds ``says``, and nothing written."""
    before = all_files(checkpoint.parent)
    code, out, err = infer("-resume", checkpoint, *options.split())
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("inference.py: ")
    assert err.count("\n") == 1, err
    for part in says:
        assert part in err
    assert all_files(checkpoint.parent) == before
