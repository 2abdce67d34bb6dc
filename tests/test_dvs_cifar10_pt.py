"""``DVSCIFAR10-pt``: tensors through their loader, broken ones, and the export that makes them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys

import pytest
import torch
from torch.nn.functional import interpolate

from data import export_frames
from tests.fixtures_dvs import Bomb, offline, one_epoch, refused, write_dvs_cifar10, write_dvs_cifar10_pt


def test_pt_through_its_loader(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path, T=4, train=12, test=11)
    task = offline(tmp_path, "DVSCIFAR10-pt")
    assert (task.in_channels, task.input_size, task.is_sequence) == (2, 48, True)
    assert (len(task.train), len(task.test)) == (12, 11)
    assert "12 train / 11 test" in task.convention
    x, labels = one_epoch(task, T=4)
    assert labels.tolist() == [*range(10), 0]  # 10.pt comes after 9.pt
    for n in range(11):
        assert torch.equal(x[:, n], torch.load(home / "test" / f"{n}.pt", weights_only=True)[0])
    star = offline(tmp_path, "DVSCIFAR10-pt", cutupmix_auto=True)
    assert not torch.equal(task.train[1, 3][0], task.train[2, 3][0])
    assert torch.equal(task.train[1, 3][0], star.train[1, 3][0])  # augmented, with the option or without


def test_pt_of_the_sensors_size_is_resized(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path, T=2, size=128)
    frames = offline(tmp_path, "DVSCIFAR10-pt", T=2).test[1, 0][0]
    raw = torch.load(home / "test" / "0.pt", weights_only=True)[0]
    assert torch.equal(frames, interpolate(raw, (48, 48), mode="nearest-exact"))


def test_pt_with_another_frame_number(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path, T=4)
    for _ in range(2):  # the second time from labels.json
        refused(lambda: offline(tmp_path, "DVSCIFAR10-pt", T=5), home / "train" / "0.pt", "T = 4", "-T 5")
    assert len(offline(tmp_path, "DVSCIFAR10-pt", T=4).train) == 20


def test_pt_in_one_frame_holds_all_events(tmp_path):
    """What ``-neuron relu`` sees, which has T = 1."""
    home = write_dvs_cifar10_pt(tmp_path, T=4, size=96)
    task = offline(tmp_path, "DVSCIFAR10-pt", T=1)
    for n in range(len(task.test)):
        raw = torch.load(home / "test" / f"{n}.pt", weights_only=True)[0]
        assert torch.equal(task.test[1, n][0], interpolate(raw.sum(0, keepdim=True), (48, 48), mode="nearest-exact"))
    assert task.train[1, 0][0].shape == (1, 2, 48, 48)


def test_pt_labels_are_read_once(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path)
    before = offline(tmp_path, "DVSCIFAR10-pt").train.labels
    file = home / "train" / "3.pt"
    content, stat = file.read_bytes(), file.stat()
    file.write_bytes(b"\0" * len(content))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    task = offline(tmp_path, "DVSCIFAR10-pt")  # had it opened the file, it would have failed
    assert torch.equal(task.train.labels, before)
    refused(lambda: task.train[1, 3], file)
    os.utime(file)  # now it counts as changed
    refused(lambda: offline(tmp_path, "DVSCIFAR10-pt"), file)
    torch.save((torch.rand(4, 2, 48, 48), 9), file)
    assert offline(tmp_path, "DVSCIFAR10-pt").train.labels[3] == 9
    for damaged in ("", "[1, 2]", '{"0.pt": [1]}', '{"0.pt": 3}'):
        (home / "train" / "labels.json").write_text(damaged)
        assert offline(tmp_path, "DVSCIFAR10-pt").train.labels[3] == 9


def test_pt_sample_in_both_splits(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path)
    shutil.copy(home / "train" / "7.pt", home / "test" / "99.pt")
    refused(lambda: offline(tmp_path, "DVSCIFAR10-pt"), "train/7.pt", "test/99.pt")


def test_pt_that_would_run_code(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path)
    file, made = home / "train" / "3.pt", tmp_path / "made"
    torch.save((torch.zeros(4, 2, 48, 48), Bomb(made)), file)
    refused(lambda: offline(tmp_path, "DVSCIFAR10-pt"), file)
    file.write_bytes(pickle.dumps(Bomb(made), protocol=2))
    refused(lambda: offline(tmp_path, "DVSCIFAR10-pt"), file)
    assert not made.exists()
    pickle.loads(file.read_bytes())  # the bomb is live
    assert made.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"PK\x03\x04 not a zip file",
        torch.zeros(4, 2, 48, 48),
        {"frames": 1, "label": 2},
        (torch.zeros(4, 2, 48, 48), 10),
        (torch.zeros(4, 3, 48, 48), 1),
        (torch.zeros(4, 2, 48, 47), 1),
        (torch.zeros(4, 2, 48, 48), torch.tensor([1, 2])),
        (torch.zeros(4, 2, 48, 48), 1, 2),
    ],
)
def test_broken_pt(tmp_path, content):
    file = write_dvs_cifar10_pt(tmp_path) / "test" / "0.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    refused(lambda: offline(tmp_path, "DVSCIFAR10-pt"), file)


def test_missing_pt(tmp_path):
    refused(lambda: offline(tmp_path, "DVSCIFAR10-pt"), tmp_path / "DVSCIFAR10-pt" / "train", "data.export_frames")


def test_exported_frames_are_the_same_data(tmp_path, monkeypatch, capsys):
    write_dvs_cifar10(tmp_path, per_class=1)
    command = ["export_frames", "--data_dir", str(tmp_path), "--T", "3"]
    monkeypatch.setattr(sys, "argv", command)
    assert export_frames.main() == 0
    assert "10 train / 10 test" in capsys.readouterr().out
    events, tensors = offline(tmp_path, T=3), offline(tmp_path, "DVSCIFAR10-pt", T=3)
    for ours, theirs in ((events.train, tensors.train), (events.test, tensors.test)):
        assert torch.equal(ours.labels, theirs.labels)
        assert all(torch.equal(ours.load(int(ours.indices[n])), theirs.load(int(theirs.indices[n]))) for n in range(10))
    _, label = torch.load(tmp_path / "DVSCIFAR10-pt" / "test" / "3.pt", weights_only=True)
    assert label.long()[0] == tensors.test.labels[3]  # as the published code reads it
    assert export_frames.main() == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--T x", "--T", "--TT 3", "--event_split middle", "--T=2\n3"], ids=repr)
def test_what_export_cannot_read_is_one_line(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export_frames", *words.split(" ")])
    with pytest.raises(SystemExit) as ended:
        export_frames.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("export_frames: error: ")


def test_export_that_is_stopped_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    write_dvs_cifar10(tmp_path, per_class=1)
    monkeypatch.setattr(sys, "argv", ["export_frames", "--data_dir", str(tmp_path), "--T", "3"])
    monkeypatch.setattr(torch, "save", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert export_frames.main() == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped by SIGINT; nothing was written\n"
    assert not [*tmp_path.rglob("*.pt")]
    assert not (tmp_path / "DVSCIFAR10-pt").exists()
