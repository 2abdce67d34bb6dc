"""inference.py and run_inference_script.sh as their users run them."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data import build_dataset
from data.digits import FEW_TESTED
from settings.inference import inference_parser, settle
from settings.rebuild import training_slice
from tests.helpers import assert_refused, run_training

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "inference.py"
LAYERS = [f"features.{i}.act" for i in range(5)]  # of snn5_noAP
TRAIN = "-dataset digits -model snn5_noAP -T 2 -b 16 -epochs 1 -T_max 1 -train_fraction 0.2 -no_amp -device cpu"


@pytest.fixture(scope="module")
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


def all_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


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


def test_the_slice_is_of_what_was_trained_on(run):
    parser_args = inference_parser().parse_args(
        ["-resume", "x", "-calibrate_samples", "100", "-train_fraction", "0.5", "-val_split", "0.3", "-seed", "2022"]
    )
    task = build_dataset("digits", T=2)
    trained_on = task.keep_fraction(0.5, 2022).hold_out(0.3, 2022)
    drawn = training_slice(task, parser_args, 100, "calibrate_samples")
    assert 90 <= len(drawn) <= 110
    assert set(drawn.indices.tolist()) <= set(trained_on.train.indices.tolist())
    assert drawn.labels.bincount().min() >= 5
    assert drawn.batch_transform is task.test.batch_transform
    assert drawn.transform is task.test.transform


def test_a_converted_checkpoint_is_loaded_by_both_scripts(run, infer, tmp_path):
    lif = tmp_path / "away" / "lif.pth"
    code, out, err = infer(
        "-resume", run / "checkpoint_latest.pth", *["-neuron", "LIF", "-v_reset", "-0.06", "-save_lif"], lif
    )
    assert code == 0, err
    before = result(run, "evaluation.json")
    state = torch.load(lif, weights_only=True)
    assert {name: state[name] for name in ("neuron", "v_reset", "tau", "T", "trained_with")} == {
        **{"neuron": "LIF", "v_reset": -0.06, "tau": 2.0, "T": 2, "trained_with": "CLIF"}
    }
    code, out, err = infer("-resume", lif, "-b", 16)  # away from its config.json
    assert code == 0, err
    assert "trained with CLIF, run as LIF (hard reset to -0.06), T = 2" in out
    assert result(lif.parent, "evaluation.json")["test"] == before["test"]

    state["v_reset"] = {**dict.fromkeys(LAYERS, -0.06), LAYERS[0]: None}
    torch.save(state, lif)
    code, out, err = infer("-resume", lif)
    assert code == 0, err
    assert "(reset per layer: features.0.act soft, features.1.act -0.06" in out
    assert result(lif.parent, "evaluation.json")["test"] != before["test"]

    words = f"-neuron LIF -pre_train {lif} -lr 1e-9 -out_dir {tmp_path} -name on"
    assert run_training(*TRAIN.split(), *words.split(), cwd=tmp_path).returncode == 0
    on = torch.load(tmp_path / "on" / "checkpoint_latest.pth", weights_only=True)["net"]
    torch.testing.assert_close(on["classifier.weight"], state["net"]["classifier.weight"])


def test_plif_runs_as_lif_with_what_it_has_learned(trained, infer, tmp_path, all_tested):
    checkpoint = trained / "PLIF" / "checkpoint_latest.pth"
    weights = torch.load(checkpoint, weights_only=True)["net"]
    code, out, err = infer(
        "-resume", checkpoint, *["-neuron", "LIF", "-save_lif"], tmp_path / "lif.pth", "-out_dir", tmp_path
    )
    assert code == 0, err
    assert "trained with PLIF, run as LIF (soft reset)" in out
    state = torch.load(tmp_path / "lif.pth", weights_only=True)
    assert state["tau"] == {name: pytest.approx(1 / weights[f"{name}.w"].sigmoid().item()) for name in LAYERS}
    (row,) = [json.loads(line) for line in (trained / "PLIF" / "metrics.jsonl").read_text().splitlines()]
    for path in (checkpoint, tmp_path / "lif.pth"):
        code, _, err = infer("-resume", path, "-out_dir", tmp_path / f"of {path.stem}")
        assert code == 0, err
        test = json.loads((tmp_path / f"of {path.stem}" / "evaluation.json").read_text())["test"]
        assert test["acc"] == pytest.approx(row["test_acc"], abs=0.6)  # two samples: γ is rounded another way
        assert test["loss"] == pytest.approx(row["test_loss"], rel=1e-2)


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


def test_export_is_read_back(run, infer):
    code, out, err = infer(
        "-resume", run / "checkpoint_latest.pth", *["-neuron", "LIF", "-v_reset", "-0.06", "-export"], run / "n.nir"
    )
    assert code == 0, err
    assert "Read back by SpikingJelly" in out
    assert (run / "n.nir").stat().st_size > 1e6


def test_calibration_for_export_keeps_to_hard_resets(run, infer):
    options = ["-calibrate", "-calibrate_samples", "20", "-v_resets", "soft", "-0.04", "-export"]
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", *options, run / "n.nir")
    assert code == 0, err
    assert "Read back by SpikingJelly" in out
    found = result(run, "sweep.json")
    assert [trial["v_reset"] for trial in found["fixed"]] == [None, -0.04]
    assert None not in found["calibrated"]["per_layer"]["v_reset"].values()


def test_a_network_calibrated_for_hard_resets_is_saved_and_exported_later(run, infer):
    options = ["-calibrate", "-calibrate_hard", "-calibrate_samples", 20, "-v_resets", "soft", -0.04]
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", *options, "-save_lif", run / "hard.pth")
    assert code == 0, err
    assert f"LIF network: {run / 'hard.pth'}\n" in out
    assert None not in result(run, "sweep.json")["calibrated"]["per_layer"]["v_reset"].values()
    code, out, err = infer("-resume", run / "hard.pth", "-export", run / "n.nir")
    assert code == 0, err
    assert "Read back by SpikingJelly" in out


def test_a_soft_reset_that_is_saved_says_what_it_is_not_for_and_the_way_there(run, infer):
    code, out, err = infer(
        "-resume", run / "checkpoint_latest.pth", "-neuron", "LIF", "-v_reset", "soft", "-save_lif", run / "soft.pth"
    )
    assert code == 0, err
    assert f"soft.pth (not for -export as it is: soft reset in {', '.join(LAYERS)}, which NIR has not; give a" in out
    refused(infer, run / "soft.pth", f"-export {run / 'n.nir'}", "give a -v_reset, or let -calibrate choose one")
    for way in (["-v_reset", -0.06], ["-calibrate", "-calibrate_samples", 20, "-v_resets", -0.04]):
        code, out, err = infer("-resume", run / "soft.pth", *way, "-export", run / f"{len(way)}.nir")
        assert code == 0, err
        assert "Read back by SpikingJelly" in out


def test_published_checkpoint_needs_what_its_file_does_not_say(run, infer):
    state = torch.load(run / "checkpoint_latest.pth", weights_only=True)
    alone = run.parent / "alone"
    alone.mkdir()
    torch.save(
        {name: state[name] for name in ("net", "optimizer", "lr_scheduler", "epoch", "max_test_acc")}, alone / "a.pth"
    )
    refused(infer, alone / "a.pth", "", "no config.json beside", "it takes -dataset, -model, -neuron, -T to know")
    refused(infer, alone / "a.pth", "-dataset digits -model snn5_noAP -neuron CLIF", "it takes -T to know")
    options = "-dataset digits -model snn5_noAP -neuron CLIF -T 2 -b 16"
    code, _, err = infer("-resume", alone / "a.pth", *options.split())
    assert code == 0, err
    infer("-resume", run / "checkpoint_latest.pth")
    assert result(alone, "evaluation.json")["test"] == result(run, "evaluation.json")["test"]


def test_another_t_is_run_and_said(run, infer):
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", "-T", 3)
    assert code == 0, err
    assert "note: trained with -T 2, run with -T 3" in out


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


def test_calibration_and_what_is_saved_use_the_chosen_statistics(run, infer):
    checkpoint, words = (
        run / "checkpoint_latest.pth",
        "-calibrate -calibrate_samples 40 -calibrate_passes 1 -v_resets 0",
    )
    found = {}
    for kind in ("shared", "per_step"):
        lif = run / f"{kind}.pth"
        code, _, err = infer("-resume", checkpoint, *words.split(), "-bn_eval", kind, "-save_lif", lif)
        assert code == 0, err
        found[kind] = result(run, "sweep.json")
        state = torch.load(lif, weights_only=True)
        assert state["bn_eval"] == kind
        assert state["net"]["features.0.fwd.1.running_mean_t"].shape == (2, 16)
        code, _, err = infer("-resume", lif)
        assert code == 0, err
        again = result(run, "evaluation.json")
        assert again["bn_eval"] == kind
        for column in ("test", "test_per_step"):
            assert again[column] == found[kind]["calibrated"]["per_layer"][column]
    assert found["shared"]["fixed"] == found["per_step"]["fixed"]
    losses = [found[kind]["calibrated"]["one_value"]["slice"]["loss"] for kind in found]
    assert losses[0] != losses[1]


def test_nothing_is_written_over_a_file_that_it_has_not_made(run, infer):
    checkpoint = run / "checkpoint_max.pth"
    before = checkpoint.read_bytes()
    for there in (checkpoint, run / "config.json"):
        refused(infer, checkpoint, f"-neuron LIF -save_lif {there}", f"{there} is there, and -save_lif has not made it")
        refused(infer, checkpoint, f"-neuron LIF -v_reset 0 -export {there}", f"-export: {there} is there already")
    twice = f"-neuron LIF -v_reset 0 -save_lif {run / 'x'} -export {run / 'x'}"
    refused(infer, checkpoint, twice, "is named twice")
    assert checkpoint.read_bytes() == before


def test_an_evaluation_takes_no_other_ones_place(run, infer):
    folder = run / "chosen"
    same = "-calibrate_samples 60 -calibrate_passes 1"  # without -calibrate
    for checkpoint, options in (("latest", ""), ("max", ""), ("max", same), ("max", "-T 3"), ("max", "-T 3")):
        code, out, err = infer("-resume", run / f"checkpoint_{checkpoint}.pth", *options.split())
        assert code == 0, err
    assert {path.name for path in (run / "inference").iterdir()} == {
        *("checkpoint_latest", "checkpoint_max", "checkpoint_max_T3")
    }
    assert f"results: {run / 'inference/checkpoint_max_T3'}" in out
    assert infer("-resume", run / "checkpoint_max.pth", "-out_dir", folder)[0] == 0
    assert (
        infer("-resume", run / "checkpoint_max.pth", "-out_dir", folder, "-throughput")[0] == 0
    )  # once more, and more
    before = (folder / "evaluation.json").read_bytes()
    for checkpoint, options in (("latest", ""), ("max", "-neuron LIF"), ("max", "-calibrate")):
        words = f"{options} -out_dir {folder}"
        refused(infer, run / f"checkpoint_{checkpoint}.pth", words, f"-out_dir: {folder} holds another evaluation")
    assert (folder / "evaluation.json").read_bytes() == before
    resets = [-i / 1000 for i in range(60)]
    code, out, err = infer("-resume", run / "checkpoint_max.pth", "-T", 1, "-sweep", "-v_resets", *resets)
    assert code == 0, err
    assert len(Path(out.split("results: ")[1].strip()).name) == 120


def test_a_lif_checkpoint_says_what_was_drawn_to_train_it_and_may_be_written_again(run, infer):
    lif = run / "lif.pth"
    for seed in (3, 4):  # of this run's own slices
        code, _, err = infer(
            *("-resume", run / "checkpoint_max.pth", "-neuron", "LIF", "-seed", seed, "-save_lif", lif)
        )
        assert code == 0, err
    trained = json.loads((run / "config.json").read_text())
    lif = lif.rename(run.parent / "lif.pth")  # away from config.json
    state = torch.load(lif, weights_only=True)
    drawn = {name: state[name] for name in ("seed", "val_split", "train_fraction")}
    assert drawn == {name: trained[name] for name in drawn}
    assert drawn["train_fraction"] == 0.2
    parser = inference_parser()
    settled = settle(parser, parser.parse_args(["-resume", str(lif)]), state, None)
    assert {name: getattr(settled, name) for name in drawn} == drawn


def published(run, name):
    """The run's weights as the published code would have left them: without statistics of each step."""
    state = torch.load(run / "checkpoint_latest.pth", weights_only=True)
    weights = {key: value for key, value in state["net"].items() if not key.endswith("_t")}
    (run / name).mkdir()
    torch.save({"net": weights, "epoch": 1, "max_test_acc": 0.5}, run / name / "authors.pth")
    torch.save(weights, run / name / "bare.pth")
    return run / name


