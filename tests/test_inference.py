"""inference.py as its users run it: what it reports, and what it refuses."""

import json

import pytest
import torch

from data import build_dataset
from settings.inference import inference_parser, settle
from settings.rebuild import training_slice
from tests.fixtures_inference import LAYERS, all_files, refused, result


@pytest.mark.slow
def test_a_run_is_evaluated_as_it_was_in_training(run, infer, all_tested):
    code, out, err = infer("-resume", run / "checkpoint_latest.pth")
    assert code == 0, err
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    test = result(run, "evaluation.json")["test"]
    assert test["acc"] == row["test_acc"]
    assert test["loss"] == pytest.approx(row["test_loss"], rel=1e-6)
    assert f"test accuracy {row['test_acc']:.2f}%" in out
    assert "snn5_noAP trained with CLIF, run as CLIF, T = 2" in out
    assert all_files(run / "inference") == ["checkpoint_latest", "checkpoint_latest/evaluation.json"]


def test_sweep_is_the_single_evaluations_side_by_side(run, infer):
    checkpoint = run / "checkpoint_latest.pth"
    code, out, err = infer("-resume", checkpoint, "-sweep")
    assert code == 0, err
    assert sorted(path.name for path in (run / "inference" / "checkpoint_latest").iterdir()) == [
        *("evaluation.json", "sweep.csv", "sweep.json", "sweep.md", "sweep.pdf", "sweep.png")
    ]
    sweep = result(run, "sweep.json")
    fixed = {trial["v_reset"]: trial for trial in sweep["fixed"]}
    assert list(fixed) == [None, 0.0, -0.02, -0.04, -0.06, -0.08, -0.10]
    assert len({trial["loss"] for trial in fixed.values()}) == 7
    assert "| as trained | soft | 0 | -0.02 | -0.04 | -0.06 | -0.08 | -0.10 |" in out
    for word, value in (("soft", None), ("-0.06", -0.06)):
        code, out, err = infer("-resume", checkpoint, "-neuron", "LIF", "-v_reset", word)
        assert code == 0, err
        assert result(run, "evaluation.json")["test"] == {k: fixed[value][k] for k in ("acc", "loss")}
    assert "run as LIF (hard reset to -0.06)" in out
    assert {path.name for path in (run / "inference").iterdir()} == {  # results of other calls stay
        *("checkpoint_latest", "checkpoint_latest_LIF", "checkpoint_latest_LIF_v_reset-0.06")
    }


def test_sweep_takes_other_values(run, infer):
    code, _, err = infer("-resume", run / "checkpoint_latest.pth", "-sweep", "-v_resets", "-0.05", "soft", "1e-3")
    assert code == 0, err
    assert [trial["v_reset"] for trial in result(run, "sweep.json")["fixed"]] == [-0.05, None, 0.001]


def test_calibration_sees_training_samples_only_as_the_test_set_is_seen(run, infer, monkeypatch):
    code, out, err = infer(
        *("-resume", run / "checkpoint_latest.pth", "-calibrate", "-calibrate_samples", 60),
        *("-v_resets", 0, -0.05, "-save_lif", run / "lif.pth"),
    )
    assert code == 0, err
    found = result(run, "sweep.json")["calibrated"]
    assert found["samples"] == pytest.approx(60, abs=10)
    assert list(found["per_layer"]["v_reset"]) == LAYERS
    assert (found["per_layer"]["slice"]["acc"], -found["per_layer"]["slice"]["loss"]) >= (
        found["one_value"]["slice"]["acc"],
        -found["one_value"]["slice"]["loss"],
    )
    assert "calibrated, one value" in out
    assert ("beats the best fixed value" in out) or ("does NOT beat the best fixed value" in out)
    # the converted network is the one that was calibrated per layer
    resets = torch.load(run / "lif.pth", weights_only=True)["v_reset"]
    per_layer = found["per_layer"]["v_reset"]
    assert resets == (per_layer if len(set(per_layer.values())) > 1 else per_layer[LAYERS[0]])


@pytest.mark.parametrize("options", [[], ["-seed", "7"]], ids=str)
def test_the_slice_is_of_what_was_trained_on(options):
    """Whatever -seed draws it: another one would take what was held out, or was never trained on."""
    parser = inference_parser()
    recorded = {"dataset": "digits", "model": "mlp3", "neuron": "CLIF", "T": 2, "seed": 2022}
    recorded |= {"train_fraction": 0.5, "val_split": 0.3}
    settled = settle(parser, parser.parse_args(["-resume", "x", *options]), recorded, None)
    task = build_dataset("digits", T=2)
    trained_on = task.keep_fraction(0.5, 2022).hold_out(0.3, 2022)
    drawn = training_slice(task, settled, 100, "calibrate_samples")
    assert 90 <= len(drawn) <= 110
    assert set(drawn.indices.tolist()) <= set(trained_on.train.indices.tolist())
    assert drawn.labels.bincount().min() >= 5
    assert drawn.batch_transform is task.test.batch_transform
    assert drawn.transform is task.test.transform


