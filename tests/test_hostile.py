"""More that is torn or hostile: the environment, checkpoints cut anywhere, event files with absurd numbers in them."""

import io
import os
import struct
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import DATASETS, DataError
from data.events import integrate, read_aedat2, read_aedat3, read_npz
from models import BATCH_NORMS, MODELS
from neurons import BACKENDS, NEURONS, SURROGATES
from tests.fixtures_dvs import AEDAT2_HEADER, AEDAT3_HEADER, aedat2, write_dvs_cifar10
from tests.fixtures_images import error_of, write_cifar10
from tests.helpers import ENVIRONMENT, assert_refused, run_folder, run_training
from utils.checkpoint import CheckpointError, read_checkpoint
from utils.cli import UsageError, training_parser
from utils.distributed import Ranks
from utils.resume import is_whole

QUICK = ["-dataset", "cifar10", "-model", "snn5_noAP", "-epochs", "1", "-T", "2", "-b", "8", "-no_download"]
TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("hostile")
    write_cifar10(home / "data_dir", per_batch=4, test=4)
    return home


@pytest.fixture(scope="module")
def checkpoint(home):
    result = run_training(*QUICK, cwd=home)
    assert result.returncode == 0, result.stderr
    return run_folder(home / "logs") / "checkpoint_latest.pth"


# -- torchrun's variables

TORN = {
    "no world": ({"WORLD_SIZE": None}, "lacks WORLD_SIZE"),
    "no rank": ({"RANK": None}, "lacks RANK"),
    "no local rank": ({"LOCAL_RANK": None}, "lacks LOCAL_RANK"),
    "no address": ({"MASTER_ADDR": None}, "lacks MASTER_ADDR"),
    "no port": ({"MASTER_PORT": None}, "lacks MASTER_PORT"),
    "empty": ({"MASTER_ADDR": ""}, "lacks MASTER_ADDR"),
    "a word": ({"RANK": "first"}, "RANK='first'"),
    "negative": ({"RANK": "-1"}, "RANK='-1'"),
    "beyond": ({"RANK": "2"}, "RANK=2 in the environment is not below WORLD_SIZE=2"),
    "none": ({"RANK": "0", "WORLD_SIZE": "0"}, "not below WORLD_SIZE=0"),
    "half": ({"WORLD_SIZE": "2.5"}, "WORLD_SIZE='2.5'"),
    "huge": ({"WORLD_SIZE": "9" * 5000}, "is not a whole number"),
    "other digits": ({"RANK": "٢"}, "is not a whole number"),
    "port 0": ({"MASTER_PORT": "0"}, "is no port"),
    "port 70000": ({"MASTER_PORT": "70000"}, "is no port"),
}