@pytest.mark.parametrize("file", ["authors.pth", "bare.pth"])
def test_statistics_of_published_weights_are_taken_again(run, infer, file):
    folder = published(run, "published")
    words = "-dataset digits -model snn5_noAP -neuron CLIF -T 2 -b 16 -train_fraction 0.2 -bn_eval per_step"
    new = folder / "new" / "new.pth"
    refused(infer, folder / file, words, "-bn_eval per_step: this network has no running statistics of each step",
            "-recalibrate_bn")  # fmt: skip
    code, out, err = infer("-resume", folder / file, *words.split(), "-recalibrate_bn", "-save_bn", new)
    assert code == 0, err
    found = result(folder, "evaluation.json")
    assert found["recalibrated_bn"]["samples"] == pytest.approx(288, abs=5)  # all that was trained on
    assert found["recalibrated_bn"]["before"].keys() == {"test"}
    assert {"test", "test_per_step"} <= found.keys()
    assert found["test"] != found["recalibrated_bn"]["before"]["test"]
    assert out.index("before its statistics are taken again") < out.index("taken again over") < out.index("results: ")

    state, old = torch.load(new, weights_only=True), torch.load(run / "checkpoint_latest.pth", weights_only=True)
    assert state["recalibrated_bn"] == found["recalibrated_bn"]["samples"]
    assert state.get("max_test_acc") == (0.5 if file == "authors.pth" else None)
    for name, value in old["net"].items():
        assert ("running" in name or "num_batches" in name) or torch.equal(value, state["net"][name])
    code, _, err = infer("-resume", new, "-b", 16)  # it needs neither config.json nor options
    assert code == 0, err
    again = result(new.parent, "evaluation.json")
    assert (again["test"], again["test_per_step"]) == (found["test"], found["test_per_step"])
    # its own file it may write again, another it may not
    code, _, err = infer("-resume", new, "-b", 16, "-recalibrate_bn", 100, "-save_bn", new)
    assert code == 0, err
    assert 90 <= torch.load(new, weights_only=True)["recalibrated_bn"] <= 110
    for other in (folder / file, run / "config.json"):
        refused(infer, new, f"-recalibrate_bn -save_bn {other}", "is there, and -save_bn has not made it")


