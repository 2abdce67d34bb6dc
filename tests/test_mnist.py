"""Fashion-MNIST and MNIST: small IDX files in the layout, broken ones, and the Debian package where it is installed."""

import gzip
import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data import DataError, build_dataset
from data.home import holds
from data.idx_sources import DIGITS, FASHION
from data.loader import build_loader
from data.made_up_images import write_idx
from tests.fixtures_images import error_of, load

PACKAGE = FASHION.package[1]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        *(("fashion_mnist", folder) for folder in (*FASHION.folders, "", "raw", "sets/FashionMNIST/raw")),
        *(("mnist", folder) for folder in ("MNIST/raw", "MNIST", "mnist", "")),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_finds_the_files(tmp_path, name, folder, compressed):
    write_idx(tmp_path / folder, compressed=compressed)
    task = load(name, tmp_path)
    assert (len(task.train), len(task.test), task.num_classes) == (40, 20, 10)
    assert (task.in_channels, task.input_size, task.is_sequence) == (1, 28, False)
    assert "a subset" in task.convention
    assert task.train.labels.tolist() == [k % 10 for k in range(40)]


def test_images_are_those_of_the_files(tmp_path):
    folder = write_idx(tmp_path / "FashionMNIST")
    content = gzip.decompress((folder / f"{IMAGES}.gz").read_bytes())
    pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=16).view(40, 1, 28, 28)
    task = load("fashion_mnist", tmp_path)
    assert torch.equal(task.train.images, pixels)
    expected = (pixels.float() / 255 - 0.2860) / 0.3530
    batches = build_loader(task.train, batch_size=40, T=3, device=torch.device("cpu"), seed=1, shuffle=False)
    x_seq, target = next(iter(batches.epoch(0)))
    torch.testing.assert_close(x_seq, expected.expand(3, -1, -1, -1, -1))
    torch.testing.assert_close(task.train[0, 5][0], expected[5])  # the way through the workers
    assert target.tolist() == [k % 10 for k in range(40)]
    assert x_seq.stride(0) == 0  # T views of one image


def test_bordered_images_are_the_same_within_black(tmp_path):
    write_idx(tmp_path / "FashionMNIST")
    plain, bordered = load("fashion_mnist", tmp_path), load("fashion_mnist_32", tmp_path)
    assert bordered.input_size == 32
    assert torch.equal(bordered.test.images[:, :, 2:-2, 2:-2], plain.test.images)
    assert bordered.test.images.sum() == plain.test.images.sum()


def repack(path, change):
    """Change an IDX file's uncompressed bytes."""
    path = path.with_name(path.name + ".gz")
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


BROKEN = {
    "no image file's magic number": (IMAGES, lambda content: b"\0\0\x08\x01" + content[4:], "magic number"),
    "no label file's magic number": (LABELS, lambda content: b"\0\0\x08\x03" + content[4:], "magic number"),
    "a header cut short": (IMAGES, lambda content: content[:10], "magic number"),
    "empty": (LABELS, lambda content: b"", "magic number"),
    "truncated": (IMAGES, lambda content: content[:-1], "announces 40 entries"),
    "too long": (LABELS, lambda content: content + b"\1", "announces 40 entries"),
    "other sizes": (IMAGES, lambda content: content[:8] + struct.pack(">2i", 14, 56) + content[16:], "14×56"),
    "a negative count": (LABELS, lambda content: content[:4] + struct.pack(">i", -40) + content[8:], "announces -40"),
    "a huge count": (
        IMAGES,
        lambda content: content[:4] + struct.pack(">i", 2**31 - 1) + content[8:],
        "announces 2147",
    ),
    "no entries": (LABELS, lambda content: content[:4] + struct.pack(">i", 0), "announces 0"),
    "one label too few": (LABELS, lambda c: c[:4] + struct.pack(">i", 39) + c[8:-1], "39 labels for 40 images"),
    "a label of no class": (LABELS, lambda content: content[:-1] + b"\x0a", "not a class 0–9"),
    "as many as the official, and others": (
        LABELS,
        lambda content: struct.pack(">2i", 0x801, 60_000) + bytes(60_000),
        "60000 labels for 40 images",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_named_with_its_remedy(tmp_path, case):
    file, change, says = BROKEN[case]
    folder = write_idx(tmp_path / "FashionMNIST" / "raw")
    repack(folder / file, change)
    message = error_of(load, "fashion_mnist", tmp_path)
    assert says in message
    assert f"{folder / file}.gz is broken" in message
    assert "dataset-fashion-mnist" in message


def test_as_many_images_as_the_official_and_another_md5(tmp_path):
    folder = write_idx(tmp_path / "MNIST", compressed=False)
    (folder / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 10_000, 28, 28) + bytes(7_840_000))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 10_000) + bytes(10_000))
    message = error_of(load, "mnist", tmp_path)
    assert "another MD5" in message
    assert "t10k-images-idx3-ubyte" in message


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: b"no gzip" + packed, lambda packed: b""])
def test_damaged_gzip(tmp_path, damage):
    folder = write_idx(tmp_path / "FashionMNIST")
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert str(path) in error_of(load, "fashion_mnist", tmp_path)


