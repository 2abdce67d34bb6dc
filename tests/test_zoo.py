"""Trained networks: files as published, loaded everywhere by ``zoo:NAME``, their evaluation as their cards print it."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import inference
import train_BPTT
import utils.zoo
import zoo.__main__ as publish
from models import build_model
from settings.training import OPTIONS
from tests.helpers import ROOT, contents
from utils.checkpoint import CheckpointError, load_weights, read_checkpoint, save_checkpoint
from zoo.cards import CARDS, cards

REGISTRY = utils.zoo.read_registry()
MEASURED = re.compile(r"accuracy ([\d.]+)%|loss ([\d.]+)")
CLIF = "digits_CLIF"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where its package installs it


def test_files_are_those_that_were_published_and_small():
    files = {entry["file"]: entry for entry in REGISTRY.values()}
    for file, entry in files.items():
        content = (utils.zoo.ZOO / file).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (entry["sha256"], entry["bytes"])
    assert {path.name for path in utils.zoo.ZOO.glob("*.safetensors")} == files.keys()
    assert sum(entry["bytes"] for entry in files.values()) < 25e6


def test_cards_are_those_of_the_registry():
    assert (utils.zoo.ZOO / CARDS).read_text() == cards(REGISTRY), "run python -m zoo"


# one network over Fashion-MNIST's 10,000 images takes 20 seconds
LONG = [name for name in REGISTRY if name.startswith("fashion")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in REGISTRY])
def test_evaluation_prints_what_its_card_says(name, tmp_path, monkeypatch, capsys):
    """To one test image (of 10,000: six) and 0.005 of the loss: sums run in another order on another processor."""
    if name.startswith("fashion_mnist") and not DEBIAN.is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # not of this network, though it stands where it is started
    inference.infer(["-resume", f"zoo:{name}", "-device", "cpu"])
    said, known = capsys.readouterr().out.splitlines(), REGISTRY[name]["output"]
    assert [MEASURED.sub("#", line) for line in said] == [MEASURED.sub("#", line) for line in known]
    samples = int(re.search(r"\((\d+) samples\)", "".join(known))[1])
    here, there = (MEASURED.findall("\n".join(lines)) for lines in (said, known))
    for (accuracy, loss), (known_accuracy, known_loss) in zip(here, there, strict=True):
        assert float(accuracy or 0) == pytest.approx(float(known_accuracy or 0), abs=max(100 / samples, 0.05) + 0.01)
        assert float(loss or 0) == pytest.approx(float(known_loss or 0), abs=0.005)
    assert (tmp_path / "logs/zoo" / name / f"inference/{name}/evaluation.json").is_file()


@torch.no_grad()
def test_pre_train_and_torch_hub_take_the_same_weights():
    stored = load_file(utils.zoo.ZOO / REGISTRY[CLIF]["file"])
    net = build_model("snn5_noAP", "CLIF", **REGISTRY[CLIF]["shape"]).eval()
    load_weights(net, f"zoo:{CLIF}")  # what -pre_train does
    for name, value in net.state_dict().items():
        assert torch.equal(value, stored[name].to(value.dtype)), name
    pretrained = torch.hub.load(str(ROOT), "pretrained", CLIF, source="local")
    x_seq = torch.rand(4, 2, 3, 32, 32)
    assert not pretrained.training
    assert torch.equal(pretrained(x_seq), net(x_seq))
    clif = torch.hub.load(str(ROOT), "neuron", "CLIF", source="local", tau=1.5)
    assert (type(clif).__name__, clif.tau) == ("CLIF", 1.5)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The zoo in another folder, to be damaged or added to."""
    folder = tmp_path / "zoo"
    shutil.copytree(utils.zoo.ZOO, folder, ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    monkeypatch.setattr(utils.zoo, "ZOO", folder)
    monkeypatch.setattr(publish, "ZOO", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def refusal(capsys, main, *words):
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_what_is_damaged_or_not_there_is_one_line(copy, capsys):
    file = copy / REGISTRY[CLIF]["file"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    said = refusal(capsys, inference.main, "-resume", f"zoo:{CLIF}")
    assert f"{file} is damaged: its SHA-256 is" in said
    file.unlink()
    said = refusal(capsys, train_BPTT.main, "-dataset", "digits", "-model", "snn5_noAP", "-pre_train", f"zoo:{CLIF}")
    assert f"{file} cannot be read: No such file" in said
    assert "zoo:digits_CLIFF is no network of the zoo; did you mean zoo:digits_CLIF? (known: digits_CLIF" in refusal(
        capsys, inference.main, "-resume", "zoo:digits_CLIFF"
    )
    (copy / "registry.json").write_text("{")
    assert "registry.json is missing or damaged" in refusal(capsys, inference.main, "-resume", f"zoo:{CLIF}")
    assert sorted(path.name for path in copy.parent.iterdir()) == ["zoo"]


def test_a_network_of_the_zoo_is_no_run_to_resume(copy, capsys):
    command = ["-dataset", "digits", "-model", "snn5_noAP", "-T", "4", "-b", "64", "-resume", f"zoo:{CLIF}"]
    said = refusal(capsys, train_BPTT.main, *command)
    assert f"zoo:{CLIF} cannot be resumed" in said
    assert "-pre_train starts from its weights" in said
    assert sorted(path.name for path in copy.parent.iterdir()) == ["zoo"]


def test_networks_are_added_and_a_twin_shares_its_file(copy, tmp_path, capsys):
    net = build_model("mlp3", "CLIF", T=2, num_classes=10, in_channels=3, input_size=32)
    settings = {name: known for name, known in REGISTRY[CLIF]["checkpoint"]["settings"].items() if name in OPTIONS}
    state = {"net": net.state_dict(), "settings": {**settings, "model": "mlp3", "T": 2}}
    save_checkpoint(state, tmp_path / "clif.pth")
    save_checkpoint({**state, "trained_with": "CLIF", "neuron": "LIF", "v_reset": -0.06}, tmp_path / "lif.pth")
    for name in ("clif", "lif"):
        told = ["-name", f"small_{name}", "-title", "A small one", "-command", "python x"]
        publish.main([str(tmp_path / f"{name}.pth"), *told])
    said = capsys.readouterr().out
    assert "mlp3 trained with CLIF, run as CLIF, T = 2, cpu, float32" in said
    assert "mlp3 trained with CLIF, run as LIF (hard reset to -0.06), T = 2" in said
    registry = json.loads((copy / "registry.json").read_text())
    assert list(registry) == [*REGISTRY, "small_clif", "small_lif"]
    assert registry["small_lif"]["file"] == registry["small_clif"]["file"] == "small_clif.safetensors"
    assert registry["small_lif"]["output"][-1] == "results: logs/zoo/small_lif/inference/small_lif"
    page = (copy / CARDS).read_text()
    assert page == cards(registry)
    weights = read_checkpoint("zoo:small_clif")["net"]
    assert {name for name, value in weights.items() if value.dtype == torch.float16} == {
        name for name, value in net.named_parameters() if value.dim() > 1
    }
    assert all(torch.equal(value, net.state_dict()[name].to(value.dtype)) for name, value in weights.items())
    (copy / "registry.json").unlink()
    save_checkpoint({"net": net.state_dict()}, tmp_path / "bare.pth")
    assert "does not say what it was trained on" in refusal(capsys, publish.main, str(tmp_path / "bare.pth"), *told)
    with pytest.raises(CheckpointError, match="missing"):
        utils.zoo.read_registry()


def test_what_is_published_stays_as_it_is(copy, tmp_path, capsys):
    state = read_checkpoint(f"zoo:{CLIF}")
    unlike = {**state, "settings": {**state["settings"], "model": "mlp3"}}  # weights that do not fit
    save_checkpoint(unlike, tmp_path / "shares.pth")
    save_checkpoint({**unlike, "net": {"weight": torch.zeros(2, 2)}}, tmp_path / "new.pth")
    (copy / "taken.safetensors").touch()
    before = contents(tmp_path)
    for checkpoint, name, says in (
        ("gone.pth", CLIF, f"-name {CLIF}: the zoo has a network of that name; choose another name"),
        ("new.pth", "taken", f"-name taken: {copy / 'taken.safetensors'} is there already; choose another name"),
        ("new.pth", "new", "zoo:new"),
        ("shares.pth", "shares", "zoo:shares"),
    ):
        said = refusal(capsys, publish.main, checkpoint, "-name", name, "-title", "A", "-command", "python x")
        assert says in said
        assert contents(tmp_path) == before
