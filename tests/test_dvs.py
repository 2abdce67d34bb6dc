"""The event-camera data sets through the real loaders, on small data in the official layouts."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from spikingjelly.datasets.dvs128_gesture import DVS128Gesture
from torch.nn.functional import interpolate

from data import DataError, Task, build_dataset, export_frames
from data.digits import digit_split, load_digit_images
from data.digits_dvs import BACKGROUND, CONTRAST, SACCADE, STEPS, log_intensity, simulate
from data.digits_dvs import path as camera_path
from data.dvs_cifar10 import list_files, split_by_number
from data.resident import build_loader
from tests.fixtures_dvs import (
    CLASSES,
    draw_events,
    pack_recordings,
    write_dvs_cifar10,
    write_dvs_cifar10_pt,
    write_dvs_gesture_events,
    write_dvs_gesture_recordings,
    write_npz,
    zip_classes,
)

# the package's names of these modules are the data sets' functions
cifar10_module = importlib.import_module("data.dvs_cifar10")
gesture_module = importlib.import_module("data.dvs_gesture")


def refused(call: Callable[[], object], *words: object) -> None:
    """``call()`` raises a DataError of one line that says ``words``."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def one_epoch(task: Task, T: int, batch_size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """The test split through its loader: x_seq [T, M, C, H, W] and labels [M]."""
    loader = build_loader(
        task.test, batch_size=batch_size, T=T, device=torch.device("cpu"), seed=0, shuffle=False, workers=0
    )
    x, labels = zip(*loader.epoch(1), strict=True)
    return torch.cat(x, dim=1), torch.cat(labels)


def folders_inside(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


# --- DVSCIFAR10 -----------------------------------------------------------------------------------------------------


def offline(root: Path, name: str = "DVSCIFAR10", T: int = 4, **options) -> Task:
    return build_dataset(name, root, T=T, download=False, **options)


def test_dvs_cifar10_through_its_loader(tmp_path):
    write_dvs_cifar10(tmp_path, per_class=2, events=403)
    task = offline(tmp_path)
    assert (task.in_channels, task.input_size, task.is_sequence, task.num_classes) == (2, 48, True, 10)
    assert task.classes == CLASSES
    assert (len(task.train), len(task.test)) == (20, 20)
    x, labels = one_epoch(task, T=4)
    assert x.shape == (4, 20, 2, 48, 48)
    assert x.dtype == torch.float32
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    # cat, file 901: its frames from its events, without the project's code
    seen = draw_events(3, 901, 403)
    counts = torch.zeros(4, 2, 128, 128)
    for n, (px, py, p) in enumerate(zip(seen["x"], seen["y"], seen["p"], strict=True)):
        counts[min(n // 100, 3), 1 - p, py, 127 - px] += 1
    expected = interpolate(counts, (48, 48), mode="bilinear", antialias=True)
    torch.testing.assert_close(x[:, 7], expected)


@pytest.mark.parametrize(("event_split", "test_numbers"), [("last", {900, 999}), ("first", {0, 99})])
def test_split_goes_by_file_number(tmp_path, event_split, test_numbers):
    home = write_dvs_cifar10(tmp_path, numbers=[], events=1)
    numbers = [0, 99, 100, 500, 899, 900, 999]
    for name in CLASSES:
        for number in numbers:
            (home / name / f"cifar10_{name}_{number}.aedat").touch()  # empty: the split loads nothing
    files, labels, found = list_files(home)
    assert len(files) == len(set(files)) == 70
    assert [found[:7], labels[:8]] == [numbers, [0] * 7 + [1]]
    train, test, convention = split_by_number(found, event_split)
    assert {found[index] for index in test.tolist()} == test_numbers
    assert sorted(train.tolist() + test.tolist()) == list(range(70))
    assert not {files[index] for index in train.tolist()} & {files[index] for index in test.tolist()}
    assert "50 train / 20 test" in convention
    assert "9000 / 1000" in convention


def test_the_whole_set_does_not_differ():
    numbers = list(range(1000)) * 10
    *_, convention = split_by_number(numbers, "last")
    assert "9000 train / 1000 test" in convention
    assert "differs" not in convention
    assert "not the paper's" in split_by_number(numbers, "first")[2]


def test_a_side_without_files_is_refused(tmp_path):
    write_dvs_cifar10(tmp_path, numbers=[0, 1])
    refused(lambda: offline(tmp_path), "20 training and 0 test")
    refused(lambda: offline(tmp_path, event_split="first"), "0 training and 20 test")
    refused(lambda: offline(tmp_path, event_split="middle"), "middle", "last, first")


@pytest.mark.parametrize("place", ["DVSCIFAR10", "CIFAR10DVS/extract", "."])
def test_layouts_that_are_accepted(tmp_path, place):
    source = write_dvs_cifar10(tmp_path / "source", per_class=1)
    (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, tmp_path / "data" / place)
    for _ in range(2):  # the second time with the frames that the first one left
        assert len(offline(tmp_path / "data").train) == 10
    assert [path.name for path in (tmp_path / "data" / place).glob("frames*")] == (
        [path.name for path in (tmp_path / "data" / "DVSCIFAR10").glob("frames*")] if place == "DVSCIFAR10" else []
    )


def test_files_that_cannot_be_split_or_read(tmp_path):
    home = write_dvs_cifar10(tmp_path, per_class=1)
    odd = home / "bird" / "cifar10_bird_01.aedat"
    odd.touch()
    refused(lambda: offline(tmp_path), odd, "by file name")
    odd.unlink()
    torn = home / "bird" / "cifar10_bird_0.aedat"
    content = torn.read_bytes()
    torn.write_bytes(content[:-3])
    refused(lambda: offline(tmp_path), torn, "torn")
    assert not list(home.glob("*frames*"))
    torn.write_bytes(content)
    refused(lambda: offline(tmp_path, T=401), "400 events", "-T 401")
    shutil.rmtree(home / "frog")
    (home / "frog").mkdir()
    refused(lambda: offline(tmp_path), home / "frog", "no .aedat files")


def test_augmentation_is_drawn_per_epoch_and_sample_on_training_data_alone(tmp_path):
    write_dvs_cifar10(tmp_path, per_class=1)
    plain, augmented = offline(tmp_path), offline(tmp_path, cutupmix_auto=True)
    assert torch.equal(plain.train[1, 0][0], plain.train[2, 0][0])
    assert torch.equal(augmented.test[1, 0][0], plain.test[1, 0][0])
    changed = [not torch.equal(augmented.train[1, n][0], augmented.train[2, n][0]) for n in range(10)]
    assert all(changed)
    assert torch.equal(augmented.train[3, 4][0], offline(tmp_path, cutupmix_auto=True).train[3, 4][0])
    assert not torch.equal(augmented.train[3, 4][0], offline(tmp_path, cutupmix_auto=True, seed=1).train[3, 4][0])


def test_worker_processes_change_nothing(tmp_path):
    write_dvs_cifar10(tmp_path, per_class=1)
    epochs = []
    for workers in (0, 2):
        split = offline(tmp_path, cutupmix_auto=True).train
        loader = build_loader(
            split, batch_size=4, T=4, device=torch.device("cpu"), seed=0, shuffle=True, workers=workers
        )
        epochs.append(torch.cat([x for x, _ in loader.epoch(2)], dim=1))
    assert torch.equal(*epochs)


# --- DVSCIFAR10's archives ------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def publish(monkeypatch, archives: Path, address: str) -> None:
    """Let the data set expect these archives at this address, in place of the official ones."""
    known = {}
    for number, name in enumerate(CLASSES):
        content = (archives / f"{name}.zip").read_bytes()
        known[name] = (number, hashlib.md5(content).hexdigest())
        (archives / str(number)).write_bytes(content)
    monkeypatch.setattr(cifar10_module, "ARCHIVES", known)
    monkeypatch.setattr(cifar10_module, "URL", address + "/{}")


def test_missing_archive_says_how_to_place_it(tmp_path):
    refused(
        lambda: offline(tmp_path),
        "downloads are off",
        tmp_path / "DVSCIFAR10" / "download" / "airplane.zip",
        "https://api.figshare.com/v2/file/download/7712788",
        "0afd5c4bf9ae06af762a77b180354fdd",
        tmp_path / "DVSCIFAR10" / "airplane",
    )


def test_archive_that_is_not_the_official_one(tmp_path):
    zip_classes(write_dvs_cifar10(tmp_path, per_class=1))
    archive = tmp_path / "DVSCIFAR10" / "download" / "airplane.zip"
    refused(lambda: offline(tmp_path), archive, "broken", "0afd5c4bf9ae06af762a77b180354fdd")
    assert folders_inside(tmp_path / "DVSCIFAR10") == {"download"}


def test_archives_placed_by_hand_and_archives_fetched(tmp_path, monkeypatch, served):
    folder, address = served
    home = write_dvs_cifar10(tmp_path / "by_hand", per_class=1)
    zip_classes(home)
    for archive in (home / "download").iterdir():
        shutil.copy(archive, folder)
    publish(monkeypatch, folder, address)
    by_hand = offline(tmp_path / "by_hand")
    fetched = build_dataset("DVSCIFAR10", tmp_path / "fetched", T=4)
    assert len(by_hand.train) == len(fetched.train) == 10
    assert torch.equal(one_epoch(by_hand, T=4)[0], one_epoch(fetched, T=4)[0])
    assert {*CLASSES, "download"} < folders_inside(tmp_path / "fetched" / "DVSCIFAR10")


@pytest.mark.parametrize(("answer", "words"), [(b"<html>Forbidden</html>", "web page"), (b"", "0 bytes")])
def test_useless_answers(tmp_path, monkeypatch, served, answer, words):
    folder, address = served
    (folder / "7712788").write_bytes(answer)
    monkeypatch.setattr(cifar10_module, "URL", address + "/{}")
    archive = tmp_path / "DVSCIFAR10" / "download" / "airplane.zip"
    refused(lambda: build_dataset("DVSCIFAR10", tmp_path, T=4), words, archive, "0afd5c4bf9ae06af762a77b180354fdd")
    assert not archive.exists()


@pytest.mark.parametrize("member", ["../cifar10_airplane_0.aedat", "elsewhere/cifar10_airplane_0.aedat"])
def test_archives_with_members_elsewhere(tmp_path, monkeypatch, member):
    home = write_dvs_cifar10(tmp_path, per_class=1)
    zip_classes(home)
    with zipfile.ZipFile(home / "download" / "airplane.zip", "w") as archive:
        archive.writestr(member, b"")
    publish(monkeypatch, home / "download", "http://127.0.0.1:9")
    refused(lambda: offline(tmp_path), home / "download" / "airplane.zip")
    assert folders_inside(home) == {"download"}
    assert folders_inside(tmp_path) == {"DVSCIFAR10"}


# --- DVSCIFAR10-pt --------------------------------------------------------------------------------------------------


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
    augmented = offline(tmp_path, "DVSCIFAR10-pt", cutupmix_auto=True)
    assert not torch.equal(augmented.train[1, 3][0], task.train[1, 3][0])
    assert torch.equal(augmented.test[1, 3][0], task.test[1, 3][0])


def test_pt_of_the_sensors_size_is_resized(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path, T=2, size=128)
    frames = offline(tmp_path, "DVSCIFAR10-pt", T=2).test[1, 0][0]
    raw = torch.load(home / "test" / "0.pt", weights_only=True)[0]
    torch.testing.assert_close(frames, interpolate(raw, (48, 48), mode="bilinear", antialias=True))


def test_pt_with_another_frame_number(tmp_path):
    home = write_dvs_cifar10_pt(tmp_path, T=4)
    for _ in range(2):  # the second time from labels.json
        refused(lambda: offline(tmp_path, "DVSCIFAR10-pt", T=5), home / "train" / "0.pt", "T = 4", "-T 5")
    assert len(offline(tmp_path, "DVSCIFAR10-pt", T=4).train) == 20


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


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


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
        assert all(torch.equal(ours[1, n][0], theirs[1, n][0]) for n in range(10))
    assert export_frames.main() == 2
    assert "is there already" in capsys.readouterr().err


# --- dvsgesture -----------------------------------------------------------------------------------------------------


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
    seen = draw_events(5, 24, 403)
    expected = torch.zeros(4, 2, 128, 128)
    for n, (px, py, p) in enumerate(zip(seen["x"], seen["y"], seen["p"], strict=True)):
        expected[min(n // 100, 3), p, py, px] += 1
    assert torch.equal(x[:, 5], expected)
    augmented = offline(tmp_path, "dvsgesture", cutupmix_auto=True)
    assert not torch.equal(augmented.train[1, 3][0], task.train[1, 3][0])
    home.rename(tmp_path / "DVS128Gesture")  # with its frames, which are used again
    assert torch.equal(one_epoch(offline(tmp_path, "dvsgesture"), T=4)[0], x)
    assert len(folders_inside(tmp_path / "DVS128Gesture")) == 2


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


# --- digits_dvs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_dvs() -> Task:
    return build_dataset("digits_dvs", T=4)


def test_digits_dvs_is_split_as_digits(digits_dvs):
    digits = build_dataset("digits")
    assert (len(digits_dvs.train), len(digits_dvs.test)) == (len(digits.train), len(digits.test))
    assert torch.equal(digits_dvs.test.labels, digits.test.labels)
    assert torch.equal(digits_dvs.test.indices, digits.test.indices)
    assert not set(digits_dvs.train.indices.tolist()) & set(digits_dvs.test.indices.tolist())
    assert len(digits_dvs.train) + len(digits_dvs.test) == 1797
    x, labels = one_epoch(digits_dvs, T=4, batch_size=100)
    assert x.shape == (4, len(digits.test), 2, 32, 32)
    assert (digits_dvs.in_channels, digits_dvs.input_size, digits_dvs.is_sequence) == (2, 32, True)
    assert (x.flatten(2).sum(2) > 0).all()
    assert torch.equal(labels, digits.test.labels)


def test_digits_dvs_can_be_told_apart(digits_dvs):
    x = torch.stack([digits_dvs.train.load(index) for index in range(1797)]).flatten(1).numpy()
    train, test = digit_split(digits_dvs.train.all_labels)
    labels = digits_dvs.train.all_labels
    neighbours = KNeighborsClassifier(3).fit(x[train], labels[train])
    assert neighbours.score(x[test], labels[test]) > 0.95


def test_contrast_threshold_model_pixel_by_pixel():
    scans = load_digit_images()[0][:2].numpy()
    positions = camera_path()
    for scan, events in zip(scans, simulate(scans), strict=True):
        levels = np.concatenate([log_intensity(scan[None], *position) for position in positions])  # [steps + 1, 32, 32]
        expected = []
        for y, x in np.ndindex(32, 32):
            start, fired_at = levels[0, y, x], 0
            for step in range(len(positions) - 1):
                low, high = levels[step, y, x], levels[step + 1, y, x]
                while abs(high - (start + fired_at * CONTRAST)) > CONTRAST - 1e-7:
                    p = int(high > low)
                    fired_at += 2 * p - 1
                    fraction = (start + fired_at * CONTRAST - low) / (high - low)
                    expected.append(((step + min(max(fraction, 0), 1)) * SACCADE / STEPS, x, y, p))
        found = list(zip(*(events[key].tolist() for key in "txyp"), strict=True))
        assert [event[0] for event in found] == sorted(event[0] for event in found)
        assert len(found) == len(expected) > 1000
        ours, theirs = (sorted((x, y, p, t) for t, x, y, p in events) for events in (found, expected))
        assert [event[:3] for event in ours] == [event[:3] for event in theirs]
        np.testing.assert_allclose([event[3] for event in ours], [event[3] for event in theirs], rtol=0, atol=1.0)


def test_the_camera_sees_the_scan():
    scan = load_digit_images()[0][:1].numpy()
    seen = log_intensity(scan, 0.0, 0.0)[0]
    # sensor pixels 5, 8, …, 26 lie on the centres of the scan's pixels: 3 apart, around 15.5
    np.testing.assert_allclose(np.exp(seen[5:27:3, 5:27:3]) - BACKGROUND, scan[0] / 16, atol=1e-12)
    moved = log_intensity(scan, 2.0, -1.0)[0]
    np.testing.assert_allclose(moved[:-1, 2:], seen[1:, :-2], atol=1e-12)
    assert camera_path()[0].tolist() == camera_path()[-1].tolist()


def test_digits_dvs_is_the_same_in_every_process(digits_dvs):
    script = (
        "import hashlib, torch; from data import build_dataset; split = build_dataset('digits_dvs', T=4).train;"
        "print(hashlib.sha256(torch.stack([split.load(n) for n in range(1797)]).numpy().tobytes()).hexdigest())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    here = torch.stack([digits_dvs.train.load(n) for n in range(1797)]).numpy().tobytes()
    assert there.stdout.strip() == hashlib.sha256(here).hexdigest()