def test_the_statistics_of_the_network_that_is_run_are_taken(run, infer):
    code, _, err = infer(
        *("-resume", run / "checkpoint_latest.pth", "-recalibrate_bn", 60, "-neuron", "LIF", "-v_reset", 0),
        *("-save_lif", run / "lif.pth"),
    )
    assert code == 0, err
    found = result(run, "evaluation.json")
    assert found["recalibrated_bn"]["before"]["test_per_step"] != found["test_per_step"]
    code, _, err = infer("-resume", run / "lif.pth")
    assert code == 0, err
    assert result(run, "evaluation.json")["test_per_step"] == found["test_per_step"]


def test_a_sequence_longer_than_the_statistics_is_said(run, infer):
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", "-T", 3, "-throughput", "-bn_eval", "per_step")
    assert code == 0, err
    assert "note: batch norm has statistics of 2 steps, and T is 3: with statistics of each step, the last" in out
    assert result(run, "throughput.json")["bn_eval"] == "per_step"


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
        ("CLIF", "-throughput -b 41", "-b 41 is more than the 40 test samples"),
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


def test_a_failure_leaves_nothing_behind(run, infer, monkeypatch):
    monkeypatch.setattr("deploy.table8.draw", lambda rows, path: 1 / 0)
    before = all_files(run)
    with pytest.raises(ZeroDivisionError):
        infer("-resume", run / "checkpoint_latest.pth", "-sweep", "-v_resets", 0)
    assert all_files(run) == before