@pytest.mark.parametrize("case", TORN)
def test_torn_environment(case):
    changes, says = TORN[case]
    variables = {name: value for name, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(UsageError) as caught:
        Ranks.from_environment(variables)
    assert says in str(caught.value)
    assert "torchrun" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torn_environment_ends_the_script(tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "WORLD_SIZE", "2")
    assert_refused(run_training(*QUICK, cwd=tmp_path, fresh=True), "lacks RANK, LOCAL_RANK")
    assert os.listdir(tmp_path) == []


# -- checkpoints


def with_entry(whole: bytes, name: str, content: bytes) -> bytes:
    """A checkpoint in which one entry of the archive is another."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith(name) else old.read(entry))
    return out.getvalue()


def entry_of(whole: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return next(archive.read(entry) for entry in archive.namelist() if entry.endswith(name))


def saved(state: object) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


DAMAGES = {
    **{f"{tenth}0 %": (lambda whole, n=tenth: whole[: n * len(whole) // 10]) for tenth in range(10)},
    "all but a byte": lambda whole: whole[:-1],
    "zeros": lambda whole: bytes(len(whole)),
    "another magic": lambda whole: b"\x7fELF" + whole[4:],
    "no pickle": lambda whole: with_entry(whole, "data.pkl", b""),
    "half a pickle": lambda whole: with_entry(whole, "data.pkl", entry_of(whole, "data.pkl")[:200]),
    "runs os.system": lambda whole: with_entry(whole, "data.pkl", b"\x80\x02cos\nsystem\nX\x04\0\0\0ls /\x85R."),
    "runs eval": lambda whole: with_entry(whole, "data.pkl", b"\x80\x02cbuiltins\neval\nX\x03\0\0\0a()\x85R."),
    "a string of 2 GB": lambda whole: with_entry(
        whole, "data.pkl", b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"a."
    ),
    "a memo of 2 G": lambda whole: with_entry(whole, "data.pkl", b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b"j."),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint(home, tmp_path, checkpoint, damage):
    path = tmp_path / "checkpoint_latest.pth"
    path.write_bytes(DAMAGES[damage](checkpoint.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not is_whole(path)


@pytest.mark.parametrize("damage", ["70 %", "runs os.system", "a string of 2 GB"])
def test_damaged_checkpoint_ends_the_script(home, tmp_path, checkpoint, damage):
    path = tmp_path / "checkpoint_latest.pth"
    path.write_bytes(DAMAGES[damage](checkpoint.read_bytes()))
    result = run_training(*QUICK, "-data_dir", home / "data_dir", "-resume", path, cwd=tmp_path)
    assert_refused(result, str(path))
    assert os.listdir(tmp_path) == ["checkpoint_latest.pth"]


def test_one_bit_is_noticed(tmp_path, checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.pth").write_bytes(content)
    assert is_whole(checkpoint)
    assert not is_whole(tmp_path / "flipped.pth")


MIDDLES = {
    "step": {"step": "two"},
    "sums": {"sums": None},
    "a part of the sums": {"sums": {"loss": 1.0}},
    "other batches": {"step": 1, "batches": {"b": 8, "seed": 1, "samples": 20}},
    "no batches": {"step": 1, "batches": None},
}


@pytest.mark.parametrize("case", MIDDLES)
def test_damaged_middle_of_an_epoch(home, tmp_path, checkpoint, case):
    path = tmp_path / "checkpoint_latest.pth"
    path.write_bytes(saved(torch.load(checkpoint, weights_only=True) | MIDDLES[case]))
    result = run_training(*QUICK, "-epochs", 2, "-data_dir", home / "data_dir", "-resume", path, cwd=tmp_path)
    assert_refused(result, str(path))
    assert os.listdir(tmp_path) == ["checkpoint_latest.pth"]


# -- event files


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
}


def npz(kind: str) -> bytes:
    out = io.BytesIO()
    arrays = {key: np.zeros(3, np.int64) for key in "txyp"}
    if kind == "objects":
        arrays["t"] = np.array([{}, {}, {}], dtype=object)
    elif kind == "no polarity":
        del arrays["p"]
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


PARSER = training_parser(
    datasets=DATASETS, models=MODELS, neurons=NEURONS, surrogates=SURROGATES, batch_norms=BATCH_NORMS, backends=BACKENDS
)
OPTIONS = [action.option_strings[0] for action in PARSER._actions if action.dest != "help"]
word = st.one_of(st.sampled_from(OPTIONS), st.text(max_size=8), st.integers().map(str), st.floats().map(str))


@settings(max_examples=200, deadline=None)
@given(st.lists(word, max_size=6))
def test_any_command_line_is_settings_or_one_line(words):
    out, code, args = io.StringIO(), 0, None
    try:
        with redirect_stderr(out), redirect_stdout(io.StringIO()):
            args = PARSER.parse_args(words)
    except SystemExit as stop:
        code = stop.code
    if args is None:
        assert code in (0, 2)  # 0 for -h
        assert code == 0 or out.getvalue().count("\n") == 1
        return
    assert args.T >= 1
    assert args.b >= 1
    assert args.lr > 0
    assert 0 <= args.drop_rate < 1


@pytest.mark.parametrize("file", ["cat/cifar10_cat_0.aedat", "dog/cifar10_dog_900.aedat"])
def test_zero_bytes_in_a_data_set(tmp_path, home, file):
    data = write_dvs_cifar10(tmp_path / "data", per_class=1, events=20)
    (data / file).write_bytes(b"")
    work = tmp_path / "cwd"
    work.mkdir()
    result = run_training(*QUICK, "-dataset", "DVSCIFAR10", "-data_dir", tmp_path / "data", cwd=work)
    assert_refused(result, file, "holds no events")
    assert os.listdir(work) == []
