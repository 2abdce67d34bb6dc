"""Event files and frames: readers against hand-computed values and SpikingJelly's, broken files, the frame cache."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.datasets.cifar10_dvs import _load_origin_data
from spikingjelly.datasets.utils import load_aedat_v3

from data.events import integrate, read_aedat2, read_aedat3, read_npz
from data.frames import build_aside, cached_frames, neuromorphic_augmentation, resize
from data.task import DataError, keyed_rng
from tests.fixtures_dvs import AEDAT2_HEADER, AEDAT3_HEADER, aedat2, aedat3, draw_events, write_npz

fork = multiprocessing.get_context("fork")


def refused(path: Path, call, *words: str) -> None:
    """``call()`` raises a DataError of one line that names ``path`` and says ``words``."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


# --- AEDAT 2.0 ------------------------------------------------------------------------------------------------------


def test_aedat2_orientation_is_the_published_one(tmp_path):
    file = tmp_path / "a.aedat"
    # (y, x, p) = (5, 3, 1), (127, 0, 0), and (5, 3, 1) again with bit 15 set
    file.write_bytes(aedat2([5 << 8 | 3 << 1 | 1, 127 << 8, 0x8000 | 5 << 8 | 3 << 1 | 1], [10, 20, 70_000]))
    events = read_aedat2(file)
    assert events["x"].tolist() == [124, 127, 124]
    assert events["y"].tolist() == [5, 127, 5]
    assert events["p"].tolist() == [0, 1, 0]
    assert events["t"].tolist() == [10, 20, 70_000]


def test_aedat2_is_spikingjellys_image_turned(tmp_path):
    file = tmp_path / "a.aedat"
    rng = np.random.default_rng(0)
    file.write_bytes(aedat2(rng.integers(0, 1 << 15, 500), np.arange(500)))
    ours, theirs = read_aedat2(file), _load_origin_data(file)
    assert (ours["x"] == theirs["y"]).all()
    assert (ours["y"] == 127 - theirs["x"].astype(int)).all()
    assert (ours["p"] == theirs["p"]).all()
    assert (ours["t"] == theirs["t"]).all()


@pytest.mark.parametrize("header", [b"", b"# one\n", b"#!AER-DAT2.0\r\n# two\r\n"])
def test_aedat2_header_lines_are_optional(tmp_path, header):
    file = tmp_path / "a.aedat"
    file.write_bytes(header + aedat2([2], [7])[len(AEDAT2_HEADER) :])
    assert read_aedat2(file)["x"].tolist() == [126]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no events"),
        (AEDAT2_HEADER, "no events"),
        (b"# a header line that does not end", "no events"),
        (aedat2([2, 4], [1, 2])[:-3], "torn"),
        (aedat2([2, 4], [1, 2])[:-4], "torn"),
        (aedat2([2, 1 << 16], [1, 2]), "outside"),
        (np.array([2, 1], "<u4").tobytes(), "outside"),  # the other byte order
        (b"<!DOCTYPE html>\n", "outside"),
    ],
)
def test_broken_aedat2(tmp_path, content, words):
    file = tmp_path / "broken.aedat"
    file.write_bytes(content)
    refused(file, lambda: read_aedat2(file), words)


def test_missing_file(tmp_path):
    refused(tmp_path / "no.aedat", lambda: read_aedat2(tmp_path / "no.aedat"), "No such file")


# --- AEDAT 3.1 ------------------------------------------------------------------------------------------------------


def test_aedat3_agrees_with_spikingjelly(tmp_path):
    file = tmp_path / "a.aedat"
    content = bytearray(aedat3(draw_events(3, 0, 250)))
    first = len(AEDAT3_HEADER)
    content[first + 12] = 2  # high bits of the first packet's times
    file.write_bytes(content)
    ours, theirs = read_aedat3(file), load_aedat_v3(file)
    assert ours["t"][0] >= 2 << 31
    for key in "txyp":
        assert (ours[key] == theirs[key]).all(), key


def test_aedat3_cut_anywhere_is_noticed_unless_between_packets(tmp_path):
    file = tmp_path / "a.aedat"
    content = aedat3(draw_events(3, 0, 6), packet=2)
    packets = [28 + 2 * 8, 28 + 8, 28 + 2 * 8, 28 + 8, 28 + 2 * 8]  # polarity, special, polarity, special, polarity
    boundaries = (len(AEDAT3_HEADER) + np.cumsum(packets)).tolist()
    assert boundaries.pop() == len(content)
    noticed = {}
    for length in range(len(content)):
        file.write_bytes(content[:length])
        try:
            read_aedat3(file)
        except DataError as error:
            noticed[length] = str(error)
    assert all(str(file) in message for message in noticed.values())
    assert set(range(len(content))) - set(noticed) == set(boundaries)