def program(*command, cwd):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_fresh_interpreter_says_the_same(tmp_path):
    done = program(sys.executable, SCRIPT, "-resume", "gone.pth", "-neuron", "LIF", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "inference.py: error: no checkpoint at gone.pth\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no logs/digits_CLIF/checkpoint_max.pth; make it with: python train_BPTT.py"),
        (["one"], "usage: "),
        ([__file__, "gone.pth"], "no checkpoint at gone.pth"),
    ],
)
def test_script_says_what_is_missing(arguments, says, tmp_path):
    done = program(ROOT / "run_inference_script.sh", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_script_makes_table_8_of_what_the_main_job_leaves(run, tmp_path):
    (tmp_path / "logs").mkdir()
    run.rename(tmp_path / "logs" / "digits_CLIF")
    done = program(ROOT / "run_inference_script.sh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no logs/digits_LIF/checkpoint_max.pth, so the LIF-trained row is left out" in done.stdout
    table = json.loads((tmp_path / "logs" / "table8" / "table8.json").read_text())
    assert [trial["v_reset"] for trial in table["fixed"]] == [None, 0.0, -0.02, -0.04, -0.06, -0.08, -0.1]


def test_main_job_commands_of_the_script_are_training_commands(tmp_path):
    """The commands that the script tells its reader to type are ones that the training script takes."""
    (line,) = [line for line in (ROOT / "run_inference_script.sh").read_text().splitlines() if "train_BPTT.py" in line]
    options = line.split("train_BPTT.py")[1].strip('"').split()
    result = run_training(*options, "-neuron", "LIF", "-name", "digits_LIF", "-lr", "-1", cwd=tmp_path)
    assert_refused(result, "argument -lr: must be > 0")  # and of nothing before it
