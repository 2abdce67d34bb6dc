"""Each data set with a file torn, missing, of another kind or full of absurd numbers: one line, and nothing written."""

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data import DataError
from data.home import files_in
from data.made_up_events import aedat2, write_dvs_cifar10, write_dvs_cifar10_pt, write_dvs_gesture_events
from data.made_up_images import write_cifar10, write_cifar100, write_tiny_imagenet
from tests.helpers import assert_refused, run_training
from tests.test_hostile import QUICK, saved
from tests.test_hostile_events import with_entry

WRITERS = {
    "cifar10": lambda home: write_cifar10(home, per_batch=4, test=4),
    "cifar100": lambda home: write_cifar100(home, train=10, test=4),
    "tiny_imagenet": lambda home: write_tiny_imagenet(home, classes=2),
    "DVSCIFAR10": lambda home: write_dvs_cifar10(home, per_class=1, events=20),
    "DVSCIFAR10-pt": lambda home: write_dvs_cifar10_pt(home, T=2, train=3, test=2),
    "dvsgesture": lambda home: write_dvs_gesture_events(home, events=20),
}
IMAGES = "cifar-10-batches-py/data_batch_2"
EVENTS = "DVSCIFAR10/cat/cifar10_cat_900.aedat"
FRAMES = "DVSCIFAR10-pt/train/1.pt"
CLIP = "dvsgesture/events_np/train/3/user01_led_0.npz"
FILES = {  # a file of each, under its folder in -data_dir
    "cifar10": (IMAGES, "cifar-10-batches-py/batches.meta"),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/meta"),
    "tiny_imagenet": ("tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/val/val_annotations.txt"),
    "DVSCIFAR10": (EVENTS,),
    "DVSCIFAR10-pt": (FRAMES,),
    "dvsgesture": (CLIP,),
}
ARCHIVES = {
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python.tar.gz",
    "tiny_imagenet": "tiny-imagenet-200.zip",
    "DVSCIFAR10": "DVSCIFAR10/download/airplane.zip",
    "dvsgesture": "dvsgesture/download/DvsGesture.tar.gz",
}
TEARS = {
    "no bytes": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2 - 1],
    "a picture": lambda content: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "code": lambda content: b"\x80\x02cos\nsystem\nX\x0a\0\0\0touch ran.\x85R.",
}
TORN_DATA = [(name, file, tear) for name, files in FILES.items() for file in files for tear in TEARS]
TORN_DATA.remove(("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "cut"))  # a shorter list, as it seems
ABSURD = {
    "AEDAT addresses": ("DVSCIFAR10", EVENTS, lambda: aedat2([2**31] * 20, range(20))),
    "clip of 2^60 events": ("dvsgesture", CLIP, lambda: huge_clip()),
    "clip beyond the sensor": ("dvsgesture", CLIP, lambda: clip(x=np.full(20, 5000))),
    "clip of objects": ("dvsgesture", CLIP, lambda: clip(t=np.array([{}] * 20, dtype=object))),
    "frames of 2^42": ("DVSCIFAR10-pt", FRAMES,
                       lambda: saved((torch.zeros(()).expand(2, 2, 2**20, 2**20), 1))),
    "frames that are no squares": ("DVSCIFAR10-pt", FRAMES,
                                   lambda: saved((torch.zeros(2, 2, 48, 9), 1))),
    "frames of class 10": ("DVSCIFAR10-pt", FRAMES, lambda: saved((torch.zeros(2, 2, 48, 48), 10))),
    "no pair": ("DVSCIFAR10-pt", FRAMES, lambda: saved({"frames": torch.zeros(2, 2, 48, 48)})),
    "rows of 3071": ("cifar10", IMAGES, lambda: batch(np.zeros((4, 3071), np.uint8))),
    "float rows": ("cifar10", IMAGES, lambda: batch(np.zeros((4, 3072)))),
    "label 10": ("cifar10", IMAGES, lambda: batch(labels=[10] * 4)),
    "label 10^30": ("cifar10", IMAGES, lambda: batch(labels=[10**30] * 4)),
    "five labels": ("cifar10", IMAGES, lambda: batch(labels=[0] * 5)),
}  # fmt: skip


def clip(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **({key: np.zeros(20, np.int64) for key in "txyp"} | arrays))
    return out.getvalue()


def huge_clip() -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**60,)})
    return with_entry(clip(), "t.npy", header.getvalue() + bytes(24))


def batch(data: np.ndarray | None = None, labels: list[int] | None = None) -> bytes:
    rows = np.zeros((4, 3072), np.uint8) if data is None else data
    return pickle.dumps({"data": rows, "labels": [0] * 4 if labels is None else labels}, protocol=2)


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """A small copy of each data set, in its own -data_dir."""
    home = tmp_path_factory.mktemp("data_sets")
    for name, write in WRITERS.items():
        write(home / name)
    return home


@pytest.fixture
def refuse(data_sets, tmp_path):
    """Run the script on a data set with one file replaced, or gone; it must be refused, and nothing written."""

    def run(name: str, file: str, content: bytes | None, *says: str) -> None:
        target = data_sets / name / file
        before = target.read_bytes() if target.exists() else None
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if content is not None:
            target.write_bytes(content)
        there = sorted(data_sets.rglob("*"))
        try:
            result = run_training(*QUICK, "-dataset", name, "-data_dir", data_sets / name, cwd=tmp_path)
            assert_refused(result, *says)
            assert result.stdout == ""
            assert os.listdir(tmp_path) == []
            assert sorted(data_sets.rglob("*")) == there
        finally:
            target.unlink(missing_ok=True)
            if before is not None:
                target.write_bytes(before)

    return run


@pytest.mark.parametrize(("name", "file", "tear"), TORN_DATA)
def test_torn_data_file(refuse, data_sets, name, file, tear):
    refuse(name, file, TEARS[tear]((data_sets / name / file).read_bytes()), Path(file).name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet"])  # the others' files are counted
def test_missing_data_file(refuse, name):
    refuse(name, FILES[name][-1], None, Path(FILES[name][-1]).name)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_of_another_checksum(refuse, data_sets, tmp_path, name):
    """In a folder that holds nothing else."""
    (data_sets / name).rename(data_sets / "aside")
    try:
        refuse(name, ARCHIVES[name], b"half a download", "is broken", "MD5")
    finally:
        shutil.rmtree(data_sets / name)
        (data_sets / "aside").rename(data_sets / name)


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_numbers_in_a_data_file(refuse, case):
    name, file, content = ABSURD[case]
    refuse(name, file, content(), Path(file).name)


def test_a_folder_that_may_not_be_looked_at_is_named(tmp_path):
    """A class whose folder was another user's was missing without a word."""
    (tmp_path / "file").touch()
    assert files_in(tmp_path / "none", "*.npz") == files_in(tmp_path / "file", "*.npz") == []
    with pytest.raises(DataError, match=r"a cannot be read \(File name too long\)"):  # for root, too
        files_in(tmp_path / (300 * "a"), "*.npz")
