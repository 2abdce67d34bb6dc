"""A run that is killed anywhere, or told to stop, and resumed is the run never stopped: bit for bit, on the CPU."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.fixtures_images import write_cifar10
from tests.helpers import SCRIPT, TIMING, assert_refused, assert_same, outcome, rows_of, run_training, started
from utils.interrupt import Watch, resume_command

EPOCHS = 2
BATCHES = 5  # of 20 images
ALWAYS = "0.00001"  # minutes: a checkpoint after each batch
RUN = f"-dataset cifar10 -model snn5_noAP -T 2 -b 4 -T_max 5 -lr 0.05 -no_download -epochs {EPOCHS}".split()
KILLS = [
    pytest.param(4, id="4 kills", marks=pytest.mark.slow),
    pytest.param(30, id="30 kills", marks=[pytest.mark.slow, pytest.mark.long]),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("killed")
    write_cifar10(home / "data_dir", per_batch=4, test=8)
    return home


def train(home: Path, name: str, options: str = "", **how):
    args = [*RUN, "-name", name, *options.split()]
    return home / "logs" / name, run_training(*args, cwd=home, **how)


@pytest.fixture(scope="module")
def whole(home):
    """The folder of the run never stopped, and how long such a run takes, in seconds."""
    train(home, "warm_up")  # the first of all is slower
    started = time.monotonic()
    folder, result = train(home, "whole")
    assert result.returncode == 0, result.stderr
    train(home, "timed", f"-save_every {ALWAYS}")
    return folder, (time.monotonic() - started) / 2


def assert_same_run(one: Path, other: Path) -> None:
    assert rows_of(one, without=TIMING) == rows_of(other, without=TIMING)
    for name in ("checkpoint_latest.pth", "checkpoint_max.pth"):
        assert_same(torch.load(one / name, weights_only=True), torch.load(other / name, weights_only=True))
    assert not list(one.glob("*.tmp"))


def after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def inside_a_save(folder: Path, saves: int) -> Callable[[], bool]:
    """So many checkpoints have been begun, and the last of them is on its way to the disk."""
    inodes = [0]

    def is_writing() -> bool:
        try:
            status = (folder / "checkpoint_latest.pth.tmp").stat()
        except FileNotFoundError:
            return False
        if status.st_ino != inodes[-1]:  # the last one's belongs to the latest checkpoint by now
            inodes.append(status.st_ino)
        return len(inodes) > saves and status.st_size > 0

    return is_writing


@pytest.mark.parametrize("kills", KILLS)
def test_killed_anywhere(home, whole, kills):
    folder, seconds = whole
    moments = random.Random(kills)
    killed = died_inside = attempt = 0
    while killed < kills:
        attempt += 1
        name = f"killed_{kills}_{attempt}"
        run = home / "logs" / name
        # in a third of the cases for certain while a checkpoint is written
        moment = inside_a_save(run, moments.randint(1, 6)) if attempt % 3 == 0 else after(moments.uniform(0.1, seconds))
        _, result = train(home, name, f"-save_every {ALWAYS} -resume auto", kill_when=moment)
        assert result.returncode in (-signal.SIGKILL, 0), result.stderr
        killed += result.returncode < 0  # the moment may have come too late
        died_inside += bool(list(run.glob("*.pth.tmp")))
        left = {path.name for path in run.glob("checkpoint_*.pth")}
        _, result = train(home, name, f"-save_every {ALWAYS} -resume auto")
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        if not left and not run.joinpath("checkpoint_latest.pth").exists():
            run = home / "logs" / f"{name}-2"  # killed before there was a checkpoint to resume from
        assert_same_run(run, folder)
        shutil.rmtree(home / "logs" / name, ignore_errors=True)
    assert died_inside >= kills // 4
    print(f"{kills} kills survived, {died_inside} of them inside a save")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_told_to_stop(home, whole, signum, code):
    name = f"told_{code}"
    folder, result = train(
        home, name, f"-save_every {ALWAYS}", kill_when=inside_a_save(home / "logs" / name, 2), kill_with=signum
    )
    assert (result.returncode, result.stderr) == (code, "")
    *_, said, command = result.stdout.splitlines()
    epoch, step = map(int, re.match(r"stopped after (\d) of 5 batches of epoch (\d);", said).group(2, 1))
    state = torch.load(folder / "checkpoint_latest.pth", weights_only=True)
    assert (state["epoch"], state["step"]) == (epoch - 1, step)
    launcher, script, *argv = shlex.split(command)
    assert launcher.startswith("python")
    assert Path(script) == SCRIPT
    result = run_training(*argv, cwd=home)
    assert (result.returncode, result.stderr) == (0, "")
    assert_same_run(folder, whole[0])


def test_a_run_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with Watch(None) as watch:
            signal.raise_signal(signal.SIGHUP)
            assert watch.signum == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_a_scripts_background_is_saved_by_kill_int():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's & has it
    try:
        with Watch(None) as watch:
            signal.raise_signal(signal.SIGINT)
            assert watch.signum == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_command_that_resumes_on_the_machines_there_were():
    argv, latest = ["train_BPTT.py", "-b", "8", "-resume", "auto"], Path("logs/a run/checkpoint_latest.pth")
    script = "train_BPTT.py -b 8 -resume 'logs/a run/checkpoint_latest.pth'"
    nodes = {"LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "node1"}
    assert resume_command(argv, latest, 1, {}).endswith(f" {script}")
    assert resume_command(argv, latest, 4, nodes) == f"torchrun --nproc_per_node=4 {script}"
    assert resume_command(argv, latest, 8, nodes) == (
        "torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d --rdzv_endpoint=node1:29400 "
        f"{script}  # on each of the 2 nodes"
    )


def test_damaged_latest_falls_back_to_the_previous(home, whole):
    name = "damaged"
    folder, _ = train(home, name, f"-save_every {ALWAYS}", kill_when=inside_a_save(home / "logs" / name, 4))
    latest = folder / "checkpoint_latest.pth"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, in some weight
    latest.write_bytes(content)
    _, result = train(home, name, "-resume auto")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{latest.relative_to(home)} is damaged" in result.stdout
    assert_same_run(folder, whole[0])


def test_auto_starts_from_zero_and_ends_where_all_is_done(home, whole):
    folder, result = train(home, "auto", "-resume auto")
    assert (result.returncode, result.stderr) == (0, "")
    assert_same_run(folder, whole[0])
    _, result = train(home, "auto", "-resume auto")
    assert "nothing left to train" in result.stdout
    assert sorted(path.name for path in (home / "logs").glob("auto*")) == ["auto"]


def test_auto_leaves_a_run_of_other_settings_alone(home, whole):
    folder, _ = train(home, "other", "-weight_decay 0")
    _, result = train(home, "other", "-resume auto")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(rows_of(folder)) == EPOCHS
    assert_same_run(folder.with_name("other-2"), whole[0])


def test_another_batch_size_is_refused(home):
    name = "batches"
    folder, _ = train(home, name, f"-save_every {ALWAYS}", kill_when=inside_a_save(home / "logs" / name, 3))
    _, result = train(home, name, f"-b 5 -resume {folder / 'checkpoint_latest.pth'}")
    assert_refused(result, "was trained with -b 4, not 5")


def test_two_processes_never_write_to_one_folder(home):
    held = home / "logs" / "held"
    folder, _ = train(home, "held")
    script = f"import fcntl, time; f = open({str(held / '.lock')!r}, 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); "
    holder = subprocess.Popen(
        ["python3", "-c", script + "print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE, text=True
    )
    try:
        holder.stdout.readline()
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        _, result = train(home, "held", f"-epochs 3 -resume {folder / 'checkpoint_latest.pth'}")
        assert_refused(result, "belongs to a run that is still going")
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root writes everywhere")
def test_read_only_folder_leaves_the_last_checkpoint(home):
    name = "read_only"
    folder, _ = train(home, name, "-epochs 1")
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    as_anyone = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    folder.chmod(0o555)
    try:
        options = [*RUN, "-resume", folder / "checkpoint_latest.pth"]
        with started([[*as_anyone, sys.executable, SCRIPT, *options]], cwd=home) as (process,):
            result = outcome(process)
    finally:
        folder.chmod(0o755)
    assert_refused(result, f"cannot write to {folder}: Permission denied", "what was saved before is kept")
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


def test_weights_that_are_not_finite_are_not_saved_in_the_middle(home):
    name = "exploding"
    folder, result = train(home, name, f"-save_every {ALWAYS} -lr 1e38 -momentum 0.99")
    assert_refused(result, "not finite")
    for path in folder.glob("checkpoint_*.pth"):
        assert all(weight.isfinite().all() for weight in torch.load(path, weights_only=True)["net"].values())
    assert json.loads((folder / "config.json").read_text())["save_every"] == float(ALWAYS)
    assert os.listdir(folder)
