"""Small event-camera data sets, written in the layouts of the official ones, and what their tests share."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from data import DataError, Task, build_dataset
from data.loader import build_loader
from data.made_up_events import (  # noqa: F401 - the writers, for the tests
    AEDAT2_HEADER,
    CLASSES,
    aedat2,
    draw_events,
    write_dvs_cifar10,
    write_dvs_cifar10_pt,
    write_dvs_gesture_events,
    write_npz,
)

AEDAT3_HEADER = (
    b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 0: DVS128\r\n#Start-Time: 2016-01-01 00:00:00\r\n#!END-HEADER\r\n"
)


def zip_classes(home: Path) -> None:
    """Replace the class folders of ``home`` by ``download/<class>.zip``, as they are published."""
    (home / "download").mkdir()
    for name in CLASSES:
        with zipfile.ZipFile(home / "download" / f"{name}.zip", "w") as archive:
            for file in sorted((home / name).iterdir()):
                archive.write(file, f"{name}/{file.name}")
                file.unlink()
        (home / name).rmdir()


def aedat3(seen: dict[str, np.ndarray], packet: int = 100) -> bytes:
    """An AEDAT 3.1 file: polarity events in packets, with a packet of another type (a special event) between them."""
    words = np.stack([seen["x"] << 17 | seen["y"] << 2 | seen["p"] << 1 | 1, seen["t"]], axis=1).astype("<u4")

    def packed(kind: int, rows: np.ndarray) -> bytes:
        header = np.array([8, 4, 0, len(rows), len(rows), len(rows)], "<u4")
        return np.array([kind, 0], "<u2").tobytes() + header.tobytes() + rows.tobytes()

    packets = [packed(1, words[first : first + packet]) for first in range(0, len(words), packet)]
    return AEDAT3_HEADER + packed(0, words[:1]).join(packets)


def write_dvs_gesture_recordings(
    root: Path, *, train_users: Sequence[int] = (1,), test_users: Sequence[int] = (24,), events: int = 100
) -> Path:
    """Write ``<root>/dvsgesture/extract/DvsGesture/``: one AEDAT 3.1 recording with its labels per user, trial lists.

    A recording shows the 11 gestures one after the other, a second each, with a second without label after each;
    every second's first event is at its very start.
    """
    home = root / "dvsgesture" / "extract" / "DvsGesture"
    home.mkdir(parents=True)
    for split, users in (("train", train_users), ("test", test_users)):
        names = [f"user{user:02d}_led" for user in users]
        (home / f"trials_to_{split}.txt").write_text("".join(f"{name}.aedat\n" for name in names) + "\n")
        for name, user in zip(names, users, strict=True):
            parts = [draw_events(stretch // 2, 1000 * user + stretch, events) for stretch in range(22)]
            for stretch, part in enumerate(parts):
                part["t"][0] = 0
                part["t"] = part["t"] + stretch * 1_000_000
            seen = {key: np.concatenate([part[key] for part in parts]) for key in "txyp"}
            (home / f"{name}.aedat").write_bytes(aedat3(seen))
            rows = [
                f"{gesture},{2_000_000 * (gesture - 1)},{2_000_000 * gesture - 1_000_000}" for gesture in range(1, 12)
            ]
            (home / f"{name}_labels.csv").write_text("\n".join(["class,startTime_usec,endTime_usec", *rows]) + "\n")
    return root / "dvsgesture"


def pack_recordings(home: Path) -> Path:
    """Replace ``extract/DvsGesture/`` by ``download/DvsGesture.tar.gz``, as it is published."""
    (home / "download").mkdir()
    archive = home / "download" / "DvsGesture.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(home / "extract" / "DvsGesture", "DvsGesture")
    for file in (home / "extract" / "DvsGesture").iterdir():
        file.unlink()
    (home / "extract" / "DvsGesture").rmdir()
    (home / "extract").rmdir()
    return archive


def offline(root: Path, name: str = "DVSCIFAR10", T: int = 4, **options) -> Task:
    """The data set without the network."""
    return build_dataset(name, root, T=T, download=False, **options)


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


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
