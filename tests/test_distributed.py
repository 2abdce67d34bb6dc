"""The script on several ranks, by torchrun: what one process would do, one of them writes, none outlives the others."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fixtures_images import write_cifar10
from tests.helpers import (
    ROOT,
    SAVED,
    SCRIPT,
    TIMING,
    as_torchrun,
    assert_refused,
    descendants,
    free_port,
    outcome,
    rows_of,
    run_folder,
    run_training,
    send,
    started,
    wait_until,
)
from tests.warm_python import warm_python

RUN = "-dataset cifar10 -model snn5_noAP -T 2 -b 5 -lr 0.005 -epochs 2 -no_download -no_amp -device cpu".split()  # noqa: SIM905
# In over a thousand such runs one rank was seen to wait for ever, and the reason was not found; twice in a row fails
pytestmark = pytest.mark.flaky(reruns=1, only_rerun=["TimeoutExpired", "TimeoutError"])
OFTEN = ("-save_every", "0.00001")  # minutes: a checkpoint after each batch


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("ranks")
    write_cifar10(home / "data_dir", per_batch=4, test=7)
    return home


@pytest.fixture(scope="module")
def alone(home):
    """The run of one process."""
    result = run_training(*RUN, "-out_dir", "alone", cwd=home)
    assert result.returncode == 0, result.stderr
    return run_folder(home / "alone")


def assert_close_run(folder: Path, alone: Path) -> None:
    """The same rows to float32's rounding, which may move a spike."""
    assert {path.name for path in folder.iterdir()} - {"checkpoint_previous.pth"} == SAVED
    rows = rows_of(folder, without=TIMING)
    assert [row["epoch"] for row in rows] == [0, 1]
    for row, expected in zip(rows, rows_of(alone, without=TIMING), strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=5e-3)
        assert row["test_loss"] == pytest.approx(expected["test_loss"], rel=5e-2)


def torchrun(*options: str) -> list[str | Path]:
    return [sys.executable, "-m", "torch.distributed.run", *options, SCRIPT, *RUN]


def pid_of(launcher: subprocess.Popen, rank: int) -> int:
    """The process of a rank that a torchrun has started; 0 before that."""
    for pid in descendants(launcher.pid):
        with suppress(OSError):
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    return 0


def lines_of_ours(result: subprocess.CompletedProcess) -> list[str]:
    """What the script says on stderr; torch and torchrun have more to say of a process that dies."""
    return [line for line in result.stderr.splitlines() if line.startswith("train_BPTT.py")]


@pytest.mark.slow
def test_torchrun(home, alone, tmp_path):
    command = [*torchrun("--nproc_per_node=2", f"--master_port={free_port()}"), "-out_dir", tmp_path]
    with started([command], cwd=home) as (launcher,):
        result = outcome(launcher)
    assert result.returncode == 0, result.stderr
    assert lines_of_ours(result) == []
    assert result.stdout.count("done: test accuracy best") == 1
    assert ", 2 ranks\n" in result.stdout
    assert_close_run(run_folder(tmp_path), alone)


@pytest.mark.slow
def test_stopped_and_resumed_in_other_ranks(home, alone, tmp_path):
    """Two ranks are told to stop in mid-epoch; one process resumes, if it is told to and not by -resume auto."""
    command = [sys.executable, SCRIPT, *RUN, "-out_dir", tmp_path, *OFTEN]
    with started([command] * 2, cwd=home, environments=as_torchrun(2)) as ranks:
        wait_until(lambda: list(tmp_path.glob("*/checkpoint_previous.pth")))
        send([rank.pid for rank in ranks], signal.SIGTERM)
        results = [outcome(rank) for rank in ranks]
    assert [(result.returncode, result.stderr) for result in results] == [(143, "")] * 2
    assert results[0].stdout.count("stopped after") == 1
    assert "torchrun --nproc_per_node=2 " in results[0].stdout
    assert results[1].stdout == ""
    latest = run_folder(tmp_path) / "checkpoint_latest.pth"
    result = run_training(*RUN, "-out_dir", tmp_path, "-resume", "auto", cwd=home)
    assert_refused(result, "was trained by 2 ranks, not 1, and draws depend on that", f"-resume {latest}")
    result = run_training(*RUN, "-out_dir", tmp_path, "-resume", latest, cwd=home)
    assert (result.returncode, result.stderr) == (0, "")
    assert "ranks 2 → 1" in result.stdout
    assert_close_run(run_folder(tmp_path), alone)
    (resumed,) = json.loads((latest.parent / "config.json").read_text())["resumed"]
    assert resumed["changed"]["ranks"] == [2, 1]


def two_hosts(end_point: str, *options: str | Path) -> list[list[str | Path]]:
    """Two torchruns with a rank each that meet by c10d, as on two machines."""
    return [[*torchrun("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", end_point), *options]] * 2


@pytest.mark.long
def test_two_hosts(home, alone, tmp_path):
    with started(two_hosts(f"--rdzv_endpoint=127.0.0.1:{free_port()}", "-out_dir", tmp_path), cwd=home) as hosts:
        results = [outcome(host) for host in hosts]
    assert [result.returncode for result in results] == [0, 0], results
    assert sum(result.stdout.count("done: test accuracy best") for result in results) == 1
    assert_close_run(run_folder(tmp_path), alone)


