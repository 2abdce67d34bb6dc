"""A command that is asked to end, or whose disk is full, ends in one line and leaves nothing half-written.

Training, which saves first and resumes, has its own tests: tests/test_killed.py and tests/test_bad_input.py.
"""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import reproduce
from tests.helpers import ROOT, SCRIPT, assert_refused, run_training
from utils.exit import one_line_errors
from utils.output import written_aside

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
INFER = ROOT / "inference.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch: its folder."""
    folder = tmp_path_factory.mktemp("ended")
    settings = ("-dataset", "digits", "-model", "snn5_noAP", "-T", 2, "-b", 32, "-epochs", 1, "-train_fraction", 0.05)
    assert run_training(*settings, "-name", "run", cwd=folder).returncode == 0
    return folder / "logs/run"


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_an_evaluation_that_is_asked_to_end_leaves_nothing(trained, signum):
    before = files_below(trained)
    options = ("-resume", trained / "checkpoint_max.pth", "-calibrate", "-calibrate_samples", 1000)
    at_work = lambda: any(trained.glob(".checkpoint_max*"))  # noqa: E731 - the folder that results are put together in
    ended = run_training(*options, cwd=trained, script=INFER, kill_when=at_work, kill_with=signum)
    assert ended.returncode == SIGNALS[signum]
    assert ended.stderr.splitlines()[-1] == f"inference.py: stopped by {signum.name}; what was saved before is kept"
    assert "Traceback" not in ended.stderr
    assert files_below(trained) == before


@pytest.mark.parametrize(
    ("options", "bytes_per_file", "named"),
    [
        (("-sweep", "-v_resets", "soft", "-profile"), 3_000, "inference/checkpoint_max"),
        (("-throughput",), 500, "inference/checkpoint_max"),
        (("-neuron", "LIF", "-v_reset", -0.06, "-export", "there/net.nir"), 50_000, "net.nir"),
        (("-neuron", "LIF", "-v_reset", -0.06, "-save_lif", "there/lif.pth"), 50_000, "lif.pth"),
        (("-recalibrate_bn", "-save_bn", "there/bn.pth"), 50_000, "bn.pth"),
    ],
)
def test_an_evaluation_on_a_full_disk_leaves_no_part_of_a_file(trained, tmp_path, options, bytes_per_file, named):
    before = files_below(trained)
    where = () if "inference" in named else ("-out_dir", tmp_path / "out")
    limits = {resource.RLIMIT_FSIZE: bytes_per_file}
    checkpoint = trained / "checkpoint_max.pth"
    refused = run_training("-resume", checkpoint, *options, *where, cwd=tmp_path, script=INFER, limits=limits)
    assert_refused(refused, named, "what was saved before is kept", speaker="inference.py: error: ")
    assert files_below(trained) == before
    assert not list(tmp_path.glob("there/*"))


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_any_command_takes_away_what_it_has_half_written(tmp_path, capsys, signum):
    handlers = {each: signal.getsignal(each) for each in SIGNALS}

    def write() -> None:
        with one_line_errors("command"), written_aside(tmp_path / "out") as folder:
            (folder / "half.json").write_text("{")
            os.kill(os.getpid(), signum)

    with pytest.raises(SystemExit) as ended:
        write()
    assert ended.value.code == SIGNALS[signum]
    assert capsys.readouterr().err == f"command: stopped by {signum.name}; what was saved before is kept\n"
    assert not list(tmp_path.iterdir())
    assert {each: signal.getsignal(each) for each in SIGNALS} == handlers


def test_a_second_signal_ends_a_command_at_once():
    child = os.fork()
    if not child:
        with one_line_errors("command"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_fork_of_a_command_ends_without_a_word(capfd):
    with one_line_errors("command"):
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert capfd.readouterr().err == ""


def test_signals_are_left_alone_where_they_are_ignored_where_ranks_wait_and_in_other_threads():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with one_line_errors("command"):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    with one_line_errors("command", alone=False):
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    worked = []

    def elsewhere() -> None:
        with one_line_errors("command"):
            worked.append(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert worked == [True]


def test_a_disk_that_is_full_is_one_line_and_other_failures_are_not(capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors("command"):
        raise OSError(errno.ENOSPC, "No space left on device", "rows.csv")
    assert capsys.readouterr().err == (
        "command: error: cannot write to rows.csv: No space left on device; what was saved before is kept\n"
    )
    with pytest.raises(OSError, match="Input/output"), one_line_errors("command"):
        raise OSError(errno.EIO, "Input/output error")


def test_no_place_for_temporary_files_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/none"])
    with pytest.raises(SystemExit, match="2"), one_line_errors("command"):
        tempfile.mkdtemp()
    said = capsys.readouterr().err
    assert said.startswith("command: error: No usable temporary directory found in ['/none']; make room, or set TMPDIR")
    with pytest.raises(FileNotFoundError), one_line_errors("command"):
        Path("/none/of/ours").read_text()


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG])
def test_a_place_that_the_system_refuses_is_one_line(capsys, refusal):
    with pytest.raises(SystemExit, match="2"), one_line_errors("command"):
        raise OSError(refusal, os.strerror(refusal), "runs/x")
    assert capsys.readouterr().err == f"command: error: cannot use runs/x: {os.strerror(refusal)}\n"
    with pytest.raises(OSError, match="no name"), one_line_errors("command"):
        raise OSError(refusal, "no name")


def test_the_lists_of_runs_that_the_system_refuses(capsys):
    for words in (["compare", 300 * "a"], ["list", "--runs_dir", 300 * "a"]):
        with pytest.raises(SystemExit, match="2"), one_line_errors("reproduce.py"):
            reproduce.main(words)
        assert capsys.readouterr().err.startswith("reproduce.py: error: cannot use aaaa")


def test_a_letter_that_the_terminal_has_not_does_not_end_a_command():
    code = "from utils.exit import one_line_errors\nwith one_line_errors('command'): print('81 ± 2 %')"
    surroundings = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=surroundings, capture_output=True, check=True)
    assert ended.stdout == b"81 \\xb1 2 %\n"


@pytest.mark.slow
@pytest.mark.parametrize("closed", [pytest.param("2>&-", marks=pytest.mark.long), "<&- >&- 2>&-"])
def test_a_command_without_standard_streams_does_its_work(tmp_path, closed):
    options = "-dataset digits -model mlp3 -T 2 -b 64 -epochs 1 -train_fraction 0.1 -device cpu -name run"
    code = subprocess.run(f"exec {sys.executable} {SCRIPT} {options} {closed}", shell=True, cwd=tmp_path).returncode
    assert code == 0
    assert len((tmp_path / "logs/run/metrics.jsonl").read_text().splitlines()) == 1


def test_standard_streams_that_are_closed_lead_nowhere():
    check = (
        "import os, sys\n"
        "from utils.exit import one_line_errors\n"
        "with one_line_errors('command'):\n"
        "    print('lost', file=sys.stderr), print('lost'), sys.stderr.isatty()\n"
        "    sys.exit(0 if os.open('/dev/null', os.O_RDONLY) > 2 else 1)\n"
    )
    assert subprocess.run(f'exec {sys.executable} -c "{check}" <&- >&- 2>&-', shell=True, cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_a_training_whose_log_is_full_leaves_no_empty_run(tmp_path):
    options = "-dataset digits -model mlp3 -T 2 -b 64 -epochs 1 -train_fraction 0.1 -device cpu -name run"
    command = f"exec {sys.executable} {SCRIPT} {options} >/dev/full"
    ended = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "logs/run").exists()
