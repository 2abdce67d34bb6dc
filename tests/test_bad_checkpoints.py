"""Checkpoints that the training script refuses, in one line and with nothing written; and the last one, which stays."""

import io
import math
import os
import pickle
import resource
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.fixtures_images import QUICK, refused
from tests.helpers import assert_refused, assert_same, rows_of, run_folder, run_training, weights_in
from tests.test_resumable import put
from utils.checkpoint import CheckpointError, read_checkpoint


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code ran",)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, data_dir):
    home = tmp_path_factory.mktemp("checkpoint")
    result = run_training(*QUICK, "-data_dir", data_dir, cwd=home)
    assert result.returncode == 0, result.stderr
    return run_folder(home / "logs") / "checkpoint_latest.pth"


def saved(state: object, **how) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **how)
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")
    return buffer.getvalue()


NOT_A_CHECKPOINT = "is not a checkpoint, or is truncated"
CONTENTS = {
    "empty": (lambda whole: b"", NOT_A_CHECKPOINT),
    **{
        f"cut at {share}": (lambda whole, share=share: whole[: int(share * len(whole))], NOT_A_CHECKPOINT)
        for share in (0.0001, 0.01, 0.5, 0.99, 0.99999)
    },
    "cut, older format": (
        lambda whole: saved({"a": torch.zeros(99)}, _use_new_zipfile_serialization=False)[:-9],
        NOT_A_CHECKPOINT,
    ),
    "text": (lambda whole: b"these are not the weights\n" * 9, NOT_A_CHECKPOINT),
    "picture": (lambda whole: png(), "is not a checkpoint"),
    "zip": (lambda whole: zipped(), NOT_A_CHECKPOINT),
    "a list": (lambda whole: saved([1, 2]), "holds a list, not a checkpoint"),
    "a tensor": (lambda whole: saved(torch.zeros(3)), "holds a Tensor, not a checkpoint"),
    "no network": (lambda whole: saved({"epoch": 3}), "holds no network"),
    "nothing": (lambda whole: saved({}), "holds no network"),
    "numbered weights": (lambda whole: saved({1: torch.zeros(3)}), "holds no network"),
    "code": (lambda whole: saved({"net": RunsCode()}), "holds more than tensors and plain values"),
    "code, older format": (
        lambda whole: saved({"net": RunsCode()}, _use_new_zipfile_serialization=False),
        "holds more than tensors and plain values",
    ),
    "code, bare pickle": (lambda whole: pickle.dumps(RunsCode()), "is not a checkpoint, or is damaged"),
    "a module": (lambda whole: saved(torch.nn.Linear(2, 2)), "holds more than tensors and plain values"),
    "an array": (lambda whole: saved({"net": {"w": np.zeros(3)}}), "checkpoint_latest.pth"),
    "other names": (lambda whole: saved({"weight": torch.zeros(3)}), "is of another model: it lacks classifier.bias"),
}


@pytest.mark.parametrize(
    ("case", "option"),
    [(case, "-pre_train") for case in CONTENTS] + [(case, "-resume") for case in ("empty", "cut at 0.5", "code")],
)
def test_bad_checkpoint(train, tmp_path, checkpoint, case, option):
    content, says = CONTENTS[case]
    path = tmp_path / "checkpoint_latest.pth"
    path.write_bytes(content(checkpoint.read_bytes()))
    refused(train, option, path, says=(str(path), says))
    assert os.listdir(tmp_path / "cwd") == []  # nor did any code run
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_latest.pth", "cwd"]


@pytest.mark.parametrize("option", ["-pre_train", "-resume"])
def test_missing_checkpoint(train, tmp_path, option):
    refused(train, option, tmp_path / "none.pth", says=(f"no checkpoint at {tmp_path / 'none.pth'}",))
    refused(train, option, tmp_path, says=(f"no checkpoint at {tmp_path}",))


def test_a_file_that_may_not_be_read_is_not_called_damaged(train, tmp_path, checkpoint, monkeypatch):
    (tmp_path / "config.json").mkdir()  # root may read any file
    for option in ("-config", "-resume"):
        (tmp_path / "checkpoint_latest.pth").write_bytes(checkpoint.read_bytes())
        path = tmp_path / {"-config": "config.json", "-resume": "checkpoint_latest.pth"}[option]
        refused(train, option, path, says=(f"{tmp_path / 'config.json'} cannot be read: Is a directory",))

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", deny)
    with pytest.raises(CheckpointError, match=r"latest\.pth cannot be read: Permission denied"):
        read_checkpoint(tmp_path / "checkpoint_latest.pth")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-model snn5", "is of another model"),
        ("-model vggsnn", "is of another model"),
        ("-neuron PLIF", "is of another model: it lacks features.0.act.w"),
        ("-dataset cifar100", "classifier.weight is [10, 256] there and [100, 256] here"),
    ],
)
def test_checkpoint_of_another_network(train, checkpoint, options, says):
    refused(train, "-pre_train", checkpoint, *options.split(), says=(str(checkpoint), says))


