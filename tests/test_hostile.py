"""More that is torn or hostile: the environment, checkpoints cut anywhere, any command line."""

import errno
import io
import os
import struct
import zipfile
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.made_up_images import write_cifar10
from settings.command_line import training_parser
from tests.fixtures_images import QUICK
from tests.helpers import ENVIRONMENT, assert_refused, run_folder, run_training
from tests.test_hostile_events import with_entry
from utils.checkpoint import CheckpointError, read_checkpoint
from utils.cli import UsageError
from utils.distributed import Ranks
from utils.resume import is_whole, newest_whole

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
    "no patience": ({"RANK_TIMEOUT": "0"}, "RANK_TIMEOUT='0'"),
    "a minute": ({"RANK_TIMEOUT": "1m"}, "RANK_TIMEOUT='1m'"),
}


@pytest.mark.parametrize("case", TORN)
def test_torn_environment(case):
    changes, says = TORN[case]
    variables = {name: value for name, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(UsageError) as caught:
        Ranks.from_environment(variables)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torn_environment_ends_the_script(tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "WORLD_SIZE", "2")
    assert_refused(run_training(*QUICK, cwd=tmp_path, fresh=True), "lacks RANK, LOCAL_RANK")
    assert os.listdir(tmp_path) == []


# -- checkpoints


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


def test_a_checkpoint_that_only_another_user_may_read_is_not_damaged(tmp_path, monkeypatch):
    """The one before it would be resumed, or none, and a finished run trained again."""
    path = tmp_path / "checkpoint_latest.pth"
    path.touch()

    def refuse(file):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr("utils.resume.ZipFile", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        newest_whole([path])


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


# -- properties of the command line

PARSER = training_parser()
OPTIONS = [action.option_strings[0] for action in PARSER._actions if action.dest != "help"]
word = st.one_of(st.sampled_from(OPTIONS), st.text(max_size=8), st.integers().map(str), st.floats().map(str))


@settings(max_examples=200, deadline=None)
@given(st.lists(word, max_size=6))
@example(["\n"])
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
