"""Image data sets of a few made-up images, written in the official layouts; a class's images share a colour."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from .made_up_events import CLASSES


def class_images(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Noise around a colour of the class's own, uint8 [M, 3, size, size]."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(0).integers(40, 216, (200, 3, 1, 1))
    noise = random.integers(-40, 40, (len(labels), 3, size, size))
    return (colours[labels] + noise).clip(0, 255).astype(np.uint8)


def write_batch(path: Path, count: int, classes: int, key: str, seed: int) -> None:
    """One CIFAR pickle as the official ones are: images as rows of 3,072 bytes."""
    labels = np.arange(count) % classes
    images = class_images(labels, 32, seed).reshape(count, 3072)
    entries: dict[str, object] = {
        "batch_label": path.name,
        key: labels.tolist(),
        "data": images,
        "filenames": ["x.png"] * count,
    }
    path.write_bytes(pickle.dumps(entries, protocol=4))


def write_cifar10(root: Path, per_batch: int = 20, test: int = 20) -> Path:
    """``cifar-10-batches-py`` in ``root`` with five batches of ``per_batch`` images; returns the folder."""
    folder = Path(root) / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        write_batch(folder / f"data_batch_{number}", per_batch, 10, "labels", number)
    write_batch(folder / "test_batch", test, 10, "labels", 6)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [*CLASSES], "num_vis": 3072}))
    return folder


def write_cifar100(root: Path, train: int = 200, test: int = 100) -> Path:
    """``cifar-100-python`` in ``root``; returns the folder."""
    folder = Path(root) / "cifar-100-python"
    folder.mkdir(parents=True)
    write_batch(folder / "train", train, 100, "fine_labels", 1)
    write_batch(folder / "test", test, 100, "fine_labels", 2)
    names = [f"class_{k}" for k in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": []}))
    return folder


def write_tiny_imagenet(root: Path, classes: int = 4, per_class: int = 6, val_per_class: int = 3) -> Path:
    """``tiny-imagenet-200`` in ``root``: the first training image of each class is a greyscale JPEG."""
    folder = Path(root) / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    wnids = [f"n{1000 + 7 * k:08d}" for k in range(classes)]
    (folder / "wnids.txt").write_text(
        "".join(f"{wnid}\n" for wnid in reversed(wnids)), encoding="utf-8"
    )  # there they are not sorted
    (folder / "words.txt").write_text(
        "".join(f"{wnid}\tthing {k}, object\n" for k, wnid in enumerate(wnids)), encoding="utf-8"
    )
    annotations: list[str] = []
    for k, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number, pixels in enumerate(class_images(np.full(per_class, k), 64, seed=k)):
            image = Image.fromarray(pixels.transpose(1, 2, 0))  # [3, 64, 64] → [64, 64, 3]
            (image if number else image.convert("L")).save(images / f"{wnid}_{number}.JPEG")
        for pixels in class_images(np.full(val_per_class, k), 64, seed=1000 + k):
            name = f"val_{len(annotations)}.JPEG"
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / "val" / "images" / name)
            annotations.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations), encoding="utf-8")
    return folder


def write_idx(folder: Path, train: int = 40, test: int = 20, compressed: bool = True) -> Path:
    """The four IDX files of MNIST's layout in ``folder``, with so many images; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate((("train", train), ("t10k", test))):
        labels = np.arange(count) % 10
        images = class_images(labels, 28, seed)[:, 0]  # [M, 3, 28, 28] → [M, 28, 28]
        files = {
            "images-idx3": struct.pack(">4i", 0x803, count, 28, 28) + images.tobytes(),
            "labels-idx1": struct.pack(">2i", 0x801, count) + labels.astype(np.uint8).tobytes(),
        }
        for kind, content in files.items():
            name = f"{part}-{kind}-ubyte"
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder
