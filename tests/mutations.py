"""Faults, one at a time: each, put into a copy of the project, must turn the test that is named red.

python -m tests.mutations            # all, after the same tests without a fault
python -m tests.mutations clif       # those whose names hold this word
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.faults import MUTATIONS, Mutation
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "logs", "data_dir", "evidence", "build", "*.egg-info")
RED = 1  # pytest's exit code where tests failed; others say that they could not be run
TIMEOUT = 300  # seconds


def copy_of_the_project(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT, folder / "project", ignore=LEFT_OUT))


def run_tests(tree: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Pytest's exit code and output, in a tree of its own."""
    others = ("PYTHONPATH", "PYTEST_ADDOPTS")  # of who runs this, not for the tree's own tests
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environment |= {
        "XDG_CACHE_HOME": str(tree.parent / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [warm_python(), "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not long", *tests],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout + done.stderr


def words_of(test: str) -> list[str]:
    """Pytest's arguments: node ids, then -k and all that follows as one expression."""
    ids, _, expression = test.partition(" -k ")
    return [*ids.split(), *(["-k", expression] if expression else [])]


def apply(mutation: Mutation, tree: Path) -> str:
    """Put the fault into a tree; returns the file's text before.

    Raises:
        ValueError: if the old text does not stand in the file exactly once.
    """
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} holds {mutation.old!r} {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new))
    return text


def check(mutation: Mutation, tree: Path) -> tuple[bool, str]:
    """Whether the named test is green without the fault and red with it, and what was seen."""
    code, output = run_tests(tree, words_of(mutation.test))
    if code:
        return False, f"not green without the fault (pytest says {code})\n{output}"
    before = apply(mutation, tree)
    try:
        code, output = run_tests(tree, words_of(mutation.test))
    finally:
        (tree / mutation.file).write_text(before)
    if code == RED:
        return True, next((line for line in output.splitlines() if line.startswith("FAILED")), "")
    return False, f"SURVIVED (pytest says {code})\n{output if code else ''}"


def main(word: str = "") -> int:
    """Check every mutation whose name holds ``word``; returns how many were not caught."""
    chosen = [mutation for mutation in MUTATIONS if word in mutation.name]
    caught = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_the_project(Path(folder))
        for mutation in chosen:
            started = time.perf_counter()
            is_caught, seen = check(mutation, tree)
            caught += is_caught
            print(f"{'caught' if is_caught else 'NOT'}  {mutation.name}  ({time.perf_counter() - started:.0f} s)\n"
                  f"        {seen}", flush=True)  # fmt: skip
    print(f"{caught} of {len(chosen)} caught")
    return len(chosen) - caught


if __name__ == "__main__":
    sys.exit(min(1, main(*sys.argv[1:2])))
