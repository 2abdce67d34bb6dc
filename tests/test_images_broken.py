"""Image data that is missing, damaged or hostile: one line that names it, and no code of its own is run."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import DataError
from tests.fixtures_images import error_of, load, loader, one_epoch, write_cifar10, write_tiny_imagenet


class RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def full_size_batch() -> bytes:
    return pickle.dumps({"data": np.zeros((10_000, 3072), np.uint8), "labels": [0] * 10_000})


def damaged(**changes) -> bytes:
    return pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], **changes})


BROKEN = {
    "full size, wrong MD5": (full_size_batch, "as many images as the official file, but another MD5"),
    "truncated": (lambda: full_size_batch()[:-1000], "cannot be opened"),
    "empty": (lambda: b"", "cannot be opened"),
    "a web page": (lambda: b"<html></html>", "cannot be opened"),
    "not a dict": (lambda: pickle.dumps([1, 2]), "holds a list, not a dict"),
    "wrong shape": (lambda: damaged(data=np.zeros((2, 3071), np.uint8)), "not uint8 [M, 3072]"),
    "wrong type": (lambda: damaged(data=np.zeros((2, 3072))), "not uint8 [M, 3072]"),
    "no labels": (lambda: damaged(labels=None), "not one label for each"),
    "a label too few": (lambda: damaged(labels=[0]), "not one label for each"),
    "unknown class": (lambda: damaged(labels=[0, 10]), "not a class 0–9"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_cifar_batch(tmp_path, case):
    content, reason = BROKEN[case]
    path = write_cifar10(tmp_path) / "data_batch_3"
    path.write_bytes(content())
    message = error_of(load, "cifar10", tmp_path)
    for part in (str(path), reason, "54ebc095f3ab1f0389bbae665268c751", "cifar-10-python.tar.gz", "https://"):
        assert part in message


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickle_that_would_run_code_does_not(tmp_path, protocol):
    path = write_cifar10(tmp_path) / "test_batch"
    mark = tmp_path / "code ran"
    path.write_bytes(pickle.dumps({"data": RunsCode(mark), "labels": []}, protocol=protocol))
    assert "mkdir" in error_of(load, "cifar10", tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_missing_cifar_file(tmp_path, name):
    path = write_cifar10(tmp_path) / name
    path.unlink()
    message = error_of(load, "cifar10", tmp_path)
    assert str(path) in message
    assert "is missing" in message


def test_no_cifar_and_no_network(tmp_path):
    message = error_of(load, "cifar100", tmp_path)
    archive = tmp_path / "cifar-100-python.tar.gz"
    for part in ("downloads are off", str(archive), "eb9058c3a382ffc7106e4002c42a8d85", "https://"):
        assert part in message


def test_cifar_archive_with_a_wrong_checksum(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half a download")
    message = error_of(load, "cifar10", tmp_path)
    assert "is broken" in message
    assert "c58f30108f718f92721af3b95e74349a" in message


def edit(path: Path, content: str) -> None:
    path.write_text(content)


TINY = {
    "no annotations": ("val/val_annotations.txt", Path.unlink, "is missing"),
    "empty annotations": ("val/val_annotations.txt", lambda path: edit(path, ""), "is empty"),
    "malformed line": (
        "val/val_annotations.txt",
        lambda path: edit(path, path.read_text().replace("val_4.JPEG\t", "val_4.JPEG ")),
        "line 5",
    ),
    "unknown class": (
        "val/val_annotations.txt",
        lambda path: edit(path, path.read_text() + "val_0.JPEG\tn99999999\t0\t0\t1\t1\n"),
        "line 13: 'n99999999' is not one of the 4 classes",
    ),
    "missing val image": ("val/images/val_7.JPEG", Path.unlink, "is missing"),
    "missing class": ("train/n00001007", lambda path: path.rename(path.parents[2] / "moved"), "is missing"),
    "unlisted class": ("train/n00002000", lambda path: path.mkdir(), "wnids.txt does not know"),
    "no train": ("train", lambda path: path.rename(path.parent / "moved"), "is missing"),
}


@pytest.mark.parametrize("case", TINY)
def test_tiny_imagenet_names_what_is_missing(tmp_path, case):
    name, damage, reason = TINY[case]
    path = write_tiny_imagenet(tmp_path) / name
    damage(path)
    message = error_of(load, "tiny_imagenet", tmp_path)
    assert str(path) in message
    assert reason in message


def test_class_without_images(tmp_path):
    folder = write_tiny_imagenet(tmp_path) / "train" / "n00001000" / "images"
    for path in folder.iterdir():
        path.unlink()
    assert str(folder) in error_of(load, "tiny_imagenet", tmp_path)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])  # a failed worker takes 5 s to end
def test_truncated_jpeg_is_named(tmp_path, workers):
    path = write_tiny_imagenet(tmp_path) / "train" / "n00001007" / "images" / "n00001007_3.JPEG"
    path.write_bytes(path.read_bytes()[:500])
    task = load("tiny_imagenet", tmp_path)
    with pytest.raises(DataError, match=r"n00001007_3\.JPEG is not a readable JPEG"):
        one_epoch(loader(task, task.train, shuffle=True, workers=workers))


def test_image_of_another_size_is_named(tmp_path):
    path = write_tiny_imagenet(tmp_path) / "train" / "n00001007" / "images" / "n00001007_3.JPEG"
    Image.new("RGB", (60, 64)).save(path)
    task = load("tiny_imagenet", tmp_path)
    assert "n00001007_3.JPEG is 60×64 pixels" in error_of(task.train.load, 9)


def test_no_tiny_imagenet_and_no_network(tmp_path):
    message = error_of(load, "tiny_imagenet", tmp_path)
    for part in ("downloads are off", str(tmp_path / "tiny-imagenet-200.zip"), "90528d7ca1a48142e341f4ef8d21d0de"):
        assert part in message
