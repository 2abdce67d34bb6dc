"""Frames: resized, augmented, and kept in a cache that is whole or not there."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError
from data.augment import dvs_cifar10_pt_train, dvs_cifar10_train, roll_rotate_or_shear
from data.frames import cached_frames, resize, resize_nearest
from data.scratch import build_aside
from data.task import keyed_rng
from tests.fixtures_dvs import refused

fork = multiprocessing.get_context("fork")


def test_resize_keeps_polarities_and_frames_apart():
    frames = torch.zeros(3, 2, 128, 128)
    frames[1, 0] = 300.0  # more than eight bits hold
    out = resize(frames, 48)
    assert out.shape == (3, 2, 48, 48)
    torch.testing.assert_close(out[1, 0], torch.full((48, 48), 300.0))
    out[1, 0] = 0
    assert not out.any()


def test_resize_keeps_the_mean_count():
    frames = torch.zeros(1, 2, 128, 128)
    frames[0, :, 40:80, 30:90] = torch.rand(2, 40, 60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize(frames, 48).mean((2, 3)), frames.mean((2, 3)), rtol=2e-2, atol=0)


def test_nearest_resize_takes_the_pixels_that_pillow_takes():
    frames = torch.arange(128.0 * 128).reshape(1, 1, 128, 128).repeat(2, 2, 1, 1)
    pillow = np.array(Image.fromarray(frames[0, 0].numpy()).resize((48, 48), Image.Resampling.NEAREST))
    places = (np.arange(48) + 0.5) * 128 / 48
    within = abs(places - places.round()) > 0.1  # a centre between two pixels may take either
    assert within.sum() == 32
    out = resize_nearest(frames, 48)
    assert (out == out[:1, :1]).all()
    assert (out[0, 0].numpy() == pillow)[np.ix_(within, within)].all()


@pytest.mark.parametrize(
    ("make", "flips"), [(dvs_cifar10_train, True), (dvs_cifar10_pt_train, True), (roll_rotate_or_shear, False)]
)
def test_augmentation_moves_all_frames_of_a_sample_alike(make, flips):
    frames = torch.zeros(1, 2, 48, 48)
    frames[0, :, 20:24, 38:42] = 1.0  # x = 39.5: right of the middle, so that a mirror image is left of it
    frames = frames.repeat(6, 1, 1, 1)
    augment, seen, mirrored = make(), [], 0
    for index in range(200):
        with keyed_rng(0, 1, index):
            out = augment(frames)
        with keyed_rng(0, 1, index):
            assert torch.equal(augment(frames), out)
        assert out.shape == frames.shape
        assert (out == out[:1]).all()
        centre = (out[0, 0].sum(0) * torch.arange(48)).sum() / out[0, 0].sum()
        mirrored += int(centre < 23.5)
        seen.append(out)
    assert 70 < mirrored < 130 if flips else mirrored == 0
    assert len({out.numpy().tobytes() for out in seen}) > (50 if make is dvs_cifar10_train else 100)


def test_a_third_of_the_pt_samples_is_neither_rotated_nor_sheared():
    frames = torch.zeros(1, 1, 48, 48)
    frames[..., 10:38, 16:32] = 1.0  # as a rectangle it stays upright under flip and roll alone
    upright = 0
    for index in range(600):
        with keyed_rng(0, 2, index):
            out = dvs_cifar10_pt_train()(frames)[0, 0]
        upright += int(out.sum() == 28 * 16 and (out.any(1).sum(), out.any(0).sum()) == (28, 16))
    assert 160 < upright < 250  # 200, and the smallest rotations and shears, which move no pixel


def read_number(file: Path, T: int = 2) -> np.ndarray:
    """Frames that are filled with the number that the file holds."""
    return np.full((T, 2, 4, 4), int(file.read_text()), dtype=np.uint16)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / "class" / f"{n}.txt" for n in range(4)]
    paths[0].parent.mkdir()
    for n, path in enumerate(paths):
        path.write_text(str(n + 1))
    return paths


def build(folder: Path, files: list[Path], read=read_number, T: int = 2):
    return cached_frames(folder, files, read, T=T, size=4, dtype=np.uint16)


def test_cache_is_read_not_built_again(tmp_path, files):
    load = build(tmp_path / "cache", files)
    again = build(tmp_path / "cache", files, read=None)  # would fail if it were called
    for n in range(4):
        assert (load(n) == n + 1).all()
        assert torch.equal(load(n), again(n))
        assert load(n).dtype == torch.float32
        assert load(n).shape == (2, 2, 4, 4)


def test_other_settings_and_other_files_make_other_caches(tmp_path, files):
    build(tmp_path / "cache", files)
    build(tmp_path / "cache", files, partial(read_number, T=3), T=3)
    assert build(tmp_path / "cache", files[1:])(0).max() == 2
    files[0].write_text("100")  # replaced by a longer one
    assert build(tmp_path / "cache", files)(0).max() == 100
    names = sorted(path.name.rsplit("_", 1)[0] for path in (tmp_path / "cache").iterdir())
    assert names == ["frames_T2_number_4x4"] * 3 + ["frames_T3_number_4x4"]


def test_a_source_replaced_by_one_of_the_same_length_is_read(tmp_path, files):
    build(tmp_path / "cache", files)
    before = files[0].stat()
    files[0].write_text("9")
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (build(tmp_path / "cache", files)(0) == 9).all()


def test_a_byte_that_flips_in_the_cache_is_noticed(tmp_path, files):
    load = build(tmp_path / "cache", files)
    (frames,) = (tmp_path / "cache").glob("*/frames.npy")
    content = bytearray(frames.read_bytes())
    content[-1] ^= 1
    frames.write_bytes(content)
    assert (load(0) == 1).all()
    for reader in (load, build(tmp_path / "cache", files)):
        refused(lambda reader=reader: reader(3), frames, "sample 3 is not what was written")


def test_build_that_fails_leaves_nothing(tmp_path, files):
    files[2].unlink()
    refused(lambda: build(tmp_path / "cache", files), files[2], "No such file")
    files[2].write_text("3")

    def interrupted(file: Path) -> np.ndarray:
        if file == files[2]:
            raise KeyboardInterrupt
        return read_number(file)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", files, interrupted)
    assert not (tmp_path / "cache").exists()
    assert (build(tmp_path / "cache", files)(2) == 3).all()


def test_build_that_is_killed_never_looks_finished(tmp_path, files):
    def killed(file: Path) -> np.ndarray:
        if file == files[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_number(file)

    process = fork.Process(target=build, args=(tmp_path / "cache", files, killed))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert all(path.name.startswith(".") for path in (tmp_path / "cache").iterdir())
    assert (build(tmp_path / "cache", files)(3) == 4).all()


def test_disk_that_loses_bytes_is_noticed(tmp_path, files):
    def read(file: Path) -> np.ndarray:
        if file == files[-1]:  # meanwhile the first sample, which is on the disk by now, changes there
            (written,) = (tmp_path / "cache").glob(".*/*/frames.npy")
            with written.open("r+b") as array:
                array.seek(1000)
                array.write(b"\1")
        return np.zeros((2, 2, 64, 64), dtype=np.uint16)

    with pytest.raises(DataError, match="not written as it should be"):
        cached_frames(tmp_path / "cache", files, read, T=2, size=64, dtype=np.uint16)
    assert not (tmp_path / "cache").exists()


def test_two_builders_at_once_both_end_whole(tmp_path, files):
    barrier, answers = fork.Barrier(2), fork.Queue()

    def together(file: Path) -> np.ndarray:
        barrier.wait(60)  # both are in the middle of building, at every file
        return read_number(file)

    def builder() -> None:
        load = build(tmp_path / "cache", files, together)
        answers.put([int(load(n).max()) for n in range(4)])

    processes = [fork.Process(target=builder) for _ in range(2)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == [[1, 2, 3, 4]] * 2
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "missing"])
def test_damaged_cache_is_refused(tmp_path, files, damage):
    build(tmp_path / "cache", files)
    (folder,) = (tmp_path / "cache").iterdir()
    file = folder / "frames.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "other shape":
        np.save(file, np.zeros((3, 2, 2, 4, 4), dtype=np.uint16))
    else:
        file.write_bytes(file.read_bytes()[:-1] if damage == "cut" else b"")
    refused(lambda: build(tmp_path / "cache", files), folder, "delete")


def test_cache_that_cannot_be_written(tmp_path, files):
    (tmp_path / "cache").write_text("a file in the way")
    refused(lambda: build(tmp_path / "cache", files), tmp_path / "cache", "cannot be built")


def test_folder_built_aside_must_have_been_made(tmp_path):
    with pytest.raises(DataError, match="cannot be built"), build_aside(tmp_path / "target"):
        pass
    assert not list(tmp_path.iterdir())
