"""Event files and frames: readers against hand-computed values and SpikingJelly's, and broken files."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from spikingjelly.datasets.cifar10_dvs import _load_origin_data
from spikingjelly.datasets.utils import load_aedat_v3

from data import DataError
from data.events import integrate, read_aedat2, read_aedat3, read_npz
from tests.fixtures_dvs import AEDAT2_HEADER, AEDAT3_HEADER, Bomb, aedat2, aedat3, draw_events, refused, write_npz


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
    refused(lambda: read_aedat2(file), file, words)


def test_missing_file(tmp_path):
    refused(lambda: read_aedat2(tmp_path / "no.aedat"), tmp_path / "no.aedat", "No such file")


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


def test_npz_events_round_trip_and_pickles_are_refused(tmp_path):
    file, made = tmp_path / "a.npz", tmp_path / "made"
    seen = draw_events(1, 0, 50)
    write_npz(file, seen)
    for key, array in read_npz(file).items():
        assert (array == seen[key]).all()
    write_npz(file, {**seen, "p": np.array([Bomb(made)] * 50, dtype=object)})
    refused(lambda: read_npz(file), file)
    assert not made.exists()
    np.load(file, allow_pickle=True)["p"]  # the bomb is live
    assert made.exists()


def test_broken_npz(tmp_path):
    file = tmp_path / "a.npz"
    seen = draw_events(1, 0, 50)
    np.savez(file, t=seen["t"], x=seen["x"], y=seen["y"])
    refused(lambda: read_npz(file), file)
    write_npz(file, {**seen, "p": seen["p"][:-1]})
    refused(lambda: read_npz(file), file, "one length")
    write_npz(file, seen)
    for content in (file.read_bytes()[:-30], b"", b"<html>"):
        file.write_bytes(content)
        refused(lambda: read_npz(file), file)


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
    refused(lambda: integrate(events, 6, 16, "clip"), "clip", "5 events", "-T 6")
    refused(lambda: integrate(events, 0, 16, "clip"), "-T 0")
    refused(lambda: integrate({key: array[:0] for key, array in events.items()}, 1, 16, "clip"), "clip")
    for key, value in (("x", 16), ("y", 16), ("x", -1), ("y", -1), ("p", 2), ("p", -1)):
        wrong = {**events, key: np.where(np.arange(5) == 3, value, events[key])}
        refused(partial(integrate, wrong, 2, 16, "clip"), "clip", "outside")


def test_counts_that_do_not_fit():
    events = {key: np.zeros(65_536, dtype=np.int64) for key in "txyp"}
    assert integrate({key: array[1:] for key, array in events.items()}, 1, 16, "clip").max() == 65_535
    refused(lambda: integrate(events, 1, 16, "clip"), "clip", "65536 times")