def test_bare_state_dict_cannot_be_resumed(train, tmp_path, checkpoint):
    torch.save(weights_in(checkpoint), tmp_path / "bare.pth")
    refused(train, "-resume", tmp_path / "bare.pth", says=("bare.pth cannot be resumed", "-pre_train"))


@pytest.mark.parametrize(
    "damage", [{"epoch": None}, {"epoch": "three"}, {"optimizer": {}}, {"optimizer": []}, {"lr_scheduler": 5}]
)
def test_damaged_training_state_cannot_be_resumed(train, tmp_path, checkpoint, damage):
    torch.save(torch.load(checkpoint, weights_only=True) | damage, tmp_path / "damaged.pth")
    refused(train, "-resume", tmp_path / "damaged.pth", says=("damaged.pth cannot be resumed",))


FAULTS = {
    "a momentum of three": (("optimizer", "state", 0, "momentum_buffer"), torch.zeros(3), "is [3] there"),
    "a learning rate in words": (("optimizer", "param_groups", 0, "lr"), "0.1", "lr is '0.1'"),
    "before the first epoch": (("epoch",), -5, "epoch is -5"),
    "a step beyond the epoch": (("step",), 10**9, "no whole number from 0 to 3"),
    "a schedule that is none": (("lr_scheduler",), {"step": 1}, "another -lr_scheduler"),
    "sums that are none": (("sums", "loss"), math.nan, "loss is nan"),
    "sparse weights": (("net", "classifier.bias"), torch.eye(10)[0].to_sparse(), "is sparse"),
    "weights without values": (("net", "classifier.bias"), torch.empty(10, device="meta"), "without values"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault_ends_the_script(train, tmp_path, checkpoint, case):
    path, value, says = FAULTS[case]
    spoilt = tmp_path / "checkpoint_latest.pth"
    torch.save(put(torch.load(checkpoint, weights_only=True), path, value), spoilt)
    refused(train, "-epochs", "2", "-resume", spoilt, says=(str(spoilt), says))
    assert os.listdir(tmp_path / "cwd") == []
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_latest.pth", "cwd"]


# -- the last checkpoint stays


def test_full_disk_leaves_the_last_checkpoint(train, tmp_path, checkpoint):
    for name in ("checkpoint_latest.pth", "checkpoint_max.pth"):
        (tmp_path / name).write_bytes(checkpoint.read_bytes())
    options = ("-epochs", "2", "-resume", tmp_path / "checkpoint_latest.pth")
    assert_refused(train(*options, limits={resource.RLIMIT_FSIZE: 1_000_000}), "cannot be written")
    for name in ("checkpoint_latest.pth", "checkpoint_max.pth"):
        assert (tmp_path / name).read_bytes() == checkpoint.read_bytes()
    assert train(*options).returncode == 0


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ("-b 8", "the loss is not finite at step 1 of epoch 1, and neither is features.0.fwd.0.weight by now"),
        ("-b 20", "step 0 of the test set, and neither is the output of features.0.fwd.1 by now"),  # its only step
    ],
)
def test_loss_that_is_not_finite_leaves_the_last_checkpoint(train, tmp_path, options, where):
    explode = "-epochs 3 -lr 1e-2 -lr_scheduler StepLR -step_size 1 -gamma 1e30"
    result = train(*options.split(), *explode.split())
    assert_refused(result, where)
    folder = run_folder(tmp_path / "cwd" / "logs")
    assert [row["epoch"] for row in rows_of(folder)] == [0]
    assert "Infinity" not in (folder / "metrics.jsonl").read_text()
    for name in ("checkpoint_latest.pth", "checkpoint_max.pth"):
        state = torch.load(folder / name, weights_only=True)
        assert state["epoch"] == 0
        assert all(weight.isfinite().all() for weight in state["net"].values())
    result = train("-pre_train", folder / "checkpoint_latest.pth", "-save_init", "-name", "next")
    assert result.returncode == 0, result.stderr
    assert_same(
        weights_in(folder.parent / "next" / "checkpoint_init.pth"), weights_in(folder / "checkpoint_latest.pth")
    )
