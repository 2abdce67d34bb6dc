"""Where data is: downloads from a server of our own, archives, and folders one level too deep or too shallow."""

import functools
import hashlib
import http.server
import importlib
import io
import shutil
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torchvision.datasets import CIFAR10

from data import DATASETS, DataError, build_dataset, describe
from data.cifar import read_cifar
from data.download import fetch, unpack
from data.home import find_home, holds
from data.made_up_events import write_dvs_cifar10
from data.made_up_images import write_cifar10
from tests.fixtures_dvs import pack_recordings, write_dvs_gesture_recordings, zip_classes
from tests.fixtures_images import error_of


@pytest.fixture
def server(tmp_path):
    """A folder, and the address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar_is_downloaded_verified_unpacked_and_then_read_offline(tmp_path, server):
    folder, address = server
    write_cifar10(tmp_path / "source")
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source" / "cifar-10-batches-py", "cifar-10-batches-py")

    class Served(CIFAR10):
        url = f"{address}/{archive.name}"
        tgz_md5 = md5_of(archive)

    arrays = read_cifar(Served, tmp_path / "data_dir", download=True)
    assert len(arrays.train[1]) == 100
    archive.unlink()
    assert torch.equal(read_cifar(Served, tmp_path / "data_dir", download=True).train[0], arrays.train[0])
    (tmp_path / "data_dir" / "cifar-10-batches-py").rename(tmp_path / "elsewhere")  # the archive alone will do
    assert torch.equal(read_cifar(Served, tmp_path / "data_dir", download=False).train[0], arrays.train[0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "answered with nothing (0 bytes)"),
        (b"\n <!DOCTYPE html><html>sorry</html>", "web page"),
        (b"another file", "came broken (12 bytes"),
        (None, "404"),
    ],
)
def test_useless_answers_leave_nothing_behind(tmp_path, server, content, reason):
    folder, address = server
    if content is not None:
        (folder / "a.zip").write_bytes(content)
    path = tmp_path / "data_dir" / "a.zip"
    message = error_of(fetch, f"{address}/a.zip", path, "0" * 32, "a hint")
    for part in (reason, str(path), "0" * 32, f"{address}/a.zip", "a hint"):
        assert part in message
    assert not path.parent.exists()


def test_no_answer(tmp_path):
    (tmp_path / "there").mkdir()
    for home in (tmp_path / "there", tmp_path / "data_dir/set/download"):
        message = error_of(fetch, "http://127.0.0.1:1/a.zip", home / "a.zip", "0" * 32)
        assert "could not be downloaded" in message
        assert str(home / "a.zip") in message
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]  # what was made for it is gone again


def zip_of(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.writestr("top/good.txt", "good")
        archive.writestr(name, "bad")
    return path.with_suffix(".zip")


def tar_of(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("top/good.txt"), io.BytesIO())
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc"
        archive.addfile(member)
    return path.with_suffix(".tar.gz")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["../bad.txt", "top/../../bad.txt", "/tmp/bad.txt", "..\\bad.txt", "C:\\bad.txt"])
def test_archive_that_leaves_its_folder_is_refused(tmp_path, pack, name):
    archive = pack(tmp_path / "archive", name)
    message = error_of(unpack, archive, tmp_path / "in" / "folder" / "top", Path.is_dir)
    assert str(archive) in message
    assert "outside its folder" in message
    assert not (tmp_path / "in").exists()
    assert not list(tmp_path.rglob("bad.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archive_with_a_link_is_refused(tmp_path, kind):
    archive = tar_of(tmp_path / "archive", "top/link", kind)
    assert "is a link or a device" in error_of(unpack, archive, tmp_path / "folder" / "top", Path.is_dir)


def test_zip_with_a_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("top/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    assert "is a link or a device" in error_of(unpack, tmp_path / "a.zip", tmp_path / "folder" / "top", Path.is_dir)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_truncated_archive_leaves_nothing(tmp_path, pack):
    archive = pack(tmp_path / "archive", "top/more.txt")
    archive.write_bytes(archive.read_bytes()[:-30])
    assert "cannot be unpacked" in error_of(unpack, archive, tmp_path / "folder" / "top", Path.is_dir)
    assert not (tmp_path / "folder").exists()


def test_unpacking_overwrites_nothing(tmp_path):
    archive = zip_of(tmp_path / "archive", "top/more.txt")
    unpack(archive, tmp_path / "top", holds("more.txt"))
    assert (tmp_path / "top" / "more.txt").read_text() == "bad"
    (tmp_path / "top" / "more.txt").write_text("mine")
    unpack(archive, tmp_path / "top", holds("more.txt"))
    assert "in the way" in error_of(unpack, archive, tmp_path / "top", holds("another.txt"))
    assert (tmp_path / "top" / "more.txt").read_text() == "mine"
    (tmp_path / "file").touch()
    assert "in the way" in error_of(unpack, archive, tmp_path / "file", Path.is_dir)
    assert "holds no folder other/" in error_of(unpack, archive, tmp_path / "other", Path.is_dir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.zip", "file", "top"]


# -- two runs that start at once


def pack_images(name, folder, data_dir):
    """The archive of a data set, as it is published, without the folder that it unpacks to."""
    root = data_dir / "packed"
    describe(name).write(root, 2)
    if folder == "tiny-imagenet-200":
        shutil.make_archive(str(data_dir / folder), "zip", root)
    else:
        shutil.make_archive(str(data_dir / folder.replace("batches-py", "python")), "gztar", root)
    shutil.rmtree(root)


def pack_recorded(name, folder, data_dir):
    if name == "dvsgesture":
        pack_recordings(write_dvs_gesture_recordings(data_dir))
    else:
        zip_classes(write_dvs_cifar10(data_dir, per_class=1))


@pytest.mark.parametrize(
    ("name", "module", "folder", "pack"),
    [
        ("cifar10", "cifar", "cifar-10-batches-py", pack_images),
        ("cifar100", "cifar", "cifar-100-python", pack_images),
        ("tiny_imagenet", "tiny_imagenet", "tiny-imagenet-200", pack_images),
        ("DVSCIFAR10", "dvs_cifar10", "DVSCIFAR10/airplane", pack_recorded),
        ("dvsgesture", "dvs_gesture", "dvsgesture/extract/DvsGesture", pack_recorded),
    ],
)
def test_two_runs_that_start_at_once_both_unpack(tmp_path, monkeypatch, name, module, folder, pack):
    pack(name, folder, tmp_path)
    barrier, waited = threading.Barrier(2, timeout=60), threading.local()

    def both_are_here(*args, **options):  # in place of the MD5s, which made-up archives lack
        if not hasattr(waited, "once"):
            waited.once = barrier.wait()

    monkeypatch.setattr(importlib.import_module(f"data.{module}"), "fetch", both_are_here)
    with ThreadPoolExecutor(2) as runs:
        first, second = runs.map(lambda _: build_dataset(name, tmp_path, T=2, download=False), range(2))
    assert (len(first.train), first.convention) == (len(second.train), second.convention)
    assert (tmp_path / folder).is_dir()
    assert not list(tmp_path.rglob(".making-*"))


def test_what_another_run_has_half_unpacked_is_not_read(tmp_path):
    write_cifar10(tmp_path / ".making-0")
    assert "is missing and downloads are off" in error_of(build_dataset, "cifar10", tmp_path, download=False)


# -- a -data_dir that is one level too deep or too shallow, by the one rule for all sets


WITH_FILES = [name for name in DATASETS if describe(name).write]


@pytest.mark.parametrize("name", WITH_FILES)
def test_one_level_too_deep_or_too_shallow(tmp_path, name):
    right = tmp_path / "a" / "sets"
    describe(name).write(right, 2)
    (deep,) = right.iterdir()
    found = [build_dataset(name, data_dir, T=2, download=False) for data_dir in (right, deep, right.parent)]
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
