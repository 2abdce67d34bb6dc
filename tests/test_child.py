"""What ``reproduce.py run`` starts: it has the signals that come meanwhile, and no other starts the same."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from reproduction import child, runner
from reproduction.child import StoppedError
from tests.fixtures_reproduce import main, results_in
from tests.helpers import ENVIRONMENT, ROOT

SLEEPS = ["-m", "timeit", "-n1", "-r1", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    ("sent", "had"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)]
)
def test_a_signal_while_a_command_starts_does_not_leave_it_alone(monkeypatch, sent, had):
    """Ctrl-C in that moment ended reproduce.py, and the training went on without it."""
    begun = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            begun.append(self)
            os.kill(os.getpid(), sent)

        def send_signal(self, signum):
            signals.append(signum)
            super().send_signal(signum)

    signals = []
    monkeypatch.setattr(child.subprocess, "Popen", Interrupted)
    before = signal.signal(sent, signal.default_int_handler)  # nohup and pytest's workers ignore some
    try:
        with pytest.raises(StoppedError, match=sent.name):
            child.call(SLEEPS)
        assert signals == [had]
    finally:
        signal.signal(sent, before)
        (process,) = begun
        process.kill()
        process.wait()


@contextmanager
def held_by_another(job, results):
    """Another process has claimed a run for the length of the block."""
    (said, says), (waits_for, wakes) = os.pipe(), os.pipe()
    if not (pid := os.fork()):
        os.close(wakes)
        with runner.claimed(job, results) as is_ours:
            os.write(says, b"yes" if is_ours else b"no")
            os.read(waits_for, 1)
        os._exit(0)
    assert os.read(said, 3) == b"yes"
    yield
    os.close(wakes)
    os.waitpid(pid, 0)
    for end in (said, says, waits_for):
        os.close(end)


def test_what_another_runs_at_the_moment_is_left_to_it(small, capsys, monkeypatch):
    """Two that were started at once trained each run twice, in two folders."""
    asked = []
    monkeypatch.setattr(runner, "call", lambda words: (asked.append(words), (3, "no"))[1])
    (small / "logs/reproduce").mkdir(parents=True)
    results, runs = results_in(small)
    with held_by_another(runner.Job(runs["small/lif"], 1), results):
        assert main("run", "small", "--only", "lif") == 1
        assert asked == []
        assert "failed: small/lif seed 1: another reproduce.py is at it" in capsys.readouterr().err
        main("run", "small", "--only", "lif", "--seeds", "2")
        assert len(asked) == 1  # another seed is another run
    main("run", "small", "--only", "lif")
    assert len(asked) == 2


def test_where_nothing_can_be_locked_everybody_may_run(small):
    results, runs = results_in(small, runs_dir="none")
    with runner.claimed(runner.Job(runs["small/lif"], 1), results) as is_ours:
        assert is_ours


@pytest.mark.parametrize("script", ["train_BPTT.py", "inference.py", "reproduce.py"])
def test_ctrl_c_while_libraries_are_imported_is_one_line(script, tmp_path):
    """The first import of each script sees to it: the others take seconds."""
    lines = (ROOT / script).read_text().splitlines()
    first, second = [line for line in lines if line.startswith(("import ", "from "))][:2]
    assert (first, second.split("  #")[0]) == ("from __future__ import annotations", "import utils.early")
    (tmp_path / script).write_text(f"{second}\nraise KeyboardInterrupt\n")
    done = subprocess.run([sys.executable, tmp_path / script], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, f"{script}: stopped by SIGINT\n")
