"""What shows only in long runs, or in several at once: memory, file handles, leftovers, and who writes where."""

import json
import multiprocessing
import os
import signal
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data.frames import cached_frames
from data.scratch import build_aside, scratch_folder
from tests.fixtures_images import write_cifar10
from tests.helpers import (
    SCRIPT,
    TIMING,
    assert_same,
    descendants,
    fork_server,
    outcome,
    rows_of,
    run_training,
    started,
)

# draws curves.png after the first epoch, not after some seconds: what drawing opens is open before the run is watched
DRAWN_AT_ONCE = f"""
import runpy, sys
from utils import run_dir
run_dir.FIRST_DRAWING = 0
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RUN = "-dataset cifar10 -model snn5_noAP -T 2 -b 20 -lr 0.005 -no_download -no_amp -device cpu".split()  # noqa: SIM905
MIB = 2**20
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("long_runs")
    write_cifar10(home / "data_dir", per_batch=4, test=4)
    return home


# -- one long run


class Held(NamedTuple):
    """What a process holds at the end of an epoch."""

    memory: int  # resident, in bytes
    files: int
    threads: int


def held_by(pid: int) -> Held:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    return Held(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(process / "fd")), len(os.listdir(process / "task")))


def watch_run(home: Path, *options: str | int) -> list[Held]:
    """What a run holds at the end of each of its epochs."""
    out_dir = home / "_".join(map(str, options))
    seen: list[Held] = []

    def all_seen() -> bool:
        rows = sum(path.read_bytes().count(b"\n") for path in out_dir.glob("*/metrics.jsonl"))
        while len(seen) < rows:
            seen.append(held_by(descendants(fork_server().pid)[0]))
        return rows == epochs - 1

    epochs = int(options[options.index("-epochs") + 1])
    script = home / "drawn_at_once.py"
    script.write_text(DRAWN_AT_ONCE)
    how = {"kill_when": all_seen, "kill_with": 0, "timeout": 900, "script": script}
    result = run_training(*RUN, "-out_dir", out_dir, *options, cwd=home, **how)
    assert result.returncode == 0, result.stderr
    return seen


@pytest.mark.parametrize(
    "epochs",
    [
        pytest.param(24, id="24 epochs", marks=pytest.mark.slow),
        pytest.param(200, id="200 epochs", marks=[pytest.mark.long, pytest.mark.slow]),
    ],
)
def test_memory_and_handles_stay_flat(home, epochs):
    """From the second third of the run to its last sixth; the allocator takes some MiB in steps, a leak adds up."""
    seen = watch_run(home, "-epochs", epochs, "-save_every", "0.00001")
    warm, last = seen[epochs // 3 : epochs // 2], seen[-(epochs // 6) :]
    growth = statistics.median(held.memory for held in last) - statistics.median(held.memory for held in warm)
    print(f"{epochs} epochs: memory grew by {growth / MIB:.1f} MiB after warm-up, of {last[-1].memory / MIB:.0f} MiB; "
          f"{last[-1].files} files open, {last[-1].threads} threads")  # fmt: skip
    assert growth < 12 * MIB
    for held in ("files", "threads"):  # some files are open for a moment
        assert min(getattr(moment, held) for moment in last) <= min(getattr(moment, held) for moment in warm)


# -- what killed processes leave behind


def kill_yourself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def build_and_die(target: Path) -> None:
    with build_aside(target) as building:
        building.mkdir()
        (building / "half").write_bytes(bytes(1000))
        kill_yourself()


def unpack_and_die(folder: Path) -> None:
    with scratch_folder(folder) as aside:  # as a download or an archive is
        (aside / "half").write_bytes(bytes(1000))
        kill_yourself()


@pytest.mark.parametrize("work", [build_and_die, unpack_and_die])
def test_leftovers_of_a_killed_process_go_at_the_next_start(tmp_path, work):
    folder = tmp_path / "data"
    for _ in range(2):
        process = fork.Process(target=work, args=(folder / "frames" if work is build_and_die else folder,))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert len(list(folder.rglob("half"))) == 1  # the second has removed what the first left
    (folder / "keep").mkdir()
    with scratch_folder(folder):
        assert not list(folder.rglob("half"))
    assert [path.name for path in folder.iterdir()] == ["keep"]


def test_a_living_process_keeps_what_it_makes(tmp_path):
    with scratch_folder(tmp_path) as mine:
        process = fork.Process(target=unpack_and_die, args=(tmp_path,))
        process.start()
        process.join(60)
        assert mine.is_dir()
        with scratch_folder(tmp_path):
            assert mine.is_dir()
    assert not list(tmp_path.iterdir())


def test_torn_files_of_a_killed_run_go_at_the_next_start(home):
    run_training(*RUN, "-epochs", 1, "-name", "torn", cwd=home)
    folder = home / "logs" / "torn"
    (folder / "checkpoint_max.pth.tmp").write_bytes(b"half")
    result = run_training(*RUN, "-epochs", 2, "-name", "torn", "-resume", "auto", cwd=home)
    assert result.returncode == 0, result.stderr
    assert not list(folder.glob("*.tmp"))


# -- several at once


def number_in(file: Path) -> np.ndarray:
    return np.full((2, 2, 64, 64), int(file.read_text()), dtype=np.uint16)


def test_caches_built_by_several_processes_end_whole(tmp_path):
    """Six builders at once, two of which are killed in the middle: the others' cache is whole and alone."""
    for n in range(8):
        (tmp_path / f"{n}.aedat").write_text(str(n))
    files = sorted(tmp_path.glob("*.aedat"))
    barrier, answers = fork.Barrier(6), fork.Queue()

    def build(dies: bool) -> None:
        def read(file: Path) -> np.ndarray:
            if file == files[0]:
                barrier.wait(60)
            if dies and file == files[4]:
                kill_yourself()
            return number_in(file)

        load = cached_frames(tmp_path / "cache", files, read, T=2, size=64, dtype=np.uint16)
        answers.put([int(load(n).max()) for n in range(len(files))])

    builders = [fork.Process(target=build, args=(number < 2,)) for number in range(6)]
    for builder in builders:
        builder.start()
    for _ in range(4):
        assert answers.get(timeout=60) == list(range(8))
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [-signal.SIGKILL] * 2 + [0] * 4
    with scratch_folder(tmp_path / "cache"):
        pass
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.slow
def test_two_runs_of_one_name_do_not_mix(home):
    """Started at the same moment, one with processes that load its data: a folder each, and both are the same run."""
    out_dir = home / "at_once"
    options = ["-cutupmix_auto", "-epochs", "2", "-out_dir", out_dir, "-name", "run"]
    command = [sys.executable, SCRIPT, *RUN, *options]
    environments = [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"}]
    with started([command, [*command, "-j", "2"]], cwd=home, environments=environments) as runs:
        results = [outcome(run) for run in runs]
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 2
    one, other = sorted(out_dir.iterdir())
    assert (one.name, other.name) == ("run", "run-2")
    assert [row["epoch"] for row in rows_of(one)] == [0, 1]
    assert rows_of(one, without=TIMING) == rows_of(other, without=TIMING)
    latest = [torch.load(folder / "checkpoint_latest.pth", weights_only=True) for folder in (one, other)]
    assert_same(*latest)
    workers = [json.loads((folder / "config.json").read_text())["j"] for folder in (one, other)]
    assert sorted(map(str, workers)) == ["2", "None"]
