"""Data sets on disks of other systems: files that are no data, links to nowhere, a folder in the place of a file.

And scikit-learn's scans, whose file is not ours: without it, and damaged.
"""

import gzip
import json
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from data import DATASETS, DataError, build_dataset, describe
from data.digits import SCANS, load_digit_images
from data.task import Task

PLACED = [name for name in DATASETS if not name.startswith("digits")]  # those have no files
MORE = (".npz", ".pt", ".gz", ".aedat", ".JPEG")  # files of which a folder holds any number


def load(name: str, data_dir: Path) -> Task:
    return build_dataset(name, data_dir, T=2, download=False)


def read_all(name: str, data_dir: Path) -> Task:
    """The data set, with every sample read."""
    task = load(name, data_dir)
    for split in (task.train, task.test):
        for index in split.indices.tolist():
            split.load(index)
    return task


def files_of(data_dir: Path) -> list[Path]:
    return [path for path in sorted(data_dir.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("name", PLACED)
def test_files_that_macos_and_windows_leave_are_no_data(tmp_path, name):
    describe(name).write(tmp_path, 2)
    for file in files_of(tmp_path):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
        for foreign in (".DS_Store", "Thumbs.db"):
            file.with_name(foreign).write_bytes(b"\0\0\0\1Bud1")
    before = files_of(tmp_path)
    task = read_all(name, tmp_path)
    describe(name).write(tmp_path / "clean", 2)
    clean = load(name, tmp_path / "clean")
    assert (len(task.train), len(task.test)) == (len(clean.train), len(clean.test))
    assert {*before} <= {*files_of(tmp_path)}


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("kind", ["a link that leads nowhere", "a folder"])
def test_what_stands_where_a_file_belongs_is_named(tmp_path, name, kind):
    describe(name).write(tmp_path, 2)
    file = next(path for path in files_of(tmp_path) if path.suffix in MORE or "batch" in path.name or path.suffix == "")
    file.unlink()
    if kind == "a folder":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as error:
        read_all(name, tmp_path)
    assert file.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("tiny_imagenet", "tiny-imagenet-200.zip"),
        ("DVSCIFAR10", "DVSCIFAR10/download/airplane.zip"),
        ("dvsgesture", "dvsgesture/download/DvsGesture.tar.gz"),
    ],
)
def test_a_folder_with_an_archives_name_is_named(tmp_path, name, archive):
    (tmp_path / archive).mkdir(parents=True)
    with pytest.raises(DataError, match="is a folder; move it away and get"):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("found", "says"), [(None, "pip install scikit-learn"), (json, "has no digits at .*digits.csv.gz")]
)
def test_a_scikit_learn_without_digits_is_one_line(monkeypatch, found, says):
    monkeypatch.setattr("data.digits.find_spec", lambda name: found and found.__spec__)
    with pytest.raises(DataError, match=says):
        load_digit_images()


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (lambda whole: whole[:2000], "ended before"),
        (lambda whole: whole[:9] + bytes(64) + whole[73:], ""),
        (lambda whole: b"no archive", "not a gzipped file"),
        (lambda whole: gzip.compress(b"1,2\n3,4\n"), r"a table of \(2, 2\), not"),
        (lambda whole: gzip.compress(b"1,two\n"), "could not convert"),
    ],
    ids=["cut off", "bits", "text", "small", "words"],
)
def test_a_damaged_file_of_scikit_learn_is_one_line(tmp_path, monkeypatch, damaged, says):
    theirs = Path(find_spec("sklearn").origin).parent / SCANS
    file = tmp_path / SCANS
    file.parent.mkdir(parents=True)
    file.write_bytes(damaged(theirs.read_bytes()))
    library = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("data.digits.find_spec", lambda name: library)
    with pytest.raises(DataError, match=f"(?i)has no digits at .*digits.csv.gz .*{says}") as failure:
        load_digit_images()
    assert "\n" not in str(failure.value)
