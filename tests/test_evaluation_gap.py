"""What batch norm's shared statistics cost: measured on a small network, against statistics taken by hand."""

import json

import pytest
import torch

from figures import evaluation_gap, gap_measure
from models import build_model, recalibrate, use_statistics
from models.statistics import batch_norms
from reproduction.recipe import load_recipes
from tests.helpers import run_training

T, N = 3, 8
TRAIN = "-dataset digits -model mlp3 -T 3 -b 16 -epochs 1 -T_max 1 -train_fraction 0.05 -no_amp -device cpu"


def batches(scale=1.0, seed=7):
    """Four batches whose steps differ in mean and variance; labels are what the first pixels say."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(1, T + 1)[:, None, None, None, None]
    made = []
    for _ in range(4):
        labels = torch.randint(10, (N,), generator=generator)
        x_seq = torch.randn(T, N, 1, 8, 8, generator=generator) * steps * scale + steps
        made.append((x_seq, labels))
    return made


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = build_model("mlp3", "LIF", in_channels=1, input_size=8)
    for x_seq, _ in batches(seed=1):
        net(x_seq)
    return net.eval()


def load(train, test):
    return {"train": lambda: iter(train), "test": lambda: iter(test)}


def test_accuracies_are_those_of_each_way(net):
    train, test = batches(), batches(seed=8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = gap_measure.evaluation_gap(net, load(train, test))["accuracy"]
    assert found["test"].keys() == found["train"].keys() == gap_measure.WAYS.keys()
    assert found["test"]["shared"] == gap_measure.accuracy(net, test)
    use_statistics(net, "per_step")
    assert found["test"]["per_step"] == gap_measure.accuracy(net, test)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())  # left untouched
    recalibrate(net, train)
    assert found["test"]["per_step_again"] == gap_measure.accuracy(net, test)
    assert found["train"]["per_step_again"] == gap_measure.accuracy(net, train)
    use_statistics(net, "shared")
    assert found["test"]["mean_of_steps"] == gap_measure.accuracy(net, test)


def test_batch_statistics_are_those_of_training(net):
    train = batches()
    found = gap_measure.evaluation_gap(net, load(train, batches(seed=8)))
    assert found["accuracy"]["train"]["batch"] == gap_measure.accuracy(net.train(), train)  # there is no dropout


def test_shift_and_ratio_are_those_of_the_first_layer_s_inputs(net):
    train = batches()
    found = gap_measure.evaluation_gap(net, load(train, batches(seed=8)))
    first = found["layers"][0]
    inputs = [net.features[0].fwd[0](x_seq.flatten(-3)[..., None, None]).detach().double() for x_seq, _ in train]
    var = torch.stack([x.var(dim=(1, 3, 4)) for x in inputs]).mean(0)  # [T, C]
    mean = torch.stack([x.mean(dim=(1, 3, 4)) for x in inputs]).mean(0)
    eps = batch_norms(net)[0].eps
    shift = ((mean - mean.mean(0)).square() / (var.mean(0) + eps)).mean(1).sqrt()
    ratio = ((var + eps) / (var.mean(0) + eps)).log().mean(1).exp()
    assert first["train"]["shift"] == pytest.approx(shift.tolist(), rel=1e-4)
    assert first["train"]["ratio"] == pytest.approx(ratio.tolist(), rel=1e-4)
    assert first["train"]["ratio"] == sorted(first["train"]["ratio"])  # the steps' variance grows
    assert first["channels"] == 128
    # nothing stands before the first norm that shared statistics could have led astray
    for quantity in ("shift", "ratio"):
        assert first["test_shared"][quantity] == pytest.approx(first["test"][quantity], rel=1e-4)
    assert found["layers"][1]["test_shared"]["ratio"] != pytest.approx(found["layers"][1]["test"]["ratio"], rel=1e-4)


def test_equal_steps_leave_no_gap(net):
    train = [(x_seq[:1].expand(T, -1, -1, -1, -1), labels) for x_seq, labels in batches()]
    first = gap_measure.evaluation_gap(net, load(train, train))["layers"][0]["train"]
    assert max(first["shift"]) < evaluation_gap.SAME
    assert first["ratio"] == pytest.approx([1.0] * T)


def test_weights_without_statistics_of_each_step_and_merged_ones(net):
    for norm in batch_norms(net):
        norm.running_mean_t = norm.running_var_t = None
    found = gap_measure.evaluation_gap(net, load(batches(), batches(seed=8)))["accuracy"]
    assert found["test"].keys() == gap_measure.WAYS.keys() - {"per_step"}
    merged = build_model("mlp3", "LIF", in_channels=1, input_size=8, bn="merged")
    with pytest.raises(ValueError, match="no batch norm that sees one step"):
        gap_measure.evaluation_gap(merged, load(batches(), batches()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs folder with a small trained network of each neuron."""
    folder = tmp_path_factory.mktemp("runs")
    for neuron in ("LIF", "CLIF"):
        result = run_training(*TRAIN.split(), "-neuron", neuron, "-out_dir", folder, "-name", neuron, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def main(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["evaluation_gap", *map(str, words)])
    evaluation_gap.main()


@pytest.mark.slow
def test_command_writes_table_data_and_figure(runs, tmp_path, monkeypatch, capsys):
    checkpoints = [runs / neuron / "checkpoint_latest.pth" for neuron in ("LIF", "CLIF")]
    main(monkeypatch, "-resume", *checkpoints, "-device", "cpu", "-out_dir", tmp_path / "gap")
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "gap" / "evaluation_gap.json").read_text())
    assert [network["neuron"] for network in found["networks"]] == ["LIF", "CLIF"]
    assert {"commit", "date"} <= found["made_with"].keys()
    for network in found["networks"]:
        (row,) = [json.loads(line) for line in (runs / network["neuron"] / "metrics.jsonl").read_text().splitlines()]
        assert network["accuracy"]["test"]["shared"] == pytest.approx(row["test_acc"])
        assert network["accuracy"]["test"]["per_step"] == pytest.approx(row["test_acc_per_step"])
        assert network["samples"] == {"train": network["samples"]["train"], "test": 359}
        assert 60 < network["samples"]["train"] < 80  # what it was trained on, no more
        assert f"| {network['accuracy']['test']['shared']:.2f} |" in said
    assert (tmp_path / "gap" / "evaluation_gap.md").read_text() in said
    assert (tmp_path / "gap" / "evaluation_gap.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "gap" / "evaluation_gap.pdf").read_bytes().startswith(b"%PDF")

    recipe = load_recipes()["evaluation_gap"]
    assert recipe.runs[-1].paper.keys() == found["quantities"].keys()
    assert found["quantities"]["LIF, test, shared"] == found["networks"][0]["accuracy"]["test"]["shared"]


def test_some_samples_of_each_set(runs, tmp_path, monkeypatch):
    words = ("-resume", runs / "LIF" / "checkpoint_latest.pth", "-device", "cpu", "-out_dir", tmp_path / "gap")
    main(monkeypatch, *words, "-samples", 40)
    (network,) = json.loads((tmp_path / "gap" / "evaluation_gap.json").read_text())["networks"]
    assert all(30 <= taken <= 50 for taken in network["samples"].values())
    with pytest.raises(evaluation_gap.UsageError, match="-samples 1 is less than one sample of each class"):
        main(monkeypatch, *words, "-samples", 1)


def test_a_checkpoint_without_settings_is_refused(runs, tmp_path, monkeypatch):
    state = torch.load(runs / "LIF" / "checkpoint_latest.pth", weights_only=True)
    torch.save(state["net"], tmp_path / "bare.pth")
    with pytest.raises(evaluation_gap.UsageError, match=r"no config\.json beside"):
        main(monkeypatch, "-resume", tmp_path / "bare.pth", "-device", "cpu", "-out_dir", tmp_path / "gap")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.pth"]