@pytest.mark.long
@pytest.mark.slow
def test_two_hosts_stopped_and_resumed(home, alone, tmp_path):
    """One of them is told to stop; the command that is printed, on both, resumes."""
    end_point = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    with started(two_hosts(end_point, "-out_dir", tmp_path, *OFTEN), cwd=home) as hosts:
        wait_until(lambda: list(tmp_path.glob("*/checkpoint_previous.pth")))
        send([hosts[0].pid], signal.SIGTERM)
        results = [outcome(process) for process in hosts]
    assert all(result.returncode for result in results)
    (said,) = [result.stdout for result in results if "stopped after" in result.stdout]
    command, _, note = said.splitlines()[-1].partition("  # ")
    assert note == "on each of the 2 nodes"
    launcher, *words = shlex.split(command)
    assert (launcher, words[:3]) == ("torchrun", ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d"])
    assert re.fullmatch(r"--rdzv_endpoint=\S+:29400", words[3])
    words[3] = end_point  # the port of torchrun may be taken on this machine
    with started([[sys.executable, "-m", "torch.distributed.run", *words]] * 2, cwd=home) as hosts:
        results = [outcome(process) for process in hosts]
    assert [result.returncode for result in results] == [0, 0], results
    assert_close_run(run_folder(tmp_path), alone)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_rank_that_dies_ends_the_run(home, dies, tmp_path):
    command = [*torchrun("--nproc_per_node=2", f"--master_port={free_port()}"), "-epochs", "500", "-out_dir", tmp_path]
    with started([command], cwd=home) as (launcher,):
        wait_until(lambda: list(tmp_path.glob("*/metrics.jsonl")))
        ranks = [pid_of(launcher, rank) for rank in range(2)]
        send([ranks[dies]], signal.SIGKILL)
        result = outcome(launcher, timeout=60)
        assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert result.returncode == 1
    (said,) = lines_of_ours(result)
    assert "error: another rank has died or cannot be reached" in said


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run(home, tmp_path):
    command = [sys.executable, SCRIPT, *RUN, "-epochs", "500", "-out_dir", tmp_path]
    # on a loaded machine a rank may come seconds after the other
    with started([command] * 2, cwd=home, environments=as_torchrun(2, RANK_TIMEOUT="15")) as ranks:
        wait_until(lambda: list(tmp_path.glob("*/metrics.jsonl")) or any(rank.poll() is not None for rank in ranks))
        assert [rank.poll() for rank in ranks] == [None, None]
        send([ranks[1].pid], signal.SIGSTOP)
        result = outcome(ranks[0], timeout=60)
    assert result.returncode == 2
    (said,) = lines_of_ours(result)
    assert "error: another rank has died or cannot be reached" in said
    assert "-resume auto" in said


@pytest.mark.slow
@pytest.mark.parametrize("meeting", [True, False])
def test_ranks_end_when_their_launcher_dies(home, meeting, tmp_path):
    """Nobody would stop them: while they train, and while one still waits for another to come."""
    command = [*torchrun("--nproc_per_node=2", f"--master_port={free_port()}"), "-epochs", "500", "-out_dir", tmp_path]
    with started([command], cwd=home) as (launcher,):
        wait_until(lambda: pid_of(launcher, 0) and pid_of(launcher, 1))
        ranks = [pid_of(launcher, rank) for rank in range(2)]
        if meeting:
            send([ranks[1]], signal.SIGSTOP)
            wait_until(lambda: has_a_socket(ranks[0]))
        else:
            wait_until(lambda: list(tmp_path.glob("*/metrics.jsonl")))
        send([launcher.pid], signal.SIGKILL)
        if meeting:
            send([ranks[1]], signal.SIGKILL)
        result = outcome(launcher, timeout=60)  # until the last rank has closed what it inherited
    assert result.stderr.startswith("train_BPTT.py: error: the torchrun that started this rank has died")
    assert result.stderr.count("\n") == 1, result.stderr


def has_a_socket(pid: int) -> bool:
    """Whether a process has met the store of its ranks, or is about to."""
    with suppress(OSError):
        return any(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


GUARDED = """
import sys, time
from utils import guard
guard.LOOK, guard.GRACE = 0.1, 0.5
sys.argv = ["train_BPTT.py"]
watch = guard.Guard(1, speaks=False, limit=0.0)
watch.start()
with watch.waiting():
    for _ in range(int(sys.stdin.read())):
        with watch.waiting():
            time.sleep(0.2)
    time.sleep(60)
"""


def test_a_wait_that_never_returns_ends_with_stacks_and_a_line():
    started_at = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", GUARDED], input="8", cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert time.monotonic() - started_at > 8 * 0.2 + 0.5  # waits that return one after the other are none
    assert result.returncode == 2
    *stacks, said = result.stderr.splitlines()
    assert said.startswith("train_BPTT.py: error: rank 1 has waited 1 s for the other ranks in a call that does not")
    assert any('File "<string>", line 12 in <module>' in line for line in stacks), result.stderr


@pytest.mark.slow
def test_one_rank_says_what_all_would(home):
    command = [warm_python(), SCRIPT, *RUN, "-b", "1"]
    with started([command] * 2, cwd=home, environments=as_torchrun(2)) as ranks:
        results = [outcome(rank) for rank in ranks]
    assert [result.returncode for result in results] == [2, 2]
    (said,) = "".join(result.stderr for result in results).splitlines()
    assert "fewer than the 2 ranks" in said
