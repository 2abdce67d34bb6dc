"""``DVSCIFAR10`` through its loader, on small data in the official layout, from folders and from archives."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from data import build_dataset
from data.dvs_cifar10 import list_files, split_by_number
from data.loader import build_loader
from tests.fixtures_dvs import (
    CLASSES,
    draw_events,
    folders_inside,
    offline,
    one_epoch,
    refused,
    write_dvs_cifar10,
    zip_classes,
)

# the package's name of this module is the data set's function
cifar10_module = importlib.import_module("data.dvs_cifar10")


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


@pytest.mark.parametrize("place", ["DVSCIFAR10", "CIFAR10DVS/extract", ".", "events", "DVSCIFAR10/events"])
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
    task, star = offline(tmp_path), offline(tmp_path, cutupmix_auto=True)
    for n in range(10):
        assert not torch.equal(task.train[1, n][0], task.train[2, n][0])
        assert torch.equal(task.train[1, n][0], star.train[1, n][0])  # the option changes nothing
        assert torch.equal(task.test[1, n][0], task.test.load(int(task.test.indices[n])))
    assert not torch.equal(task.train[3, 4][0], offline(tmp_path, seed=1).train[3, 4][0])


def test_worker_processes_change_nothing(tmp_path):
    write_dvs_cifar10(tmp_path, per_class=1)
    epochs = []
    for workers in (0, 2):
        split = offline(tmp_path).train
        loader = build_loader(
            split, batch_size=4, T=4, device=torch.device("cpu"), seed=0, shuffle=True, workers=workers
        )
        epochs.append(torch.cat([x for x, _ in loader.epoch(2)], dim=1))
    assert torch.equal(*epochs)


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
