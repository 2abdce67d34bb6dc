"""A data set is found where -data_dir is given one level too deep or too shallow, each by the one rule."""

from pathlib import Path

import pytest

from data import DATASETS, DataError, build_dataset, describe
from data.home import find_home, holds
from data.made_up_images import write_cifar10

WITH_FILES = [name for name in DATASETS if describe(name).write]
T = 2


@pytest.mark.parametrize("name", WITH_FILES)
def test_one_level_too_deep_or_too_shallow(tmp_path, name):
    right = tmp_path / "a" / "sets"
    describe(name).write(right, T)
    (deep,) = right.iterdir()
    found = [build_dataset(name, data_dir, T=T, download=False) for data_dir in (right, deep, right.parent)]
    assert len({(task.convention, len(task.train), len(task.test)) for task in found}) == 1
    assert [path.name for path in right.iterdir()] == [deep.name]  # what is kept of them is kept in one place


def test_the_right_place_comes_first_and_the_archive_is_looked_for_likewise(tmp_path):
    broken = tmp_path / "cifar-10-batches-py"
    write_cifar10(tmp_path / "copy")
    write_cifar10(tmp_path)
    (broken / "data_batch_1").unlink()
    with pytest.raises(DataError, match="data_batch_1"):
        build_dataset("cifar10", tmp_path, download=False)
    (tmp_path / "other" / "sets").mkdir(parents=True)
    archive = tmp_path / "other" / "sets" / "cifar-100-python.tar.gz"
    archive.touch()
    with pytest.raises(DataError, match=f"{archive} is broken"):
        build_dataset("cifar100", tmp_path / "other", download=False)


def test_order_and_what_is_said_where_there_is_none(tmp_path):
    folders = ["Set/raw", "set"]
    assert find_home(tmp_path, folders, holds("x")) == tmp_path / "Set/raw"
    assert find_home(tmp_path / "none", folders, holds("x")) == tmp_path / "none/Set/raw"
    seen = []
    (tmp_path / "b").mkdir()
    find_home(tmp_path, folders, lambda path: bool(seen.append(path.relative_to(tmp_path))))
    (tmp_path / "b/c/set").mkdir(parents=True)
    (tmp_path / "b/c/set/x").touch()
    assert find_home(tmp_path, folders, holds("x")) == tmp_path / "Set/raw"  # two levels down is not searched
    assert seen == [Path(path) for path in ("Set/raw", "set", "raw", "", "", "b/Set/raw", "b/set")]
