"""The training script as its users run it: a process of its own, judged by exit code, output and files.

Importing torch and its libraries takes seconds, and there are many cases: :func:`run_training` forks each run from
one process, tests/fork_server.py, that has imported them and run nothing.
``fresh=True`` starts a new interpreter, which is taken down too. No run outlives its ``timeout``, nor do the processes
that it starts.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "train_BPTT.py"
# one thread: the same sums in the same order on every machine, and nothing that a fork would lose
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
ENVIRONMENT.pop("TRITON_INTERPRET", None)  # the kernels' own tests set it
TIMEOUT = 300  # seconds
TIMING = ("seconds", "images_per_second", "peak_memory_gb")
FIELDS = (
    *("epoch", "lr", "train_loss", "train_acc", "test_loss", "test_acc", "test_loss_per_step", "test_acc_per_step"),
    *("best_test_acc", *TIMING),
)
SAVED = {"config.json", "metrics.jsonl", "curves.png", "tensorboard", ".lock"}
SAVED |= {"checkpoint_latest.pth", "checkpoint_max.pth"}


def device_of(backend: str) -> torch.device:
    """Where a back end computes: Triton on a GPU, and without one in its interpreter."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def run_training(
    *args: str | Path | float,
    cwd: Path,
    fresh: bool = False,
    limits: dict[int, int] | None = None,
    kill_when: Callable[[], bool] | None = None,
    kill_with: int = signal.SIGKILL,
    script: Path = SCRIPT,
    timeout: int = TIMEOUT,
) -> CompletedProcess:
    """Run ``train_BPTT.py``, or another ``script``, with ``args`` in ``cwd``.

    Args:
        fresh: in a new interpreter rather than a fork of one that has the libraries loaded.
        limits: resource limits of the process (``resource.RLIMIT_…`` → soft limit); forks only.
        kill_when: send the run the signal ``kill_with`` as soon as this says so; forks only.
        timeout: seconds after which the run is killed and the test fails.
    """
    argv = [str(script), *map(str, args)]
    if fresh:
        with started([[sys.executable, *argv]], cwd=cwd) as (process,):
            return outcome(process, timeout)
    server = fork_server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "stdout", Path(folder) / "stderr"
        out.touch(), err.touch()  # a run may be killed before it opens them
        request = {
            "argv": argv,
            "cwd": str(cwd),
            "out": str(out),
            "err": str(err),
            "limits": list((limits or {}).items()),
            "timeout": timeout,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        try:
            if kill_when is not None:
                wait_until(lambda: kill_when() or not Path(f"/proc/{pid}").exists(), timeout)
                send([pid], kill_with)  # unless it was faster
        except BaseException:
            send([pid], signal.SIGKILL)  # the server waits for it
            raise
        finally:
            code = server.stdout.readline().strip()
        assert code != "late", f"ended after {timeout} s: {' '.join(argv)}\n{err.read_text()}"
        returncode = int(code)
        return CompletedProcess(argv, returncode, out.read_text(), err.read_text())


@contextmanager
def started(
    commands: Sequence[Sequence[str | Path]], *, cwd: Path, environments: Sequence[Mapping[str, str]] = ()
) -> Iterator[list[subprocess.Popen]]:
    """Run commands side by side; at the end of the block nothing is left of them or of what they started.

    Where the test fails, each that is still there says in which lines its threads are.

    Args:
        environments: more variables for each.
    """
    processes = []
    try:
        for number, command in enumerate(commands):
            more = environments[number] if environments else {}
            process = subprocess.Popen(
                [str(word) for word in command], cwd=cwd, env={**ENVIRONMENT, **more}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            processes.append(process)
        yield processes
    except BaseException as error:
        for process in processes:
            if process.poll() is None:
                send([process.pid, *descendants(process.pid)], signal.SIGABRT)
                with suppress(subprocess.TimeoutExpired):
                    error.add_note(f"{shlex.join(process.args)} was in\n{process.communicate(timeout=10)[1]}")
        raise
    finally:
        send([pid for process in processes for pid in (process.pid, *descendants(process.pid))], signal.SIGKILL)
        for process in processes:
            process.communicate()


def outcome(process: subprocess.Popen, timeout: float = TIMEOUT) -> CompletedProcess:
    """What a process ended with, ``timeout`` seconds from now at the latest."""
    out, err = process.communicate(timeout=timeout)
    return CompletedProcess(process.args, process.returncode, out, err)


def as_torchrun(world: int, **more: str) -> list[dict[str, str]]:
    """The variables that torchrun gives to each rank."""
    meeting = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    meeting |= {"RANK_TIMEOUT": "200", **more}  # a rank that waits in vain says where, before the test ends it
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **meeting} for rank in range(world)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in listing.splitlines()[1:]]
    found = [pid]
    for parent in found:  # it grows
        found += [child for child, its_parent in rows if its_parent == parent]
    return found[1:]


def send(pids: Iterable[int], signum: int) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


def wait_until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Look until ``condition`` holds.

    Raises:
        TimeoutError: after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for never came")
        time.sleep(0.001)


@cache
def fork_server() -> subprocess.Popen:
    """The process that runs are forked from."""
    command = [sys.executable, str(ROOT / "tests" / "fork_server.py")]
    server = subprocess.Popen(command, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(server.terminate)
    return server


def run_folder(out_dir: Path) -> Path:
    """The one run in ``out_dir``."""
    (folder,) = out_dir.iterdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights_in(path: Path) -> dict[str, Tensor]:
    """The network of a checkpoint."""
    return torch.load(path, weights_only=True)["net"]


def assert_same(one: object, other: object) -> None:
    """Equal to the last bit: tensors, numbers, strings, and dicts and lists of them."""
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list):
        assert isinstance(other, list)
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def rows_of(folder: Path, *, without: tuple[str, ...] = ()) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl, without some of their fields."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in without} for row in rows]


def assert_refused(result: CompletedProcess, *parts: str, speaker: str = "train_BPTT.py: error: ") -> None:
    """Exit code 2 and one line on stderr that holds ``parts``, and begins with who says it."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(speaker)
    assert result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert part in result.stderr
