"""The commands that the paper's users type, letter for letter, on small data of each family; one in a new interpreter.

And run_inference_script.sh, which makes Table 8.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deploy.sweeps import places_of
from reproduction.runner import call
from tests.fixtures_dvs import write_dvs_cifar10, write_dvs_gesture_events
from tests.fixtures_images import write_cifar10, write_cifar100, write_tiny_imagenet
from tests.fixtures_inference import SCRIPT
from tests.helpers import FIELDS, ROOT, SAVED, assert_refused, rows_of, run_folder, run_training
from tests.warm_python import warm_python
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.cli import UsageError

# command: (what writes its data, settings that config.json must show)
COMMANDS = {
    "python train_BPTT.py -data_dir ./data_dir -dataset cifar10 -model spiking_resnet18 -T_max 200 -epochs 200 "
    "-weight_decay 5e-5 -neuron CLIF": (
        lambda data_dir: write_cifar10(data_dir, per_batch=2, test=4),
        {"dataset": "cifar10", "T_max": 200, "weight_decay": 5e-5, "neuron": "CLIF", "amp": True},
    ),
    "python train_BPTT.py -data_dir ./data_dir -dataset cifar100 -model spiking_resnet18 -T_max 200 -epochs 200 "
    "-neuron CLIF": (
        lambda data_dir: write_cifar100(data_dir, train=10, test=4),
        {"dataset": "cifar100", "T_max": 200, "weight_decay": 5e-4, "lr": 0.1},
    ),
    "python train_BPTT.py -data_dir ./data_dir -dataset tiny_imagenet -model spiking_vgg13_bn -neuron CLIF": (
        lambda data_dir: write_tiny_imagenet(data_dir, classes=2, per_class=3, val_per_class=1),
        {"dataset": "tiny_imagenet", "model": "spiking_vgg13_bn", "T_max": 300, "drop_rate": 0.0},
    ),
    "python train_BPTT.py -data_dir ./data_dir -dataset DVSCIFAR10 -T 10 -drop_rate 0.3 -model spiking_vgg11_bn "
    "-lr=0.05 -mse_n_reg -neuron CLIF": (
        lambda data_dir: write_dvs_cifar10(data_dir, per_class=1, events=60),
        {"dataset": "DVSCIFAR10", "drop_rate": 0.3, "lr": 0.05, "mse_n_reg": True, "event_split": "last"},
    ),
    "python train_BPTT.py -data_dir ./data_dir -dataset dvsgesture -model spiking_vgg11_bn -T 20 -b 16 "
    "-drop_rate 0.4 -neuron CLIF": (
        lambda data_dir: write_dvs_gesture_events(data_dir, train_users=(1,), events=60),
        {"dataset": "dvsgesture", "drop_rate": 0.4, "seed": 2022},
    ),
    "python train_BPTT.py -data_dir ./data_dir -dataset cifar10 -model spiking_resnet18 -amp -T_max 200 -epochs 200 "
    "-weight_decay 5e-5 -neuron LIF": (
        lambda data_dir: write_cifar10(data_dir, per_batch=2, test=4),
        {"dataset": "cifar10", "neuron": "LIF", "amp": True},
    ),
}
SMALL = "-epochs 1 -T 2 -b 8 -no_download"  # after the command: the last value of an option counts


CASES = [
    pytest.param(line, id=f"{shlex.split(line)[5]}-{line[-4:].strip()}", marks=pytest.mark.slow if number else ())
    for number, line in enumerate(COMMANDS)
]


@pytest.mark.parametrize("command", CASES)
def test_command_of_the_paper(tmp_path, command):
    write_data, settings = COMMANDS[command]
    write_data(tmp_path / "data_dir")
    python, _script, *args = shlex.split(command)
    assert python == "python"
    result = run_training(*args, *SMALL.split(), cwd=tmp_path, fresh=command == next(iter(COMMANDS)))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""

    folder = run_folder(tmp_path / "logs")
    assert {path.name for path in folder.iterdir()} == SAVED
    check_config(folder, settings, samples=result.stdout)
    (row,) = rows_of(folder)
    assert tuple(row) == FIELDS
    assert row["epoch"] == 0
    assert row["lr"] == settings.get("lr", 0.1)
    assert all(isinstance(value, int | float) for value in row.values())
    assert row["best_test_acc"] == row["test_acc"]
    check_checkpoints(folder, row)
    check_board(folder, row)
    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG"
    # paths are printed as they were given: relative to where the command was typed
    assert result.stdout.splitlines()[-1] == (
        f"done: test accuracy best {row['test_acc']:.2f}% (chosen on the test set), last {row['test_acc']:.2f}%; "
        f"{folder.relative_to(tmp_path)}"
    )


def check_config(folder: Path, settings: dict, samples: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in settings} == settings
    assert {"T": 2, "b": 8, "epochs": 1}.items() <= config.items()
    assert f"{config['samples']['train']} to train, {config['samples']['test']} to test" in samples
    assert config["made_with"]["torch"] == torch.__version__.split("+")[0]
    assert set(config["made_with"]) >= {"python", "torchvision", "spikingjelly", "numpy", "commit", "device"}


def check_checkpoints(folder: Path, row: dict) -> None:
    for name in ("checkpoint_latest.pth", "checkpoint_max.pth"):
        state = torch.load(folder / name, weights_only=True)
        assert set(state) >= {"net", "optimizer", "lr_scheduler", "scaler", "epoch", "max_test_acc"}
        assert (state["epoch"], state["max_test_acc"]) == (0, row["test_acc"])
        assert all(weight.isfinite().all() for weight in state["net"].values())


def check_board(folder: Path, row: dict) -> None:
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == set(FIELDS) - {"epoch"}
    (point,) = board.Scalars("test_loss")
    assert (point.step, point.value) == (0, pytest.approx(row["test_loss"], rel=1e-6))


def program(*command, cwd, python=sys.executable):
    environment = {**os.environ, "PYTHON": str(python), "OMP_NUM_THREADS": "1"}
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
        (["zoo:digits_CLIF", "zoo:digits_LIFF"], "zoo:digits_LIFF is no network of the zoo; did you mean"),
        (["zoo:digits_CLIF", "zoo:digits_CLIF"], "two sweeps are of one run in logs/zoo/digits_CLIF, seed 2022"),
    ],
)
def test_script_says_what_is_missing(arguments, says, tmp_path):
    done = program(ROOT / "run_inference_script.sh", *arguments, cwd=tmp_path, python=warm_python())
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""  # nothing was computed


def test_networks_that_no_table_holds_are_known_before_they_are_swept(tmp_path):
    state, folder = read_checkpoint("zoo:digits_CLIF"), tmp_path / "run"
    best, latest, other = (folder / name for name in ("checkpoint_max.pth", "checkpoint_latest.pth", "other.pth"))
    folder.mkdir()
    for path in (best, latest):
        save_checkpoint(state, path)
    save_checkpoint({**state, "settings": {**state["settings"], "tau": 1.5, "seed": 1}}, other)
    with pytest.raises(UsageError, match=f"two sweeps are of one run in {folder}, seed 2022"):
        places_of([best, latest])
    with pytest.raises(UsageError, match="CLIF-trained: sweeps of one row differ in -tau"):
        places_of([best, other])
    shutil.copytree(folder, tmp_path / "two\nlines")  # the script reads the places line by line
    with pytest.raises(UsageError, match="a folder with a new line in its name cannot hold a sweep"):
        places_of([tmp_path / "two\nlines" / best.name])
    lif = Path("logs/zoo/digits_LIF/inference/digits_LIF/sweep.json")
    assert places_of([best, Path("zoo:digits_LIF")]) == [folder / "inference/checkpoint_max/sweep.json", lif]


def test_files_where_a_command_is_typed_take_no_modules_place(tmp_path, monkeypatch, capfd):
    for name in ("utils.py", "figures.py", "deploy.py"):
        (tmp_path / name).write_text("raise SystemExit('of the user')")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert call(["-m", "figures.neuron_traces", "-h"]) == (0, "")
    assert "usage: " in capfd.readouterr().out
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))  # which counts still
    done = program(ROOT / "run_inference_script.sh", "zoo:digits_CLIF", "zoo:digits_CLIF", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "seen").exists()) == (2, True)
    assert "two sweeps are of one run" in done.stderr


def test_script_says_what_is_left_out(tmp_path):
    (tmp_path / "logs" / "digits_CLIF").mkdir(parents=True)
    (tmp_path / "logs" / "digits_CLIF" / "checkpoint_max.pth").write_text("no checkpoint")
    done = program(ROOT / "run_inference_script.sh", cwd=tmp_path, python=warm_python())
    assert "no logs/digits_LIF/checkpoint_max.pth, so the LIF-trained row is left out" in done.stdout
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_script_makes_table_8_of_what_the_main_job_leaves(tmp_path):
    """Where it leaves it, at least: these networks are small ones."""
    small = "-dataset digits -model mlp3 -T 2 -epochs 1 -train_fraction 0.1"
    for neuron in ("CLIF", "LIF"):
        run_training(*small.split(), "-neuron", neuron, "-name", f"digits_{neuron}", cwd=tmp_path)
    done = program(ROOT / "run_inference_script.sh", cwd=tmp_path, python=warm_python())
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stdout
    sweeps = json.loads((tmp_path / "logs" / "table8" / "table8.json").read_text())["sweeps"]
    assert [sweep["checkpoint"] for sweep in sweeps] == [f"logs/digits_{n}/checkpoint_max.pth" for n in ("CLIF", "LIF")]
    for sweep in sweeps:
        assert [trial["v_reset"] for trial in sweep["fixed"]] == [None, 0.0, -0.02, -0.04, -0.06, -0.08, -0.1]


def test_main_job_commands_of_the_script_are_training_commands(tmp_path):
    """The commands that the script tells its reader to type are ones that the training script takes."""
    (line,) = [line for line in (ROOT / "run_inference_script.sh").read_text().splitlines() if "train_BPTT.py" in line]
    options = line.split("train_BPTT.py")[1].strip('"').split()
    result = run_training(*options, "-neuron", "LIF", "-name", "digits_LIF", "-lr", "-1", cwd=tmp_path)
    assert_refused(result, "argument -lr: must be > 0")  # and of nothing before it
