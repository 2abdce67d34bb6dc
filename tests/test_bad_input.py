"""Bad input to the training script: exit code 2, one line that says what is wrong, and nothing written."""

import os
import resource
from pathlib import Path

import pytest
import torch

from tests.fixtures_dvs import write_dvs_cifar10, write_dvs_cifar10_pt
from tests.fixtures_images import refused, write_cifar10, write_tiny_imagenet
from tests.helpers import assert_refused, fork_server, run_folder, run_training

OPTIONS = {
    "-neuron CLlF": ("unknown neuron 'CLlF'; did you mean CLIF?", "LIF, PLIF, CLIF, KLIF, GLIF, ILIF, PSN, relu"),
    "-neuron lif": ("did you mean LIF?",),
    "-model spiking_resnet_18": ("unknown model", "did you mean spiking_resnet18?"),
    "-model vgg9": ("unknown model 'vgg9'", "snn5_noAP"),
    "-dataset cifar-10": ("unknown data set 'cifar-10'; did you mean cifar10?",),
    "-dataset dvscifar10": ("did you mean DVSCIFAR10?",),
    "-surrogate rectangel": ("did you mean rectangle?",),
    "-opt Adan": ("did you mean Adam?",),
    "-lr_scheduler cosalr": ("did you mean CosALR?",),
    "-bn step": ("unknown batch norm",),
    "-backend compil": ("unknown backend 'compil'; did you mean compile?",),
    "-step_mode x": ("unknown step mode 'x'",),
    "-step_mode s -checkpoint": ("-checkpoint", "-step_mode"),
    "-device cpu -backend triton": ("backend triton is for CUDA, and the input is on cpu",),
    "-T 0": ("-T", "≥ 1"),
    "-T -4": ("-T", "≥ 1"),
    "-T 2.5": ("-T", "'2.5' is not a whole number"),
    "-T six": ("-T", "'six' is not a whole number"),
    "-T": ("-T", "expected one argument"),
    "-tau 1": ("-tau", "> 1"),
    "-tau 0.5": ("-tau", "> 1"),
    "-tau nan": ("-tau", "finite"),
    "-b 0": ("-b", "≥ 1"),
    "-b 100000000000000000000": ("-b", "at most"),
    "-seed 1" + 400 * "0": ("-seed", "at most"),
    "-seed -1": ("-seed", "≥ 0"),
    "-seed 1 2 1": ("-seed names 1 twice",),
    "-epochs 0": ("-epochs", "≥ 1"),
    "-j -1": ("-j", "≥ 0"),
    "-lr inf": ("-lr", "finite"),
    "-lr nan": ("-lr", "finite"),
    "-lr 1e200": ("-lr", "finite"),
    "-lr 0": ("-lr", "> 0"),
    "-lr=": ("-lr", "'' is not a number"),
    "-weight_decay -1": ("-weight_decay", "≥ 0"),
    "-drop_rate 1": ("-drop_rate", "< 1"),
    "-loss_lambda 1.1": ("-loss_lambda", "≤ 1"),
    "-loss_means inf": ("-loss_means", "finite"),
    "-train_fraction 0": ("-train_fraction", "> 0"),
    "-train_fraction 0.001": ("-train_fraction 0.001 leaves no samples",),
    "-val_split 0.01": ("-val_split 0.01 leaves no samples",),
    "-v_reset": ("-v_reset", "expected one argument"),
    "-neuron LIF -v_reset 1": ("-v_reset", "< 1"),
    "-v_reset 0": ("-v_reset", "CLIF has no reset value", "LIF and PLIF"),
    "-neuron relu -v_reset 0": ("relu has no reset value",),
    "-batch 4": ("unknown option -batch",),
    "-weigth_decay 5e-5": ("unknown option -weigth_decay; did you mean -weight_decay?",),
    "--epochs 3": ("unknown option --epochs; did you mean -epochs?",),
    "-cutmixup_auto": ("did you mean -cutupmix_auto?",),
    "extra": ("unrecognized arguments: extra",),
    "-name a/b": ("-name", "'a/b' is not the name of a folder", "-out_dir"),
    "-name a\x1bb": ("-name", "is not the name of a folder"),
    "-name ..": ("-name", "'..' is not the name of a folder"),
    "-device tpu": ("-device tpu", "no such device", "cpu, cuda"),
    "-device cpu:3": ("-device cpu:3",),
    "-device meta": ("-device meta", "only cpu, cuda and mps"),
    "-resume " + 300 * "a": ("cannot use aaaaa", "File name too long"),
    "-pre_train " + 300 * "a": ("cannot use aaaaa", "File name too long"),
    "-dataset cifar10 -data_dir " + 300 * "a": ("cannot use aaaaa", "File name too long"),
    "-out_dir runs\udcff": (r"'runs\udcff' is not UTF-8",),
    "-b 64 -cutupmix_auto": ("-b 64 is more than the 20 training samples",),
    "-b 19": ("-b 19 leaves a batch of one of the 20 training samples", "1×1"),
    "-b 1": ("-b 1 leaves a batch of one",),
    "-b 1 -cutupmix_auto": ("-b 1 leaves a batch of one",),
}


