"""What the training script's options do, seen from outside: small runs, read back from their folders."""

import json
import math
import os

import pytest
import torch

from data import build_dataset
from data.loader import build_loader
from models import build_model
from settings.command_line import read_options, runs_of
from settings.record import run_name
from tests.fixtures_dvs import write_dvs_cifar10_pt
from tests.fixtures_images import CPU, QUICK, write_cifar10, write_tiny_imagenet
from tests.helpers import ROOT, SAVED, assert_same, rows_of, run_folder, run_training, weights_in
from utils.checkpoint import load_weights
from utils.engine import evaluate
from utils.loss import bptt_loss
from utils.seeding import seed_all


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder, per_batch=4, test=4)  # labels 0–3
    write_tiny_imagenet(folder, classes=2, per_class=8, val_per_class=2)
    write_dvs_cifar10_pt(folder, T=2, train=10, test=5)
    return folder


@pytest.fixture
def train(tmp_path, data_dir):
    """Run QUICK with more options; returns the run's folder and what it printed."""

    def run(options: str = "", base: list[str] = QUICK):
        out_dir = tmp_path / f"logs{len(list(tmp_path.iterdir()))}"
        result = run_training(*base, "-data_dir", data_dir, "-out_dir", out_dir, *options.split(), cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        return run_folder(out_dir), result.stdout

    return run


def fresh_net(seed, neuron="CLIF"):
    seed_all(seed)
    return build_model("snn5_noAP", neuron)


RUNS = [
    "-dataset DVSCIFAR10-pt",
    "-dataset DVSCIFAR10-pt -cutupmix_auto",
    "-dataset tiny_imagenet -cutupmix_auto -j 1",
    "-cutupmix_auto",
    "-neuron PLIF -tau 1.5 -surrogate sigmoid -alpha 2",
    "-neuron PLIF -v_reset=-0.06 -surrogate triangle",
    "-neuron_model LIF -v_reset -0.06",
    "-opt AdamW -lr 1e-3",
    "-bn merged -no_amp",
    "-step_mode s",
    "-checkpoint -drop_rate 0.3 -backend torch",
    "-drop_rate 0.3 -label_smoothing 0.1 -loss_lambda 0 -momentum 0",
    "-model vggsnn",
    "-dataset digits_dvs -train_fraction 0.01",
    "-b 1 -model snn5 -train_fraction 0.5",
]


@pytest.mark.parametrize("options", RUNS)
def test_runs(train, options):
    folder, printed = train(options)
    assert {path.name for path in folder.iterdir()} == SAVED
    (row,) = rows_of(folder)
    assert math.isfinite(row["train_loss"])
    assert math.isfinite(row["test_loss"])
    assert printed.splitlines()[-1].startswith("done: test accuracy best ")


@pytest.mark.slow
def test_learns(train):
    rows = rows_of(train("-epochs 10 -lr 0.05 -T_max 10")[0])
    assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"]
    assert rows[-1]["train_acc"] >= 60  # of ten classes' worth of outputs
    assert max(row["test_acc"] for row in rows) >= 75  # three of four images: the last epoch's hangs on a rounding


def test_relu_has_one_time_step(train):
    folder, printed = train("-neuron relu -T 4")
    assert "with relu, T = 1," in printed
    assert json.loads((folder / "config.json").read_text())["T"] == 1


def test_logged_test_figures_are_those_of_the_checkpoint(train, data_dir):
    folder, _ = train("-epochs 2 -neuron PLIF -mse_n_reg")
    task = build_dataset("cifar10", data_dir)
    net = fresh_net(seed=0, neuron="PLIF")
    load_weights(net, folder / "checkpoint_latest.pth")
    batches = build_loader(task.test, batch_size=8, T=2, device=CPU, seed=0, shuffle=False)
    seen = evaluate(
        net, batches.epoch(0), lambda *args: bptt_loss(*args, mse_n_reg=True), device=CPU, steps=len(batches)
    )
    row = rows_of(folder)[-1]
    assert seen["acc"] == row["test_acc"]
    assert seen["loss"] == pytest.approx(row["test_loss"], rel=1e-5)


def test_best_checkpoint_is_the_best_epochs(train):
    folder, _ = train("-epochs 4 -lr 0.3")
    rows = rows_of(folder)
    accuracies = [row["test_acc"] for row in rows]
    best = torch.load(folder / "checkpoint_max.pth", weights_only=True)
    assert best["epoch"] == accuracies.index(max(accuracies))
    assert best["max_test_acc"] == max(accuracies)
    assert [row["best_test_acc"] for row in rows] == [max(accuracies[: n + 1]) for n in range(4)]


def test_cosine_and_steps(train):
    rates = [row["lr"] for row in rows_of(train("-epochs 3 -T_max 2")[0])]
    assert rates == pytest.approx([0.1, 0.05, 0.0])
    rates = [row["lr"] for row in rows_of(train("-epochs 3 -lr_scheduler StepLR -step_size 2 -gamma 0.5")[0])]
    assert rates == pytest.approx([0.1, 0.1, 0.05])


def test_val_split_chooses_the_best(train):
    folder, printed = train("-val_split 0.5 -epochs 3 -lr 0.3")
    rows = rows_of(folder)
    of_val = [row["val_acc"] for row in rows]
    best = of_val.index(max(of_val))
    assert torch.load(folder / "checkpoint_max.pth", weights_only=True)["epoch"] == best
    assert rows[-1]["best_test_acc"] == rows[best]["test_acc"]
    assert "chosen on the validation set" in printed
    assert json.loads((folder / "config.json").read_text())["samples"] == {"train": 12, "test": 4, "val": 8}


def test_initial_weights_are_a_function_of_the_seed(train):
    folder, _ = train("-save_init -seed 7")
    assert_same(weights_in(folder / "checkpoint_init.pth"), fresh_net(seed=7).state_dict())


def test_merged_batch_norm_is_labelled_and_another_network(train):
    merged, printed = train("-bn merged")
    assert "batch norm MERGED over T" in printed
    assert "bn_merged" in merged.name
    per_step, printed = train("-bn per_step")
    assert "batch norm per step" in printed
    assert rows_of(merged)[0]["train_loss"] != rows_of(per_step)[0]["train_loss"]


def test_precision_is_named_and_no_amp_is_float32(train):
    mixed, printed = train("-amp")
    assert printed.splitlines()[0].endswith(", bfloat16")
    full, printed = train("-no_amp")
    assert printed.splitlines()[0].endswith(", float32")
    assert rows_of(mixed)[0]["train_loss"] != rows_of(full)[0]["train_loss"]
    assert {weight.dtype for weight in weights_in(mixed / "checkpoint_latest.pth").values()} == {
        torch.float32,
        torch.int64,
    }


@pytest.mark.parametrize("form", ["bare", "ours", "published", "data parallel"])
def test_pre_train_starts_from_these_weights(train, tmp_path, form):
    net = fresh_net(seed=5)
    weights = net.state_dict()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    states = {
        "bare": weights,
        "ours": {"net": weights, "epoch": 3},
        "published": {
            "net": weights,
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200).state_dict(),
            "epoch": 100,
            "max_test_acc": 95.4,
        },
        "data parallel": {f"module.{name}": weight for name, weight in weights.items()},
    }
    torch.save(states[form], tmp_path / "weights.pth")
    folder, _ = train(f"-pre_train {tmp_path / 'weights.pth'} -save_init")
    assert_same(weights_in(folder / "checkpoint_init.pth"), weights)
    (row,) = rows_of(folder)
    assert row["epoch"] == 0
    assert row["best_test_acc"] == row["test_acc"]


