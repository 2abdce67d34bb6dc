"""Event files with absurd numbers in them, and properties of the readers and of integration (by Hypothesis)."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import DataError
from data.events import integrate, read_aedat2, read_aedat3, read_npz
from tests.fixtures_dvs import AEDAT2_HEADER, AEDAT3_HEADER, aedat2
from tests.fixtures_images import error_of


def with_entry(whole: bytes, name: str, content: bytes) -> bytes:
    """An archive in which one entry is another."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith(name) else old.read(entry))
    return out.getvalue()


def packet(**header: int) -> bytes:
    """One packet header of AEDAT 3.1, and a whole event behind it."""
    fields = {"type": 1, "source": 0, "event_size": 8, "time_offset": 4, "time_overflow": 0, "capacity": 1,
              "number": 1, "valid": 1, **header}  # fmt: skip
    return AEDAT3_HEADER + struct.pack("<HHIIIIII", *fields.values()) + struct.pack("<II", 3, 5)


EVENTS = {
    "2: empty": (read_aedat2, b""),
    "2: header alone": (read_aedat2, AEDAT2_HEADER),
    "2: a header that does not end": (read_aedat2, b"#" * 5000),
    "2: text": (read_aedat2, b"these are no events\n"),
    "2: seven bytes": (read_aedat2, AEDAT2_HEADER + bytes(7)),
    "2: addresses beyond the sensor": (read_aedat2, aedat2([2**31], [0])),
    "3: empty": (read_aedat3, b""),
    "3: header alone": (read_aedat3, AEDAT3_HEADER),
    "3: half a header": (read_aedat3, AEDAT3_HEADER[:-4]),
    "3: half a packet header": (read_aedat3, packet()[:-20]),
    "3: half an event": (read_aedat3, packet()[:-1]),
    "3: 4 G events": (read_aedat3, packet(capacity=2**32 - 1)),
    "3: events of no size": (read_aedat3, packet(event_size=0)),
    "3: events of 4 GB": (read_aedat3, packet(event_size=2**32 - 1)),
    "3: events of 9 bytes": (read_aedat3, packet(event_size=9)),
    "3: of another type": (read_aedat3, packet(type=3)),
    "npz: empty": (read_npz, b""),
    "npz: text": (read_npz, b"no zip"),
    "npz: objects": (read_npz, "objects"),
    "npz: no polarity": (read_npz, "no polarity"),
    "npz: lengths differ": (read_npz, "lengths"),
    "npz: an array of 2^60": (read_npz, "huge"),
    **{f"npz: {kind}": (read_npz, kind) for kind in ("fractions", "complex", "strings", "not a number", "dates")},
    "npz: 0.1 MB that unpack to 100": (read_npz, "bomb"),
}


WRONG = {
    "fractions": [1.7, 2.0, 3.0],
    "complex": [1j, 2.0, 3.0],
    "strings": ["1", "2", "3"],
    "not a number": [1.0, np.nan, 3.0],
    "dates": np.zeros(3, "datetime64[us]"),
}


def npz(kind: str) -> bytes:
    out = io.BytesIO()
    arrays = {key: np.zeros(3, np.int64) for key in "txyp"}
    if kind == "objects":
        arrays["t"] = np.array([{}, {}, {}], dtype=object)
    elif kind == "no polarity":
        del arrays["p"]
    elif kind in WRONG:
        arrays["x"] = np.array(WRONG[kind])
    elif kind == "bomb":
        np.savez_compressed(out, **{key: np.zeros(1 << 22, np.int64) for key in "txyp"})
        return out.getvalue()
    elif kind == "lengths":
        arrays["x"] = np.zeros(2, np.int64)
    np.savez(out, **arrays)
    if kind != "huge":
        return out.getvalue()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**60,)})
    return with_entry(out.getvalue(), "t.npy", header.getvalue() + bytes(24))


@pytest.mark.parametrize("case", EVENTS)
def test_broken_events(tmp_path, case):
    read, content = EVENTS[case]
    path = tmp_path / "events"
    path.write_bytes(npz(content) if isinstance(content, str) else content)
    assert str(path) in error_of(read, path)


def test_whole_numbers_in_floats_are_events(tmp_path):
    np.savez(tmp_path / "a.npz", **{key: np.array([0.0, 1.0]) for key in "txyp"})
    assert {array.dtype for array in read_npz(tmp_path / "a.npz").values()} == {np.dtype(np.int64)}


def test_folder_in_place_of_an_event_file(tmp_path):
    for read in (read_aedat2, read_aedat3, read_npz):
        assert str(tmp_path) in error_of(read, tmp_path)


# -- properties

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 127), st.integers(0, 1), st.integers(0, 2**32 - 1)),
                min_size=1, max_size=50))  # fmt: skip
def test_aedat2_reads_what_was_written(tmp_path, events):
    x, y, p, t = np.array(events, np.int64).T
    (tmp_path / "a.aedat").write_bytes(aedat2(y << 8 | x << 1 | p, t))
    read = read_aedat2(tmp_path / "a.aedat")
    assert np.array_equal(read["t"], t)
    assert np.array_equal(read["x"], 127 - x)
    assert np.array_equal(read["y"], y)
    assert np.array_equal(read["p"], 1 - p)


@quick
@given(st.sampled_from([b"", AEDAT2_HEADER, AEDAT3_HEADER, packet()]), st.binary(max_size=200))
def test_any_bytes_are_events_or_one_line(tmp_path, start, content):
    path = tmp_path / "any"
    path.write_bytes(start + content)
    for read in (read_aedat2, read_aedat3, read_npz):
        events: dict = {}
        said = ""
        try:
            events = read(path)
        except DataError as error:
            said = str(error)
        assert "\n" not in said
        if said:
            continue
        assert len({len(array) for array in events.values()}) == 1
        assert len(events["t"]) > 0


@quick
@given(st.integers(1, 80), st.integers(1, 20), st.integers(0, 2**32))
def test_integration_counts_each_event_once(count, T, seed):
    rng = np.random.default_rng(seed)
    events = {
        "t": np.arange(count),
        **{key: rng.integers(0, 16, count) for key in "xy"},
        "p": rng.integers(0, 2, count),
    }
    if count < T:
        assert "fewer than" in error_of(integrate, events, T, 16, Path("file"))
        return
    frames = integrate(events, T, 16, "file")
    assert frames.shape == (T, 2, 16, 16)
    each = count // T
    assert frames.sum((1, 2, 3)).tolist() == [each] * (T - 1) + [count - each * (T - 1)]
    for key, axis in (("p", 1), ("y", 2), ("x", 3)):
        others = tuple({0, 1, 2, 3} - {axis})
        assert np.array_equal(frames.sum(others), np.bincount(events[key], minlength=frames.shape[axis]))