@pytest.mark.parametrize("options", OPTIONS, ids=[ascii(options[:30]) for options in OPTIONS])
def test_bad_option(train, tmp_path, options):
    refused(train, *options.split(), says=OPTIONS[options])
    assert os.listdir(tmp_path / "cwd") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu(train):
    refused(train, "-device", "cuda", says=("-device cuda: this machine has no cuda device",))


def test_first_line_of_a_new_interpreter_is_the_error(tmp_path):
    assert_refused(run_training("-neuron", "CLlF", cwd=tmp_path, fresh=True), "did you mean CLIF?")


# -- data


def no_cifar(home: Path) -> str:
    return "-dataset cifar10"


def broken_cifar_archive(home: Path) -> str:
    (home / "cifar-10-python.tar.gz").write_bytes(b"half a download")
    return "-dataset cifar10"


def torn_aedat(home: Path) -> str:
    file = write_dvs_cifar10(home, per_class=1, events=20) / "cat" / "cifar10_cat_900.aedat"
    file.write_bytes(file.read_bytes()[:-3])
    return "-dataset DVSCIFAR10"


def few_events(home: Path) -> str:
    write_dvs_cifar10(home, per_class=1, events=20)
    return "-dataset DVSCIFAR10 -T 21"


def frames_of_another_number(home: Path) -> str:
    write_dvs_cifar10_pt(home, T=4, train=2, test=1)
    return "-dataset DVSCIFAR10-pt -T 10"


def truncated_frames(home: Path) -> str:
    file = write_dvs_cifar10_pt(home, T=2, train=3, test=1) / "train" / "1.pt"
    file.write_bytes(file.read_bytes()[:1000])
    return "-dataset DVSCIFAR10-pt"


def truncated_batch(home: Path) -> str:
    file = write_cifar10(home, per_batch=4, test=4) / "data_batch_2"
    file.write_bytes(file.read_bytes()[:1000])
    return "-dataset cifar10"


def no_gesture(home: Path) -> str:
    return "-dataset dvsgesture"


def no_tiny_image(home: Path) -> str:
    (write_tiny_imagenet(home, classes=2) / "val" / "images" / "val_1.JPEG").unlink()
    return "-dataset tiny_imagenet"


DATA = {
    no_cifar: ("cifar-10-python.tar.gz is missing", "c58f30108f718f92721af3b95e74349a", "put it at", "https://"),
    broken_cifar_archive: ("cifar-10-python.tar.gz is broken (15 bytes, MD5", "put it at", "https://"),
    torn_aedat: ("cifar10_cat_900.aedat is torn",),
    few_events: ("holds 20 events, fewer than -T 21 frames",),
    frames_of_another_number: ("holds T = 4 frames; run with -T 4",),
    truncated_frames: ("1.pt is broken",),
    truncated_batch: ("data_batch_2", "is broken", "put it at"),
    no_gesture: ("fetched by hand", "DvsGesture.tar.gz", "8a5c71fb11e24e5ca5b11866ca6c00a1", "put it at"),
    no_tiny_image: ("val_1.JPEG is missing", "tiny-imagenet-200.zip"),
}


