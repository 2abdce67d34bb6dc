"""CONTRIBUTING.md's worked examples, done as they say: in a copy of the tree, up to a trained network."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ENVIRONMENT, ROOT, TIMEOUT

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "logs", "data_dir", "evidence", "results", "build", "*.egg-info")
EXAMPLES = dict(
    re.findall(r"^## (Add a [\w ]+)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)
# what CI tells its own pytest is not for those that run in the copy
PLAIN = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(("PYTEST_ADDOPTS", "COV"))}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def apply_diff(tree: Path, diff: str) -> None:
    """Do what a diff block says: its first line names the file, in which the old lines stand exactly once."""
    first, *lines = diff.splitlines()
    path = tree / first.removeprefix("# ")
    old = "\n".join(line[1:] for line in lines if line[0] in " -")
    new = "\n".join(line[1:] for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} holds {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def run(command: str, tree: Path) -> None:
    program, *words = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env={**PLAIN, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_each_of_the_four_is_there():
    assert list(EXAMPLES) == ["Add a neuron", "Add a network", "Add a data set", "Add a recipe"]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_example_works(tmp_path, example):
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    touched, commands = [], []
    for language, content in BLOCK.findall(EXAMPLES[example]):
        file = content.splitlines()[0].removeprefix("# ")
        if language == "bash":
            commands += content.splitlines()
        elif language == "diff":
            apply_diff(tree, content)
            touched.append(file)
        else:
            assert not (tree / file).exists(), f"{file} is there already"
            (tree / file).write_text(content.split("\n", 1)[1])
            touched.append(file)
    modules = [file for file in touched if file.endswith(".py")]
    if modules:
        run(f"python -m ruff check {shlex.join(modules)}", tree)
        run(f"python -m ruff format --check {shlex.join(modules)}", tree)
    assert commands
    for command in commands:
        run(command, tree)
    if example != "Add a recipe":  # its smoke run cleans up behind itself
        (metrics,) = tree.glob("logs/try/*/metrics.jsonl")
        assert len(metrics.read_text().splitlines()) == 1
