"""The image data sets through the real loaders, on small data in the official layouts."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import build_dataset, describe
from data.digits import MEAN, STD, digit_split, load_digit_images, upsample
from data.resident import ResidentLoader
from tests.fixtures_images import load, loader, one_epoch, write_cifar10, write_cifar100, write_tiny_imagenet

NORM = {  # the published normalisation constants
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "cifar100": ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
    "tiny_imagenet": ([0.4802, 0.4481, 0.3975], [0.2302, 0.2265, 0.2262]),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data_dir")
    write_cifar10(root)
    write_cifar100(root)
    write_tiny_imagenet(root)
    return root


@pytest.mark.parametrize(
    ("name", "classes", "size", "train", "test"),
    [
        ("cifar10", 10, 32, 100, 20),
        ("cifar100", 100, 32, 200, 100),
        ("tiny_imagenet", 4, 64, 24, 12),
        ("digits", 10, 32, 1438, 359),
    ],
)
@pytest.mark.parametrize("star", [False, True])
def test_task_and_batches(data_dir, name, classes, size, train, test, star):
    task = load(name, data_dir, cutupmix_auto=star)
    assert (task.num_classes, task.in_channels, task.input_size, task.is_sequence) == (classes, 3, size, False)
    assert (len(task.train), len(task.test)) == (train, test)
    assert len(set(task.classes)) == classes
    assert task.drop_last == (star and name.startswith("cifar"))
    assert (task.mix is not None) == (star and name.startswith("cifar"))
    x_seq, target = next(loader(task, task.train, shuffle=True, drop_last=task.drop_last).epoch(1))
    assert x_seq.shape == (2, 8, 3, size, size)
    assert x_seq.stride(0) == 0
    assert x_seq.dtype == torch.float32
    assert target.shape == ((8, classes) if task.mix else (8,))
    if name != "digits":
        assert "a subset: sample counts differ from the official" in task.convention


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("resident", [True, False])
def test_cifar_test_images_are_the_files_normalised(data_dir, name, resident):
    task = load(name, data_dir)
    x, target = one_epoch(loader(task, task.test, shuffle=False, resident=resident), epoch=0)
    path = {"cifar10": "cifar-10-batches-py/test_batch", "cifar100": "cifar-100-python/test"}[name]
    entries = pickle.loads((data_dir / path).read_bytes())
    rows = entries["data"].reshape(-1, 3, 32, 32) / 255
    mean, std = (np.array(values)[:, None, None] for values in NORM[name])
    assert np.allclose(x, (rows - mean) / std, atol=1e-5)
    assert target.tolist() == entries["labels" if name == "cifar10" else "fine_labels"]


def test_cifar_training_reads_all_batches_in_order(data_dir):
    task = load("cifar10", data_dir)
    for number in range(1, 6):
        entries = pickle.loads((data_dir / f"cifar-10-batches-py/data_batch_{number}").read_bytes())
        part = slice(20 * (number - 1), 20 * number)
        assert np.array_equal(task.train.images[part].reshape(20, 3072), entries["data"])
        assert task.train.labels[part].tolist() == entries["labels"]
    assert task.classes[3] == "cat"


def test_cifar_pickles_as_python_2_and_old_numpy_wrote_them(tmp_path):
    path = write_cifar10(tmp_path) / "test_batch"
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    pixels = rows.tobytes()
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + (b"(K\x01K\x02M\x00\x0c\x86" + dtype)  # shape (2, 3072)
        + (b"\x89T" + len(pixels).to_bytes(4, "little") + pixels + b"tb")  # an 8-bit str, not bytes
    )
    path.write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x03K\x07eu.")
    task = load("cifar10", tmp_path)
    assert np.array_equal(task.test.images.reshape(2, 3072), rows)
    assert task.test.labels.tolist() == [3, 7]


def test_tiny_imagenet_labels_follow_the_sorted_wnids(data_dir):
    task = load("tiny_imagenet", data_dir)
    assert list(task.classes) == sorted(task.classes)
    x, target = one_epoch(loader(task, task.test, shuffle=False), epoch=0)
    lines = (data_dir / "tiny-imagenet-200/val/val_annotations.txt").read_text().splitlines()
    mean, std = (np.array(values)[:, None, None] for values in NORM["tiny_imagenet"])
    for line, image, label in zip(lines, x, target, strict=True):
        name, wnid = line.split("\t")[:2]
        assert task.classes[label] == wnid
        pixels = np.asarray(Image.open(data_dir / "tiny-imagenet-200/val/images" / name)).transpose(2, 0, 1)
        assert np.abs(image.numpy() * std + mean - pixels / 255).max() < 3 / 255  # two decoders
    grey = task.train.load(0)
    assert grey.shape == (3, 64, 64)
    assert torch.equal(grey[0], grey[1])


def test_tiny_imagenet_folder_itself_is_a_data_dir(data_dir):
    assert len(load("tiny_imagenet", data_dir / "tiny-imagenet-200").train) == 24


def test_digits_split_is_fixed_stratified_and_disjoint():
    scans, labels = load_digit_images()
    assert scans.shape == (1797, 8, 8)
    assert scans.max() == 16
    train, test = digit_split(labels)
    assert not set(train.tolist()) & set(test.tolist())
    assert len(train) + len(test) == 1797
    share = labels[test].bincount() / labels.bincount()
    assert ((share - 0.2).abs() < 0.005).all()
    a, b = build_dataset("digits", seed=1), build_dataset("digits", seed=2)
    assert torch.equal(a.test.indices, b.test.indices)
    pixels = upsample(scans)[train].float() / 255
    assert abs(pixels.mean() - MEAN) < 1e-4
    assert abs(pixels.std() - STD) < 1e-4


@pytest.mark.parametrize("name", ["digits", "digits_dvs", "digits_seq"])
def test_a_smoke_run_tests_few_digits_and_trains_on_the_same(name, monkeypatch):
    whole = build_dataset(name, T=4)
    monkeypatch.setattr("data.digits._tested", None)
    describe(name).test_few()
    few = build_dataset(name, T=4)
    assert torch.equal(few.test.indices, whole.test.indices[:20])
    assert len(set(few.test.labels.tolist())) == 10
    assert torch.equal(few.train.indices, whole.train.indices)


@pytest.mark.parametrize("resident", [True, False])
def test_an_image_does_not_depend_on_batch_size_ranks_or_resume(data_dir, resident):
    task = load("cifar10", data_dir)
    options = {"shuffle": True, "resident": resident}
    x, target = one_epoch(loader(task, task.train, batch_size=20, **options))
    again, _ = one_epoch(loader(task, task.train, batch_size=10, **options))
    assert torch.equal(x, again)
    rest, rest_target = one_epoch(loader(task, task.train, batch_size=20, **options), start=2)
    assert torch.equal(rest, x[40:])
    assert torch.equal(rest_target, target[40:])
    ranks = [loader(task, task.train, batch_size=20, rank=rank, world=2, **options) for rank in (0, 1)]
    parts = [batch[0] for pair in zip(*(r.epoch(1) for r in ranks), strict=True) for batch, _ in pair]
    assert torch.equal(torch.cat(parts), x)
    other, _ = one_epoch(loader(task, task.train, batch_size=20, **options), epoch=2)
    assert not torch.equal(other, x)


@pytest.mark.parametrize("resident", [True, False])
def test_each_epoch_draws_anew(data_dir, resident):
    task = load("cifar10", data_dir)
    first, second = (one_epoch(loader(task, task.train, shuffle=False, resident=resident), epoch) for epoch in (1, 2))
    assert ((first[0] != second[0]).flatten(1).any(1)).float().mean() > 0.9


def test_mix_on_the_device_is_keyed_by_the_batch(data_dir):
    task = replace(load("cifar10", data_dir), mix=load("cifar10", data_dir, cutupmix_auto=True).mix)
    x, target = one_epoch(loader(task, task.train, batch_size=20, shuffle=True, resident=True))
    assert target.shape == (100, 10)
    rest, rest_target = one_epoch(loader(task, task.train, batch_size=20, shuffle=True, resident=True), start=2)
    assert torch.equal(rest, x[40:])
    assert torch.equal(rest_target, target[40:])


@pytest.mark.parametrize(("name", "star"), [("cifar10", False), ("cifar100", True), ("tiny_imagenet", True)])
def test_workers_change_nothing(data_dir, name, star):
    task = load(name, data_dir, cutupmix_auto=star)
    passes = [one_epoch(loader(task, task.train, shuffle=True, resident=False, workers=j), start=1) for j in (0, 2)]
    assert torch.equal(passes[0][0], passes[1][0])
    assert torch.equal(passes[0][1], passes[1][1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits"])
def test_resident_and_worker_loaders_agree_where_nothing_is_drawn(data_dir, name):
    task = load(name, data_dir).hold_out(0.5, seed=3)
    for split in (task.test, task.val):
        here, there = (one_epoch(loader(task, split, shuffle=False, resident=where), 0) for where in (True, False))
        assert torch.equal(here[0], there[0])
        assert torch.equal(here[1], there[1])


def test_build_loader_puts_images_where_the_compute_is(data_dir):
    plain, star = load("cifar10", data_dir), load("cifar10", data_dir, cutupmix_auto=True)
    assert isinstance(loader(plain, plain.train, shuffle=True), ResidentLoader)
    assert not isinstance(loader(star, star.train, shuffle=True), ResidentLoader)
    assert isinstance(loader(star, star.test, shuffle=False), ResidentLoader)
    with pytest.raises(ValueError, match="sample by sample"):
        loader(star, star.train, shuffle=True, resident=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_the_gpu_augments_as_the_cpu_does(data_dir, name):
    task = load(name, data_dir)
    x, target = one_epoch(loader(task, task.train, shuffle=True, device=torch.device("cuda")))
    expected, labels = one_epoch(loader(task, task.train, shuffle=True))
    assert x.device.type == "cuda"
    assert torch.allclose(x.cpu(), expected, atol=1e-6)
    assert torch.equal(target.cpu(), labels)