@pytest.mark.parametrize("damage", DATA, ids=lambda damage: damage.__name__)
def test_bad_data(train, tmp_path, damage):
    home = tmp_path / "data"
    home.mkdir()
    refused(train, "-data_dir", home, *damage(home).split(), says=DATA[damage])
    assert os.listdir(tmp_path / "cwd") == []


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])  # they take 5 s to end
def test_refused_image_is_named_in_mid_run(train, tmp_path, workers):
    home = write_tiny_imagenet(tmp_path / "data", classes=2)
    image = home / "train" / "n00001007" / "images" / "n00001007_3.JPEG"
    image.write_bytes(image.read_bytes()[:500])
    result = train("-data_dir", tmp_path / "data", "-dataset", "tiny_imagenet", "-j", workers)
    assert_refused(result, f"error: {image} is not a readable JPEG")
    assert os.listdir(tmp_path / "cwd" / "logs") == []  # the run's folder went with it


def test_a_folder_that_a_run_did_not_make_stays_when_its_data_are_bad(train, tmp_path):
    home = write_tiny_imagenet(tmp_path / "data", classes=2)
    words = ("-data_dir", tmp_path / "data", "-dataset", "tiny_imagenet")
    assert train(*words).returncode == 0
    kept = tmp_path / "kept"
    kept.mkdir()
    (run_folder(tmp_path / "cwd" / "logs") / "checkpoint_latest.pth").rename(kept / "mine.pth")
    (kept / "notes.txt").write_text("of months")
    image = home / "train" / "n00001007" / "images" / "n00001007_3.JPEG"
    image.write_bytes(image.read_bytes()[:500])
    assert_refused(train(*words, "-epochs", 2, "-resume", kept / "mine.pth"), f"error: {image} is not a readable JPEG")
    assert {"mine.pth", "notes.txt"} <= {*os.listdir(kept)}


@pytest.mark.parametrize("T", [2**63 - 1, 2**58])
def test_more_steps_than_memory_can_count_leave_no_folder(train, tmp_path, T):
    assert_refused(train("-T", T), f"error: -T {T} is more steps", "lower -T")
    assert os.listdir(tmp_path / "cwd" / "logs") == []


# -- where the run goes


def test_out_dir_that_cannot_be_written(train, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out_dir in (tmp_path / "file", tmp_path / "file" / "logs", Path("/proc/logs")):
        refused(train, "-out_dir", out_dir, says=(f"cannot write to -out_dir {out_dir}",))
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("bytes_per_file", [300, 3_000, 20_000, 1_000_000])
def test_full_disk_in_mid_run(train, tmp_path, bytes_per_file):
    """It leaves the rows of epochs that were trained, no part of a checkpoint, and without a row no folder."""
    result = train(limits={resource.RLIMIT_FSIZE: bytes_per_file})
    assert_refused(result, "logs/")
    folders = list((tmp_path / "cwd" / "logs").iterdir())
    assert len(folders) == (bytes_per_file > 300)  # no room for config.json
    for folder in folders:
        assert (folder / "metrics.jsonl").read_text().startswith('{"epoch": 0, ')
        assert not list(folder.glob("*.pth*"))


# -- what goes wrong while training


def test_loss_that_is_not_finite(train):
    assert_refused(train("-lr", "1e30"), "the loss is not finite at step 1 of epoch 0", "-lr")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["-T 100000 -b 8", "-T 2 -b 20 -model spiking_resnet18 -T 500"])
def test_out_of_memory_names_what_takes_less(train, tmp_path, options):
    status = Path(f"/proc/{fork_server().pid}/status").read_text()
    held = 1024 * int(status.split("VmSize:")[1].split()[0])
    result = train(*options.split(), limits={resource.RLIMIT_AS: held + 2**30})
    assert_refused(result, "out of memory with -b", "-T", "lower one of them")
    assert os.listdir(tmp_path / "cwd" / "logs") == []
