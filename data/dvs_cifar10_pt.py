"""CIFAR10-DVS as tensors that were integrated beforehand: ``DVSCIFAR10-pt/{train,test}/<n>.pt``."""

from __future__ import annotations

import hashlib
import json
import pickle
from functools import partial
from math import isfinite
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import torch
from torch import Tensor
from tqdm import tqdm

from .augment import dvs_cifar10_pt_train
from .description import described
from .dvs_cifar10 import CLASSES, OFFICIAL_COUNTS, SIZE
from .frames import count_in_words, length_and_time, resize_nearest
from .home import files_in, find_home
from .made_up_events import write_dvs_cifar10_pt
from .scratch import build_aside
from .task import DataError, DataOptions, Split, Task


class Entry(NamedTuple):
    """What ``labels.json`` keeps of a file."""

    length: int  # bytes
    changed: int  # ns since the epoch
    T: int
    label: int
    digest: str  # of the frames


@described(
    "DVS-CIFAR10, frames of .pt files",
    write=lambda root, T: write_dvs_cifar10_pt(root, T=T, train=4, test=2),
    two_batches=("-b", "2"),
)
def dvs_cifar10_pt(options: DataOptions) -> Task:
    """``DVSCIFAR10-pt``: each file a pair (frames [T, 2, H, W], label); frames are resized to 48×48 where they differ.

    Training frames are augmented with and without ``cutupmix_auto``, as published; test frames are not. With T = 1,
    which is what an ANN has, a file's frames are added up to one of all events.

    Raises:
        DataError: if files are missing or broken, hold another T, or the same frames are in both splits.
    """
    home = find_home(options.data_dir, ["DVSCIFAR10-pt"], lambda folder: bool(files_in(folder / "train", "*.pt")))
    files: list[Path] = []
    index: dict[str, dict[str, Entry]] = {}
    for split in ("train", "test"):
        # 2.pt before 10.pt
        found = sorted(files_in(home / split, "*.pt"), key=lambda file: (len(file.name), file.name))
        if not found:
            raise DataError(
                f"{home / split} holds no .pt files: put pairs (frames [T, 2, H, W], label) there, "
                "or make them of DVSCIFAR10 by python -m data.export_frames"
            )
        index[split] = read_index(home / split, found)
        for file, entry in zip(found, index[split].values(), strict=True):
            if options.T not in (1, entry.T):
                raise DataError(f"{file} holds T = {entry.T} frames; run with -T {entry.T}, not -T {options.T}")
        files += found
    check_disjoint(home, index["train"], index["test"])
    labels = [entry.label for entries in index.values() for entry in entries.values()]
    train, test = torch.arange(len(files)).split([len(index["train"]), len(index["test"])])
    load = partial(load_frames, files, T=options.T)
    return Task(
        name="DVSCIFAR10-pt",
        classes=CLASSES,
        in_channels=2,
        input_size=SIZE,
        is_sequence=True,
        train=Split(load, labels, dvs_cifar10_pt_train(), seed=options.seed, indices=train),
        test=Split(load, labels, torch.nn.Identity(), seed=options.seed, indices=test),
        convention=f"split as in the folders; {count_in_words(len(train), len(test), OFFICIAL_COUNTS)}; "
        "training frames are augmented, -cutupmix_auto or not",
    )


def read_index(folder: Path, files: list[Path]) -> dict[str, Entry]:
    """T, label and digest of every file, kept in ``labels.json`` so that only the first run opens them all."""
    kept = folder / "labels.json"
    stats = {file.name: length_and_time(file) for file in files}
    try:
        index = {name: Entry(*entry) for name, entry in json.loads(kept.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):  # not there yet, or damaged: made again
        index = {}
    if {name: (entry.length, entry.changed) for name, entry in index.items()} == stats and list(index) == list(stats):
        return index
    index = {}
    for file in tqdm(files, desc=f"labels of {folder.name}", unit="file", disable=None):
        frames, label = read_pair(file)
        digest = hashlib.blake2b(frames.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        index[file.name] = Entry(*stats[file.name], len(frames), label, digest)
    scratch = kept.with_name(f".{uuid4().hex}.json")
    try:
        scratch.write_text(json.dumps(index), encoding="utf-8")
        scratch.replace(kept)
    except OSError:  # a folder that is only readable: the next run opens the files again
        scratch.unlink(missing_ok=True)
    return index


def check_disjoint(home: Path, train: dict[str, Entry], test: dict[str, Entry]) -> None:
    """Raise :class:`DataError` if the same frames are in both splits."""
    of_train = {entry.digest: name for name, entry in train.items()}
    for name, entry in test.items():
        if entry.digest in of_train:
            raise DataError(f"{home}: train/{of_train[entry.digest]} and test/{name} are the same sample; remove one")


def read_pair(file: Path) -> tuple[Tensor, int]:
    """One file's frames, float32 [T, 2, H, W], and label; nothing but tensors and numbers is unpickled."""
    try:
        frames, label = torch.load(file, map_location="cpu", weights_only=True)
        frames, label = torch.as_tensor(frames), int(label)
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(f"{file} is broken or not a pair (frames, label) of plain tensors; make it again") from error
    if frames.is_complex():
        raise DataError(f"{file} holds complex frames; real counts are expected")
    if frames.dim() != 4 or frames.shape[1] != 2 or frames.shape[2] != frames.shape[3] or label not in range(10):
        shape = list(frames.shape)
        raise DataError(f"{file} holds frames {shape} of class {label}; [T, 2, H, H] of class 0–9 are expected")
    if frames.numel() > frames.untyped_storage().nbytes():  # a view that repeats a few numbers without end
        raise DataError(f"{file} holds fewer numbers than frames {list(frames.shape)} need; make it again")
    frames = frames.to(torch.float32)
    if not isfinite(frames.sum()):
        raise DataError(f"{file} holds numbers that are not finite; make it again")
    return frames, label


def load_frames(files: list[Path], index: int, T: int | None = None) -> Tensor:
    """Frames of one file, float32 [T, 2, 48, 48]; with T = 1 the sum of all it has."""
    frames, _ = read_pair(files[index])
    if T == 1:
        frames = frames.sum(0, keepdim=True)  # [T, 2, H, W] → [1, 2, H, W]
    return frames if frames.shape[-1] == SIZE else resize_nearest(frames, SIZE)


def export_frames(task: Task, folder: Path) -> None:
    """Write a task's frames, without augmentation, as ``{train,test}/<n>.pt`` in a new ``folder``.

    Raises:
        DataError: if the folder is there already, or cannot be written.
    """
    if folder.exists():
        raise DataError(f"{folder} is there already; remove it to write it again")
    with build_aside(folder) as building:
        for name, split in (("train", task.train), ("test", task.test)):
            (building / name).mkdir(parents=True)
            for n, index in enumerate(tqdm(split.indices.tolist(), desc=f"{name} frames", disable=None)):
                label = split.all_labels[index].reshape(1)  # [1], as the published code reads it
                torch.save((split.load(index), label.clone()), building / name / f"{n}.pt")