def test_account_and_throughput(run, infer, monkeypatch):
    monkeypatch.setattr("accounts.throughput.MOST_RUNS", 10)  # not for five seconds
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", "-profile", "-throughput")
    assert code == 0, err
    account = result(run, "account.json")
    assert list(account["firing_rates"]) == LAYERS
    assert all(0 < rate < 1 for rate in account["firing_rates"].values())
    assert account["parameters"] == sum(
        w.numel()
        for name, w in torch.load(run / "checkpoint_latest.pth", weights_only=True)["net"].items()
        if "running" not in name and "num_batches" not in name
    )
    step = account["operations"]["CLIF, one time step (as Table 6 prints)"]
    assert step["microjoules"] == pytest.approx((0.9 * step["acs"] + 4.6 * step["macs"]) / 1e6)
    assert account["energy"]["CLIF"]["total_mJ"] > 0
    assert account["energy"]["ReLU"]["total_mJ"] > 0
    assert "energy (µJ) = (0.9 pJ·ACs + 4.6 pJ·MACs) / 1e6" in out
    assert "E(M), pJ per access" in out
    assert all(
        (run / "inference/checkpoint_latest" / name).exists()
        for name in ("account.md", "energy.png", "firing_rates.png")
    )

    speed = result(run, "throughput.json")
    assert (speed["batch"], speed["T"]) == (16, 2)
    assert speed["runs"] >= 10
    assert speed["median_ms"] <= speed["p95_ms"]
    assert speed["images_per_second"] == pytest.approx(16 / speed["median_ms"] * 1e3, rel=0.5)
    assert speed["peak_memory_gb"] > 0
    assert set(speed["formulas"]) == {"images_per_second", "latency", "peak_memory_gb"}


def test_another_t_is_run_and_said(run, infer):
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", "-T", 3)
    assert code == 0, err
    assert "note: trained with -T 2, run with -T 3" in out


@pytest.mark.slow
def test_both_kinds_of_statistics_are_reported_and_one_is_chosen(run, infer, all_tested):
    checkpoint = run / "checkpoint_latest.pth"
    code, out, err = infer("-resume", checkpoint, "-sweep", "-v_resets", 0, -0.06)
    assert code == 0, err
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = result(run, "sweep.json")
    assert found["bn_eval"] == "shared"
    assert found["test_per_step"]["acc"] == row["test_acc_per_step"]
    assert found["test_per_step"]["loss"] == pytest.approx(row["test_loss_per_step"], rel=1e-6)
    assert found["test_per_step"] != found["test"]
    assert f"statistics of each step: test accuracy {row['test_acc_per_step']:.2f}%" in out
    assert "CLIF-trained, statistics of each step | " in out
    code, out, err = infer("-resume", checkpoint, "-neuron", "LIF", "-v_reset", -0.06, "-bn_eval", "per_step")
    assert code == 0, err
    assert "float32, batch norm's statistics of each step" in out
    alone = result(run, "evaluation.json")
    trial = found["fixed"][1]
    assert alone["bn_eval"] == "per_step"
    assert alone["test"] == {"acc": trial["acc"], "loss": trial["loss"]}
    assert alone["test_per_step"] == {"acc": trial["acc_per_step"], "loss": trial["loss_per_step"]}


@pytest.mark.slow
def test_a_sequence_longer_than_the_statistics_is_said(run, infer):
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", "-T", 3, "-throughput", "-bn_eval", "per_step")
    assert code == 0, err
    assert "note: batch norm has statistics of 2 steps, and T is 3: with statistics of each step, the last" in out
    assert result(run, "throughput.json")["bn_eval"] == "per_step"