def test_no_more_is_unpacked_than_the_official_file_holds(tmp_path):
    folder = write_idx(tmp_path / "FashionMNIST")
    with gzip.open(folder / f"{LABELS}.gz", "wb") as file:
        file.write(struct.pack(">2i", 0x801, 40))
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert "holds 60001 bytes" in error_of(load, "fashion_mnist", tmp_path)


def test_missing_file_says_where_to_get_it_and_where_it_belongs(tmp_path, monkeypatch):
    folder = write_idx(tmp_path / "FashionMNIST" / "raw")
    (folder / f"{LABELS}.gz").unlink()
    message = error_of(load, "fashion_mnist", tmp_path)
    for part in (f"{LABELS}.gz is missing", "25c81989df183df01b3e8a0aad5dffbe", "http", "dataset-fashion-mnist"):
        assert part in message
    message = error_of(load, "mnist", tmp_path / "nothing")
    assert str(tmp_path / "nothing" / "MNIST" / "raw") in message


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_package_is_the_official_data_set(tmp_path):
    task = build_dataset("fashion_mnist", tmp_path, download=False)
    assert (len(task.train), len(task.test)) == (60_000, 10_000)
    assert "the official files by their MD5" in task.convention
    assert task.train.labels.bincount().tolist() == [6000] * 10
    pixels = task.train.images.double() / 255
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (FASHION.mean, FASHION.std)
    assert task.classes[9] == "Ankle boot"


@pytest.mark.parametrize(("name", "folder", "other"), [("mnist", FASHION, DIGITS), ("fashion_mnist", DIGITS, FASHION)])
@pytest.mark.parametrize("within", range(2))
def test_a_folder_named_after_the_other_set_is_not_read(tmp_path, monkeypatch, name, folder, other, within):
    """Their files have the same names."""
    monkeypatch.setattr("data.idx_sources.holds", lambda *names: lambda path: path != PACKAGE and holds(*names)(path))
    for place in folder.folders:
        data_dir = write_idx(tmp_path / place)
        if within:
            monkeypatch.chdir(data_dir)
            data_dir = Path()
        else:
            data_dir = tmp_path / Path(place).parts[0]
        message = error_of(load, name, data_dir)
        assert f"{data_dir / other.folders[0] / IMAGES}.gz is missing" in message
        shutil.rmtree(tmp_path / Path(place).parts[0])


@pytest.mark.parametrize("compressed", [True, False])
def test_official_files_of_the_other_set_are_recognised(tmp_path, monkeypatch, compressed):
    folder = write_idx(tmp_path, compressed=compressed)
    path = folder / (f"{IMAGES}.gz" if compressed else IMAGES)
    content = gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()
    other = replace(FASHION, md5=(hashlib.md5(content).hexdigest(), *FASHION.md5[1:]))
    monkeypatch.setattr("data.mnist.SOURCES", (other, DIGITS))
    message = error_of(load, "mnist", tmp_path)
    assert f"{path} is a file of Fashion-MNIST by its MD5, not of MNIST" in message
    assert "move it away" not in message


@pytest.mark.skipif(not PACKAGE.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_not_mnist(tmp_path):
    for path in PACKAGE.glob("*ubyte*"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(DataError, match="is a file of Fashion-MNIST by its MD5, not of MNIST"):
        build_dataset("mnist", tmp_path, download=False)