# --- .npz -----------------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_npz_events_round_trip_and_pickles_are_refused(tmp_path):
    file, made = tmp_path / "a.npz", tmp_path / "made"
    seen = draw_events(1, 0, 50)
    write_npz(file, seen)
    for key, array in read_npz(file).items():
        assert (array == seen[key]).all()
    write_npz(file, {**seen, "p": np.array([Bomb(made)] * 50, dtype=object)})
    refused(file, lambda: read_npz(file))
    assert not made.exists()
    np.load(file, allow_pickle=True)["p"]  # the bomb is live
    assert made.exists()


def test_broken_npz(tmp_path):
    file = tmp_path / "a.npz"
    seen = draw_events(1, 0, 50)
    np.savez(file, t=seen["t"], x=seen["x"], y=seen["y"])
    refused(file, lambda: read_npz(file))
    write_npz(file, {**seen, "p": seen["p"][:-1]})
    refused(file, lambda: read_npz(file), "one length")
    write_npz(file, seen)
    for content in (file.read_bytes()[:-30], b"", b"<html>"):
        file.write_bytes(content)
        refused(file, lambda: read_npz(file))


# --- events to frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "T"), [(103, 10), (100, 10), (7, 7), (9, 4), (1, 1)])
def test_fixed_number_rule_by_brute_force(count, T):
    events = draw_events(0, count, count, sensor=16)
    expected = np.zeros((T, 2, 16, 16))
    for i in range(count):
        frame = min(i // (count // T), T - 1)
        expected[frame, events["p"][i], events["y"][i], events["x"][i]] += 1
    frames = integrate(events, T, 16, "test")
    assert frames.dtype == np.uint16
    assert (frames == expected).all()
    assert frames.sum() == count
    assert (frames[:-1].sum(axis=(1, 2, 3)) == count // T).all()


def test_events_that_cannot_be_integrated():
    events = draw_events(0, 0, 5, sensor=16)
    refused(Path("clip"), lambda: integrate(events, 6, 16, "clip"), "5 events", "-T 6")
    refused(Path("-T 0"), lambda: integrate(events, 0, 16, "clip"))
    refused(Path("clip"), lambda: integrate({key: array[:0] for key, array in events.items()}, 1, 16, "clip"))
    for key, value in (("x", 16), ("y", 16), ("x", -1), ("y", -1), ("p", 2), ("p", -1)):
        wrong = {**events, key: np.where(np.arange(5) == 3, value, events[key])}
        refused(Path("clip"), lambda wrong=wrong: integrate(wrong, 2, 16, "clip"), "outside")


def test_counts_that_do_not_fit():
    events = {key: np.zeros(65_536, dtype=np.int64) for key in "txyp"}
    assert integrate({key: array[1:] for key, array in events.items()}, 1, 16, "clip").max() == 65_535
    refused(Path("clip"), lambda: integrate(events, 1, 16, "clip"), "65536 times")


# --- frames ---------------------------------------------------------------------------------------------------------


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


def test_augmentation_moves_all_frames_of_a_sample_alike():
    frames = torch.zeros(1, 2, 48, 48)
    frames[0, :, 20:24, 38:42] = 1.0  # x = 39.5: right of the middle, so that a mirror image is left of it
    frames = frames.repeat(6, 1, 1, 1)
    for flip in (True, False):
        augment, seen, mirrored = neuromorphic_augmentation(flip=flip), [], 0
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
        assert 70 < mirrored < 130 if flip else mirrored == 0
        assert len({out.numpy().tobytes() for out in seen}) > 100


# --- the cache ------------------------------------------------------------------------------------------------------


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


def test_build_that_fails_leaves_nothing(tmp_path, files):
    files[2].unlink()
    refused(files[2], lambda: build(tmp_path / "cache", files), "No such file")
    files[2].write_text("3")

    def interrupted(file: Path) -> np.ndarray:
        if file == files[2]:
            raise KeyboardInterrupt
        return read_number(file)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", files, interrupted)
    assert not list((tmp_path / "cache").iterdir())
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
    assert not list((tmp_path / "cache").iterdir())


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
    refused(folder, lambda: build(tmp_path / "cache", files), "delete")


def test_cache_that_cannot_be_written(tmp_path, files):
    (tmp_path / "cache").write_text("a file in the way")
    refused(tmp_path / "cache", lambda: build(tmp_path / "cache", files), "cannot be built")


def test_folder_built_aside_must_have_been_made(tmp_path):
    with pytest.raises(DataError, match="cannot be built"), build_aside(tmp_path / "target"):
        pass
    assert not list(tmp_path.iterdir())
