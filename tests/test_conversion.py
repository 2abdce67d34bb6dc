"""The LIF twin of a network, the choice of its reset value, and Table 8."""

import copy
import csv
import io
import json

import pytest
import torch

from deploy import table8
from deploy.conversion import FIXED_RESETS, Score, calibrate, lif_checkpoint, lif_twin, neuron_layers, sweep
from models import build_model
from tests.fixtures_inference import LAYERS
from tests.golden import fill_, normal, read_golden
from tests.test_golden import build, input_and_labels
from utils.checkpoint import load_weights, save_checkpoint
from utils.loss import bptt_loss

GOLDEN = read_golden("networks")
# tests/test_golden.py runs ResNet-101 as LIF, too; once is enough
CASES = [case for case in GOLDEN if "-CLIF-" in case and "resnet101" not in case]


def trained_as(golden):
    """The network of a golden case after its training steps."""
    config = golden["config"]
    net = fill_(build(config)).train()
    x_seq, labels = input_and_labels(config)
    optimizer = torch.optim.SGD(
        net.parameters(), config["lr"], momentum=config["momentum"], weight_decay=config["weight_decay"]
    )
    names = ("loss_lambda", "loss_means", "mse_n_reg", "label_smoothing")
    for _ in golden["train"]:
        optimizer.zero_grad()
        bptt_loss(net(x_seq), labels, **{name: config[name] for name in names}).backward()
        optimizer.step()
    return net.eval(), x_seq


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if "spiking" in case else ()) for case in CASES],
)
def test_twins_match_golden(case):
    """What inference.py runs for ``-neuron LIF`` and ``-sweep``, against the published code's numbers."""
    golden = GOLDEN[case]
    net, x_seq = trained_as(golden)
    expected = {None if key == "None" else float(key): logits for key, logits in golden["eval_as_lif"].items()}
    assert set(expected) == {None, 0.0, -0.06}
    seen = {}

    @torch.no_grad()
    def score(twin):
        seen[next(iter(neuron_layers(twin).values())).v_reset] = twin(x_seq)
        return Score(0.0, 0.0)

    sweep(net, score, list(expected))
    for v_reset, logits in expected.items():
        torch.testing.assert_close(seen[v_reset], torch.tensor(logits, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.fixture
def net():
    """A small CLIF network whose neurons fire, in float64, with statistics of its own."""
    return firing(build_model("snn5_noAP", "CLIF"))


@pytest.fixture
def x_seq():
    return normal("x", (4, 2, 3, 32, 32))


@torch.no_grad()
def firing(net, frame=(3, 32, 32)):
    """Fill a network and let its batch norms see data, so that its neurons fire."""
    fill_(net.double()).train()
    for step in range(8):
        net(normal(f"batch {step}", (4, 2, *frame)))
    return net.eval()


@torch.no_grad()
def test_twin_shares_weights_and_leaves_the_network_alone(net, x_seq):
    before = copy.deepcopy(net)(x_seq)
    twin = lif_twin(net, -0.06)
    assert {type(n).__name__ for n in neuron_layers(twin).values()} == {"LIF"}
    assert {type(n).__name__ for n in neuron_layers(net).values()} == {"CLIF"}
    ours, theirs = dict(net.state_dict(keep_vars=True)), dict(twin.state_dict(keep_vars=True))
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)
    assert not torch.equal(twin(x_seq), before)  # LIF is another network
    assert torch.equal(net(x_seq), before)


@torch.no_grad()
def test_one_value_is_the_same_value_for_each_layer(net, x_seq):
    assert list(neuron_layers(net)) == LAYERS
    assert torch.equal(lif_twin(net, -0.06)(x_seq), lif_twin(net, dict.fromkeys(LAYERS, -0.06))(x_seq))
    mixed = lif_twin(net, {**dict.fromkeys(LAYERS, -0.06), LAYERS[1]: None})
    assert [neuron.v_reset for neuron in neuron_layers(mixed).values()] == [-0.06, None, -0.06, -0.06, -0.06]
    assert not torch.equal(mixed(x_seq), lif_twin(net, -0.06)(x_seq))


@torch.no_grad()
@pytest.mark.parametrize("v_reset", [None, -0.06])
def test_plif_keeps_what_it_has_learned(x_seq, v_reset):
    plif = firing(build_model("snn5_noAP", "PLIF", v_reset=v_reset))
    taus = [1 / neuron.w.sigmoid().item() for neuron in neuron_layers(plif).values()]
    assert len(set(taus)) == 5
    twin = lif_twin(plif, v_reset)
    assert [neuron.tau for neuron in neuron_layers(twin).values()] == pytest.approx(taus, rel=1e-12)
    torch.testing.assert_close(twin(x_seq), plif(x_seq), rtol=1e-9, atol=1e-9)
    assert not any(name.endswith(".w") for name in twin.state_dict())
    assert not torch.allclose(lif_twin(plif, v_reset, tau=2.0)(x_seq), plif(x_seq))


def test_wrong_layers_and_networks_without_spikes_are_refused(net):
    with pytest.raises(ValueError, match=r"v_reset per layer: features\.9\.act: the network has no such"):
        lif_twin(net, {**dict.fromkeys(LAYERS), "features.9.act": 0.0})
    with pytest.raises(ValueError, match=r"features\.0\.act: it is left out"):
        lif_twin(net, dict.fromkeys(LAYERS[1:]))
    with pytest.raises(ValueError, match="no spiking neurons"):
        lif_twin(build_model("snn5_noAP", "relu"))


@torch.no_grad()
def test_checkpoint_holds_plain_values_and_comes_back(net, x_seq, tmp_path):
    resets = {**dict.fromkeys(LAYERS, -0.02), LAYERS[2]: None}
    state = lif_checkpoint(lif_twin(net, resets), {"T": 4})
    assert (state["neuron"], state["tau"], state["v_reset"], state["T"]) == ("LIF", 2.0, resets, 4)
    assert lif_checkpoint(lif_twin(net, -0.02), {})["v_reset"] == -0.02
    assert lif_checkpoint(lif_twin(net), {})["v_reset"] is None
    save_checkpoint(state, tmp_path / "lif.pth")
    again = build_model("snn5_noAP", "LIF").double()
    loaded = load_weights(again, tmp_path / "lif.pth")
    twin = lif_twin(again, loaded["v_reset"], loaded["tau"]).eval()
    assert torch.equal(twin(x_seq), lif_twin(net, resets)(x_seq))


class Bowl:
    """A scorer with one best reset per layer: loss is the squared distance from it; a soft reset is the best or bad."""

    def __init__(self, targets):
        self.targets, self.seen = targets, []

    def __call__(self, twin):
        values = tuple(neuron.v_reset for neuron in neuron_layers(twin).values())
        self.seen.append(values)
        return Score(50.0, sum(map(self.distance, values, self.targets)))

    @staticmethod
    def distance(value, target):
        if value is None or target is None:
            return 0.0 if value is target else 1.0
        return (value - target) ** 2


def test_calibration_finds_the_network_value_and_then_each_layers(net):
    bowl = Bowl([-0.05, -0.09, -0.01, -0.05, -0.05])
    found = calibrate(net, bowl)
    assert found.network == -0.05  # their mean: between two of Table 8's values
    assert found.layers == dict(zip(LAYERS, [-0.05, -0.09, -0.01, -0.05, -0.05], strict=True))
    assert found.layers_score.loss == pytest.approx(0)
    assert found.layers_score.beats(found.network_score)
    assert found.trials == len(bowl.seen) == len(set(bowl.seen))  # nothing is run twice


def test_calibration_leaves_the_fixed_range_and_mixes_soft_with_hard(net):
    found = calibrate(net, Bowl([-0.30] * 5))
    assert found.network == -0.30
    found = calibrate(net, Bowl([-0.04, -0.04, None, -0.04, -0.04]))
    assert found.layers == dict(zip(LAYERS, [-0.04, -0.04, None, -0.04, -0.04], strict=True))
    assert calibrate(net, Bowl([None] * 5)).network is None
    hard = [value for value in FIXED_RESETS if value is not None]
    assert None not in calibrate(net, Bowl([-0.04, -0.04, None, -0.04, -0.04]), hard).layers.values()
    assert calibrate(net, Bowl([-5.0] * 5), hard).network == -1.0  # it does not run away


def test_accuracy_comes_before_loss():
    assert Score(90.0, 2.0).beats(Score(89.0, 1.0))
    assert Score(90.0, 1.0).beats(Score(90.0, 2.0))
    assert not Score(90.0, 1.0).beats(Score(90.0, 1.0))


def sweep_of(neuron, seed, accuracies, calibrated=None):
    """A sweep.json as inference.py writes it, with only what Table 8 reads."""
    return {
        **{"dataset": "digits", "model": "snn5", "T": 6, "trained_with": neuron, "seed": seed, "test": {"acc": 95.0}},
        "fixed": [{"v_reset": v, "acc": acc} for v, acc in zip(FIXED_RESETS, accuracies, strict=True)],
        "calibrated": calibrated and {key: {"test": {"acc": acc}} for key, acc in calibrated.items()},
    }


def test_table_8_takes_the_mean_over_seeds_and_says_what_calibration_gains(tmp_path):
    results = [
        sweep_of("CLIF", 1, [80, 90, 91, 92, 93, 92, 91], {"one_value": 93.0, "per_layer": 94.0}),
        sweep_of("CLIF", 2, [82, 90, 91, 92, 94, 92, 91], {"one_value": 92.0, "per_layer": 95.0}),
        sweep_of("LIF", 1, [95, 60, 50, 40, 30, 20, 10]),
    ]
    text = table8.write_table(results, tmp_path, "table8")
    header, _, clif, lif, *_ = text.splitlines()
    assert header.split(" | ")[1:9] == ["as trained", "soft", "0", "-0.02", "-0.04", "-0.06", "-0.08", "-0.10"]
    assert "CLIF-trained (2 seeds) | 95.00 ± 0.00 | 81.00 ± 1.41 | 90.00 ± 0.00" in clif
    assert "| **93.50 ± 0.71** |" in clif
    assert lif.startswith("| digits, snn5, T = 6: LIF-trained | 95.00 | **95.00** | 60.00")
    assert "best fixed reset (-0.06) 93.50 %, 1.50 points worse than as trained" in text
    assert "one value: 92.50 %, does NOT beat the best fixed value on the test set: 1.00 points worse" in text
    assert "per layer: 94.50 %, beats the best fixed value on the test set: 1.00 points better" in text
    assert "LIF-trained: as LIF with its best fixed reset (soft) 95.00 %, no better and no worse" in text

    lines = list(csv.DictReader(io.StringIO((tmp_path / "table8.csv").read_text())))
    assert list(lines[1].values()) == ["digits, snn5, T = 6: CLIF-trained", "soft", "81.0000", "1.4142", "2"]
    assert json.loads((tmp_path / "table8.json").read_text())["sweeps"] == results
    assert (tmp_path / "table8.png").read_bytes().startswith(b"\x89PNG")


def test_table_8_has_a_row_for_each_kind_of_statistics(tmp_path):
    result = sweep_of("CLIF", 1, [80, 90, 91, 92, 93, 92, 91], {"one_value": 93.0, "per_layer": 94.0})
    result["test_per_step"] = {"acc": 97.0}
    for trial in result["fixed"]:
        trial["acc_per_step"] = trial["acc"] + 2
    for of in result["calibrated"].values():
        of["test_per_step"] = {"acc": of["test"]["acc"] + 1}
    text = table8.write_table([result, sweep_of("LIF", 1, [95, 60, 50, 40, 30, 20, 10])], tmp_path, "table8")
    _, _, shared, per_step, lif, *_ = text.splitlines()
    assert shared.startswith("| digits, snn5, T = 6: CLIF-trained | 95.00 | 80.00 |")
    assert per_step.startswith("| digits, snn5, T = 6: CLIF-trained, statistics of each step | 97.00 | 82.00 |")
    assert per_step.endswith("| 94.00 | 95.00 |")
    assert lif.startswith("| digits, snn5, T = 6: LIF-trained | 95.00")
    assert "shared by all steps, as in the paper" in text
    assert "CLIF-trained, statistics of each step: calibrated, per layer: 95.00 %, does NOT beat" in text
    # four networks, eight lines, one picture
    others = [sweep_of(f"N{i}", 1, [1] * 7) | {"test_per_step": {"acc": 1}} for i in range(4)]
    for other in others:
        for trial in other["fixed"]:
            trial["acc_per_step"] = 1
    table8.write_table(others, tmp_path, "table8")


def test_sweeps_that_do_not_belong_in_one_row_are_refused():
    other = sweep_of("CLIF", 2, [1] * 7)
    other["fixed"].pop()
    with pytest.raises(ValueError, match="CLIF-trained: one sweep has as trained, soft"):
        table8.rows_of([sweep_of("CLIF", 1, [1] * 7), other])
    one = sweep_of("CLIF", 1, [1] * 7) | {"checkpoint": "a/checkpoint_max.pth"}
    with pytest.raises(ValueError, match="two sweeps are of one run in a, seed 1"):
        table8.rows_of([one, one | {"checkpoint": "a/checkpoint_latest.pth"}])
    with pytest.raises(ValueError, match="sweeps of one row differ in -tau"):
        table8.rows_of([one, sweep_of("CLIF", 2, [1] * 7) | {"tau": 1.5}])
