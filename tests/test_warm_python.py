"""The python of tests that start it often does what python does."""

import signal
import subprocess
import sys

import pytest

from tests.warm_python import warm_python

SAYS = "import os, sys; print(sys.argv, sys.path[:2], os.getcwd(), os.environ.get('X'), __name__); print(input())"


def ended(python, words, folder):
    environment = {"X": "x y", "PYTHONPATH": "/of the user"}
    done = subprocess.run([python, *words], cwd=folder, env=environment, input="in\n", capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "words",
    [
        ["-c", SAYS, "an option"],
        ["script.py", "-x"],
        ["-m", "script", "-x"],
        ["-P", "-m", "timeit", "-n1", "-r1", "import sys; print(sys.path[:1]); sys.exit(3)"],
        ["-c", "raise SystemExit('said')"],
        ["-c", "raise ValueError(1)"],
    ],
    ids=" ".join,
)
def test_it_does_what_python_does(tmp_path, words):
    (tmp_path / "script.py").write_text(SAYS)
    assert ended(warm_python(), words, tmp_path) == ended(sys.executable, words, tmp_path)


@pytest.mark.parametrize("words", [["none.py"], ["-P", "-m", "script"]], ids=" ".join)
def test_what_is_not_there_fails(tmp_path, words):
    (tmp_path / "script.py").write_text(SAYS)
    code, said, error = ended(warm_python(), words, tmp_path)
    assert (code, said) == (1, "")
    assert words[-1] in error[0]


def test_a_signal_that_ends_it_is_its_exit_code():
    kills = ["-c", "import os; os.kill(os.getpid(), 9)"]
    assert subprocess.run([warm_python(), *kills]).returncode == 128 + signal.SIGKILL
