"""``dvsgesture`` through its loader, from clips, recordings and the archive, on small data in the official layouts."""

from __future__ import annotations

import hashlib
import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.datasets.dvs128_gesture import DVS128Gesture
from torchvision.datasets import DatasetFolder

from data import build_dataset
from data.events import read_npz
from tests.fixtures_dvs import (
    draw_events,
    folders_inside,
    offline,
    one_epoch,
    pack_recordings,
    refused,
    write_dvs_gesture_events,
    write_dvs_gesture_recordings,
    write_npz,
)

# the package's name of this module is the data set's function
gesture_module = importlib.import_module("data.dvs_gesture")


def test_gesture_through_its_loader(tmp_path):
    home = write_dvs_gesture_events(tmp_path, train_users=(1, 23), test_users=(24,), events=403)
    task = offline(tmp_path, "dvsgesture")
    assert (task.in_channels, task.input_size, task.is_sequence, task.num_classes) == (2, 128, True, 11)
    assert (len(task.train), len(task.test)) == (22, 11)
    for words in ("SpikingJelly", "22 train / 11 test", "1176 / 288"):
        assert words in task.convention
    x, labels = one_epoch(task, T=4)
    assert x.shape == (4, 11, 2, 128, 128)
    assert labels.tolist() == list(range(11))
    assert task.drop_last
    seen = draw_events(4, 24, 403)  # of folder 4, which is label 5
    expected = torch.zeros(4, 2, 128, 128)
    for n, (px, py, p) in enumerate(zip(seen["x"], seen["y"], seen["p"], strict=True)):
        expected[min(n // 100, 3), p, py, px] += 1
    assert torch.equal(x[:, 5], expected)
    star = offline(tmp_path, "dvsgesture", cutupmix_auto=True)
    assert torch.equal(star.train[1, 3][0], task.train[2, 3][0])  # nothing is drawn
    home.rename(tmp_path / "DVS128Gesture")  # with its frames, which are used again
    assert torch.equal(one_epoch(offline(tmp_path, "dvsgesture"), T=4)[0], x)
    assert len(folders_inside(tmp_path / "DVS128Gesture")) == 2


def test_gesture_labels_are_the_folders_sorted_as_strings(tmp_path):
    home = write_dvs_gesture_events(tmp_path)
    train = offline(tmp_path, "dvsgesture").train
    theirs = DatasetFolder(str(home / "events_np" / "train"), loader=read_npz, extensions=(".npz",))
    assert train.labels.tolist() == theirs.targets  # SpikingJelly's base class
    assert theirs.classes == ["0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9"]
    for index, (file, _) in enumerate(theirs.samples):
        expected = gesture_module.read_frames(Path(file), 4)
        assert torch.equal(train.load(index), torch.from_numpy(expected.astype(np.float32)))
    assert gesture_module.CLASSES[2] == "other gestures"  # number 11, folder 10
    assert gesture_module.CLASSES[3] == "left hand wave"  # number 3, folder 2


def test_gesture_recordings_are_cut_as_spikingjelly_cuts_them(tmp_path):
    home = write_dvs_gesture_recordings(tmp_path, train_users=(1, 2), test_users=(29,))
    assert len(offline(tmp_path, "dvsgesture").train) == 22
    reference = tmp_path / "reference"
    reference.mkdir()
    DVS128Gesture.create_raw_from_extracted(home / "extract", reference)
    theirs = sorted(reference.rglob("*.npz"))
    assert len(theirs) == 33
    assert len(list((home / "events_np").rglob("*.npz"))) == 33
    for file in theirs:
        with np.load(file) as expected, np.load(home / "events_np" / file.relative_to(reference)) as clip:
            assert len(clip["t"]) == 100
            for key in "txyp":
                assert (clip[key] == expected[key]).all()


def test_gesture_archive(tmp_path, monkeypatch):
    home = write_dvs_gesture_recordings(tmp_path)
    archive = pack_recordings(home)
    refused(lambda: offline(tmp_path, "dvsgesture"), archive, "broken", "8a5c71fb11e24e5ca5b11866ca6c00a1")
    assert folders_inside(home) == {"download"}
    monkeypatch.setattr(gesture_module, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(offline(tmp_path, "dvsgesture").test) == 11
    assert {"extract", "events_np"} < folders_inside(home)


def test_gesture_that_is_nowhere(tmp_path):
    archive = tmp_path / "dvsgesture" / "download" / "DvsGesture.tar.gz"
    refused(lambda: build_dataset("dvsgesture", tmp_path), "by hand", "CC BY 4.0", "ibm", gesture_module.MD5, archive)


@pytest.mark.parametrize("damage", ["torn recording", "no table", "class 12", "two columns", "no list"])
def test_gesture_conversion_that_fails_leaves_nothing(tmp_path, damage):
    home = write_dvs_gesture_recordings(tmp_path)
    folder = home / "extract" / "DvsGesture"
    table = folder / "user24_led_labels.csv"
    file = {"torn recording": folder / "user24_led.aedat", "no list": folder / "trials_to_test.txt"}.get(damage, table)
    content = file.read_bytes()
    if damage == "torn recording":
        file.write_bytes(content[:-1])
    elif damage == "class 12":
        file.write_bytes(content + b"12,1,2\n")
    elif damage == "two columns":
        file.write_text("class,start\n1,2\n")
    else:
        file.unlink()
    refused(lambda: offline(tmp_path, "dvsgesture"), file)
    assert folders_inside(home) == {"extract"}
    file.write_bytes(content)
    assert len(offline(tmp_path, "dvsgesture").test) == 11


def test_gesture_clips_on_the_wrong_side(tmp_path):
    home = write_dvs_gesture_events(tmp_path)
    clip = home / "events_np" / "train" / "4" / "user01_led_0.npz"
    moved = home / "events_np" / "test" / "4" / "user01_led_0.npz"
    clip.rename(moved)
    refused(lambda: offline(tmp_path, "dvsgesture"), moved, "24–29")
    moved.rename(clip.with_name("clip.npz"))
    refused(lambda: offline(tmp_path, "dvsgesture"), clip.with_name("clip.npz"), "user<nn>")
    clip.with_name("clip.npz").rename(clip)
    shutil.rmtree(home / "events_np" / "test")
    refused(lambda: offline(tmp_path, "dvsgesture"), home / "events_np", "both")


def test_gesture_clip_with_too_few_events_and_conversion_of_spikingjelly_broken_off(tmp_path):
    home = write_dvs_gesture_events(tmp_path)
    clip = home / "events_np" / "train" / "4" / "user01_led_0.npz"
    write_npz(clip, draw_events(4, 1, 3))
    refused(lambda: offline(tmp_path, "dvsgesture"), clip, "3 events", "-T 4")
    (home / "events_np.building").touch()
    refused(lambda: offline(tmp_path, "dvsgesture"), home / "events_np.building")
