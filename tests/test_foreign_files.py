"""Data sets on disks of other systems: files that are no data, links to nowhere, a folder in the place of a file."""

from pathlib import Path

import pytest

from data import DATASETS, DataError, build_dataset, describe
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