def test_runs_of_one_name_do_not_mix(tmp_path, data_dir):
    for _ in range(2):
        result = run_training(*QUICK, "-data_dir", data_dir, "-name", "mine", cwd=tmp_path)
        assert result.returncode == 0
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"mine", "mine-2"}
    assert result.stdout.splitlines()[-1].endswith("logs/mine-2")


@pytest.mark.slow
def test_test_accuracy_on_digits(train):
    row = rows_of(train("-dataset digits -train_fraction 0.1 -b 32 -epochs 3")[0])[-1]
    assert row["test_acc"] > 20  # of ten classes, after twelve steps


@pytest.mark.slow
def test_without_git_and_c_compiler(tmp_path, data_dir, monkeypatch):
    monkeypatch.setitem(run_training.__globals__["ENVIRONMENT"], "PATH", str(tmp_path))
    result = run_training(*QUICK, "-data_dir", data_dir, cwd=tmp_path, fresh=True)
    assert result.returncode == 0, result.stderr
    assert "cpu, backend reference, " in result.stdout
    assert result.stderr.startswith("train_BPTT.py: warning: backend c wants a C compiler")
    assert result.stderr.count("\n") == 1
    made_with = json.loads((run_folder(tmp_path / "logs") / "config.json").read_text())["made_with"]
    assert made_with["commit"] == "unknown"


def test_help_names_every_choice(tmp_path):
    result = run_training("-h", cwd=tmp_path)
    assert result.returncode == 0
    for word in ("DVSCIFAR10-pt", "spiking_resnet18", "PLIF", "rectangle", "-cutupmix_auto", "-resume"):
        assert word in result.stdout
    assert os.listdir(tmp_path) == []
    assert str(ROOT) not in result.stdout


@pytest.mark.parametrize(
    "words", [["-bptt_k", "2"], ["-switch_neuron", "4:CLIF"], ["-v_reset", "0"], ["-bn", "merged"]]
)
def test_settings_that_tell_runs_apart_are_in_their_names(words):
    (plain,), (other,) = (runs_of(read_options(["-neuron", "LIF", *more])) for more in ([], words))
    assert run_name(other) != run_name(plain)