@pytest.mark.parametrize(
    ("neuron", "options", "says"),
    [
        ("CLIF", "-neuron PLIF", "was trained with CLIF; its weights run as that or as LIF"),
        ("CLIF", "-v_reset -0.06", "-v_reset: CLIF has no reset value; add -neuron LIF"),
        ("CLIF", "-neuron LIF -v_reset deep", "'deep' is not a number"),
        ("CLIF", "-neuron LIF -v_reset 1", "argument -v_reset: must be < 1.0, not 1"),
        ("CLIF", "-sweep -v_resets 0 3e38", "argument -v_resets: must be < 1.0, not 3e38"),
        ("CLIF", "-v_resets 0", "-v_resets are the values of -sweep and -calibrate"),
        ("CLIF", "-save_lif lif.pth", "-save_lif: CLIF is to run as itself; add -neuron LIF"),
        ("CLIF", "-model spiking_resnet18", "is of another model"),
        ("CLIF", "-model snn9", "unknown model 'snn9'"),
        ("CLIF", "-dataset digits_dvs", "features.0.fwd.0.weight is [16, 3, 3, 3] there and [16, 2, 3, 3] here"),
        ("CLIF", "-dataset cifar100 -no_download -data_dir nowhere", "cifar-100"),
        ("CLIF", "-T 0", "must be ≥ 1"),
        ("CLIF", "-sweeep", "unknown option -sweeep; did you mean -sweep?"),
        ("CLIF", "-throughput -b 21", "-b 21 is more than the 20 test samples"),
        ("CLIF", "-export n.nir", "layer features.0.act: NIR has no CLIF neuron"),
        ("CLIF", "-neuron LIF -export n.nir", "layer features.0.act: NIR has no soft reset"),
        ("CLIF", "-neuron LIF -v_reset 0 -export n.nir -bn_eval per_step", "-export: NIR has one set of weights"),
        ("CLIF", "-bn_eval perstep", "unknown statistics 'perstep'; did you mean per_step?"),
        ("CLIF", "-bn merged -bn_eval per_step", "batch norm merged over T has no statistics of each step"),
        ("CLIF", "-recalibrate_bn 0", "argument -recalibrate_bn: must be ≥ 1"),
        ("CLIF", "-recalibrate_bn 1", "-recalibrate_bn 1 is less than one sample of each class"),
        ("CLIF", "-save_bn n.pth", "-save_bn writes the statistics of -recalibrate_bn: add that"),
        ("CLIF", "-neuron LIF -recalibrate_bn -save_bn n.pth", "-save_lif writes the LIF network, and its statistics"),
        ("CLIF", "-calibrate -v_resets soft -export n.nir", "-v_resets soft leaves -calibrate no hard reset"),
        ("CLIF", "-calibrate -calibrate_hard -v_resets soft soft", "-v_resets soft leaves -calibrate no hard reset"),
        ("CLIF", f"-out_dir {__file__}/here", "test_inference.py/here"),
        ("CLIF", "-calibrate -calibrate_samples 1", "-calibrate_samples 1 is less than one sample of each class"),
        ("CLIF", "-decay_input", "-decay_input works with weights of LIF and PLIF, and these are of CLIF"),
        ("CLIF", "-neuron LIF -decay_input", "-decay_input works with weights of LIF"),
        ("CLIF", "-neuron LIF -detach_reset", "-detach_reset works with weights of LIF"),
        ("CLIF", "-event_split first", "-event_split: digits has no use for it"),
        ("CLIF", "-seed 7 -sweep", "-seed is for the draws of -calibrate and -recalibrate_bn; leave it out"),
        ("CLIF", "-val_split 0.1", "-val_split is for the draws of -calibrate and -recalibrate_bn; leave it out"),
        ("CLIF", "-loss mean_ce -mse_n_reg", "-mse_n_reg: -loss mean_ce has no use for it"),
        ("PLIF", "-tau 3", "-tau: PLIF has no time constant but what it has learned"),
        ("relu", "-tau 3", "-tau: relu has no time constant"),
        ("PLIF", "-neuron CLIF", "was trained with PLIF"),
        ("relu", "-neuron LIF", "was trained with relu, as an ANN"),
        ("relu", "-sweep", "was trained with relu, as an ANN"),
        ("relu", "-export n.nir", "layer features.0.act: NIR has no ReLU"),
    ],
)
def test_what_cannot_be_met_is_one_line(trained, infer, monkeypatch, tmp_path, neuron, options, says):
    monkeypatch.chdir(tmp_path)
    refused(infer, trained / neuron / "checkpoint_latest.pth", options, says)
    assert all_files(tmp_path) == []


def test_more_steps_than_memory_can_count_are_one_line(trained, infer):
    before = all_files(trained)
    code, _, err = infer("-resume", trained / "CLIF" / "checkpoint_latest.pth", "-T", 2**63 - 1)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"-T {2**63 - 1} is more steps" in err
    assert all_files(trained) == before


def test_broken_checkpoints_and_settings_are_one_line(run, infer):
    checkpoint, config = run / "checkpoint_latest.pth", run / "config.json"
    settings = json.loads(config.read_text())
    state = torch.load(checkpoint, weights_only=True)
    del state["settings"]  # as older checkpoints are: config.json is all that is known
    torch.save(state, checkpoint)
    refused(infer, run / "gone.pth", "", "no checkpoint at")
    config.write_text("{")
    refused(infer, checkpoint, "", "config.json is damaged: it is not JSON")
    config.write_text("[]")
    refused(infer, checkpoint, "", "config.json is damaged: it holds no settings")
    config.write_text(json.dumps({**settings, "T": 0}))
    refused(infer, checkpoint, "", "config.json: error: argument -T: must be ≥ 1, not 0")
    config.write_text(json.dumps({**settings, "dataset": "cifar11"}))
    refused(infer, checkpoint, "", "config.json: error: argument -dataset: unknown data set 'cifar11'")
    config.write_text(json.dumps(settings))
    state = torch.load(checkpoint, weights_only=True)
    resets = {**dict.fromkeys(LAYERS, 0.0), "features.9.act": 0.0}
    torch.save({**state, "model": "snn5_noAP", "neuron": "LIF", "v_reset": resets}, run / "lif.pth")
    refused(infer, run / "lif.pth", "", "v_reset per layer: features.9.act: the network has no such neuron layer")
    torch.save({**state, "model": "snn5_noAP", "neuron": "LIF", "v_reset": {"a": "deep"}}, run / "lif.pth")
    refused(infer, run / "lif.pth", "", "lif.pth: v_reset is to be a number for each layer")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    refused(infer, checkpoint, "", "is truncated")
