"""What inference.py writes: results, LIF checkpoints, statistics taken again; and what it does not write over."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from models import build_model
from settings.inference import inference_parser, settle
from tests.fixtures_inference import LAYERS, TRAIN, all_files, published, refused, result
from tests.helpers import assert_refused, run_training


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
    refused(infer, lif, f"-v_reset soft -save_lif {lif.parent}/../away/lif.pth", "is the checkpoint that is read")

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


@pytest.mark.slow
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
    twice = f"-neuron LIF -v_reset 0 -save_lif {run / 'x'} -export {run / 'inference' / '..' / 'x'}"
    refused(infer, checkpoint, twice, "is named twice")
    for place in ("out", "out/evaluation.json", "out/sweep.png", "out/../out"):
        where = f"-out_dir {run / 'out' / '.'} -neuron LIF -save_lif {run / place}"
        refused(infer, checkpoint, where, "is where results go")
    assert checkpoint.read_bytes() == before


@pytest.mark.slow
def test_an_evaluation_takes_no_other_ones_place(run, infer, monkeypatch):
    monkeypatch.setattr("data.digits._tested", 20)  # scans: nothing here depends on how many
    folder = run / "chosen"
    same = "-calibrate_samples 60 -calibrate_passes 1"  # without -calibrate
    for checkpoint, options in (("latest", ""), ("max", ""), ("max", same), ("max", "-T 3"), ("max", "-T 3")):
        code, out, err = infer("-resume", run / f"checkpoint_{checkpoint}.pth", *options.split())
        assert code == 0, err
    assert {path.name for path in (run / "inference").iterdir()} == {
        *("checkpoint_latest", "checkpoint_max", "checkpoint_max_T3")
    }
    assert f"results: {run / 'inference/checkpoint_max_T3'}" in out
    for more in ([], ["-throughput"]):  # once more, and more
        assert infer("-resume", run / "checkpoint_max.pth", "-out_dir", folder, *more)[0] == 0
    before = (folder / "evaluation.json").read_bytes()
    for checkpoint, options in (("latest", ""), ("max", "-neuron LIF"), ("max", "-calibrate")):
        words = f"{options} -out_dir {folder}"
        refused(infer, run / f"checkpoint_{checkpoint}.pth", words, f"-out_dir: {folder} holds another evaluation")
    assert (folder / "evaluation.json").read_bytes() == before
    for folder, path in ((run.parent, f"{run.name}/checkpoint_max.pth"), (run, "checkpoint_max.pth")):
        monkeypatch.chdir(folder)
        assert infer("-resume", path)[0] == 0, path  # the same again, typed in another folder
    other = shutil.copy(run / "checkpoint_latest.pth", run / "checkpoint_max.other")
    refused(infer, other, "", "checkpoint_max holds another evaluation")
    resets = [-i / 1000 for i in range(60)]
    code, out, err = infer("-resume", run / "checkpoint_max.pth", "-T", 1, "-sweep", "-v_resets", *resets)
    assert code == 0, err
    assert len(Path(out.split("results: ")[1].strip()).name) == 120


def test_a_lif_checkpoint_says_what_was_drawn_to_train_it_and_may_be_written_again(run, infer):
    lif = run / "lif.pth"
    for seed in (3, 4):  # of this run's own slices
        own = ("-seed", seed, "-recalibrate_bn", 40)
        code, _, err = infer("-resume", run / "checkpoint_max.pth", "-neuron", "LIF", *own, "-save_lif", lif)
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


@pytest.mark.parametrize("file", ["authors.pth", "bare.pth"])
def test_statistics_of_published_weights_are_taken_again(run, infer, file):
    folder = published(run, "published")
    words = "-dataset digits -model snn5_noAP -neuron CLIF -T 2 -b 16 -train_fraction 0.2 -bn_eval per_step"
    new = folder / "new" / "new.pth"
    refused(infer, folder / file, words.replace("-train_fraction 0.2 ", ""),
            "-bn_eval per_step: this network has no running statistics of each step", "-recalibrate_bn")  # fmt: skip
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
    code, _, err = infer("-resume", folder / file, *words.split(), "-recalibrate_bn", 100, "-save_bn", new)
    assert code == 0, err
    assert 90 <= torch.load(new, weights_only=True)["recalibrated_bn"] <= 110
    for other in (folder / file, run / "config.json"):
        refused(infer, new, f"-recalibrate_bn -save_bn {other}", "is there, and -save_bn has not made it")
    refused(infer, new, f"-recalibrate_bn -save_bn {new}", "is the checkpoint that is read")


def test_training_is_not_resumed_with_other_statistics(run, infer, tmp_path):
    new = tmp_path / "new.pth"
    code, _, err = infer("-resume", run / "checkpoint_latest.pth", "-recalibrate_bn", 60, "-save_bn", new)
    assert code == 0, err
    result = run_training(*TRAIN.split(), "-neuron", "CLIF", "-epochs", 9, "-resume", new, cwd=tmp_path)
    assert_refused(result, "new.pth cannot be resumed: inference.py -save_bn has replaced", "-pre_train")


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


@pytest.mark.parametrize(
    ("model", "bn", "says"),
    [
        ("mlp3", "tebn", ""),  # its ANN has one step
        ("plif_fashion_32", "per_step", "-profile cannot count this network: static_conv.0 ran on 1 frames"),
    ],
)
def test_what_cannot_be_counted_is_known_before_it_is_run(tmp_path, infer, model, bn, says):
    bare = tmp_path / "bare.pth"
    torch.save(build_model(model, "CLIF", bn=bn, T=2).state_dict(), bare)
    options = f"-dataset digits -model {model} -neuron CLIF -T 2 -bn {bn} -profile"
    if says:
        refused(infer, bare, options, says)
        assert all_files(tmp_path) == ["bare.pth"]
    else:
        code, _, err = infer("-resume", bare, *options.split())
        assert code == 0, err


def test_a_failure_leaves_nothing_behind(run, infer, monkeypatch):
    monkeypatch.setattr("deploy.table8.draw", lambda rows, path: 1 / 0)
    before = all_files(run)
    with pytest.raises(ZeroDivisionError):
        infer("-resume", run / "checkpoint_latest.pth", "-sweep", "-v_resets", 0)
    assert all_files(run) == before
