"""Event-camera data sets of a few made-up recordings, written in the layouts of the official ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
AEDAT2_HEADER = (
    b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"
    b"# Data format is int32 address, int32 timestamp (8 bytes total), repeated for each event\r\n"
)


def aedat2(addresses: Sequence[int] | np.ndarray, times: Sequence[int] | np.ndarray) -> bytes:
    """An AEDAT 2.0 file: header lines, then big-endian uint32 pairs (address, time in µs)."""
    return AEDAT2_HEADER + np.stack([addresses, times], axis=1).astype(">u4").tobytes()


def draw_events(label: int, seed: int, events: int, sensor: int = 128) -> dict[str, np.ndarray]:
    """Events of a blob whose place tells its class: t [µs], x, y, p, each int64 [events]."""
    rng = np.random.default_rng([label, seed])
    centre = sensor * np.array([0.2 + 0.2 * (label % 4), 0.2 + 0.3 * (label // 4)])
    x, y = np.clip(rng.normal(centre, sensor / 16, (events, 2)), 0, sensor - 1).astype(np.int64).T
    return {"t": np.sort(rng.integers(0, 1_000_000, events)), "x": x, "y": y, "p": rng.integers(0, 2, events)}


def write_dvs_cifar10(
    root: Path,
    *,
    per_class: int = 2,
    numbers: Iterable[int] | Mapping[int, Iterable[int]] | None = None,
    events: int = 400,
) -> Path:
    """Write ``<root>/DVSCIFAR10/<class>/cifar10_<class>_<n>.aedat``.

    Args:
        root: the ``data_dir``.
        per_class: files of each class on each side of the split: numbers 0, 1, … and 900, 901, …
        numbers: the files' numbers, in place of ``per_class``; a mapping has those of each label.
        events: events per file.
    """
    if numbers is None:
        numbers = [first + n for first in (0, 900) for n in range(per_class)]
    of_label = numbers if isinstance(numbers, Mapping) else {key: list(numbers) for key in range(len(CLASSES))}
    home = root / "DVSCIFAR10"
    for label, name in enumerate(CLASSES):
        (home / name).mkdir(parents=True, exist_ok=True)
        for number in of_label[label]:
            seen = draw_events(label, number, events)
            address = seen["y"] << 8 | seen["x"] << 1 | seen["p"]
            (home / name / f"cifar10_{name}_{number}.aedat").write_bytes(aedat2(address, seen["t"]))
    return home


def write_dvs_cifar10_pt(root: Path, *, T: int = 4, train: int = 20, test: int = 10, size: int = 48) -> Path:
    """Write ``<root>/DVSCIFAR10-pt/{train,test}/<n>.pt``, pairs (frames float32 [T, 2, size, size], label)."""
    home = root / "DVSCIFAR10-pt"
    for split, count in (("train", train), ("test", test)):
        (home / split).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            frames = torch.zeros(T, 2, size, size)
            seen = draw_events(n % 10, n + 1000 * (split == "test"), 40 * T, size)
            place = [torch.from_numpy(seen[key]) for key in "pyx"]
            frames.index_put_((torch.arange(40 * T) // 40, *place), torch.ones(40 * T), accumulate=True)
            torch.save((frames, n % 10), home / split / f"{n}.pt")
    return home


def write_npz(file: Path, seen: dict[str, np.ndarray]) -> None:
    """A clip as SpikingJelly keeps it."""
    np.savez(file, t=seen["t"], x=seen["x"], y=seen["y"], p=seen["p"])


def write_dvs_gesture_events(
    root: Path,
    *,
    labels: Iterable[int] = range(11),
    train_users: Sequence[int] = (1, 2),
    test_users: Sequence[int] = (24,),
    events: int = 400,
) -> Path:
    """Write ``<root>/dvsgesture/events_np/{train,test}/<label>/user<nn>_led_0.npz``, SpikingJelly's layout."""
    home = root / "dvsgesture"
    for split, users in (("train", train_users), ("test", test_users)):
        for label in labels:
            folder = home / "events_np" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for user in users:
                write_npz(folder / f"user{user:02d}_led_0.npz", draw_events(label, user, events))
    return home
