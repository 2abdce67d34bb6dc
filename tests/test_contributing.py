"""CONTRIBUTING.md's worked examples, done as they say: in a copy of the tree, up to a trained network."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ENVIRONMENT, ROOT, TIMEOUT
from tests.warm_python import warm_python

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "logs", "data_dir", "evidence", "results", "build", "*.egg-info")
EXAMPLES = dict(
    re.findall(r"^## (Add an? [\w ]+)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)
# what CI tells its own pytest is not for those that run in the copy
PLAIN = {name: value for name, value in ENVIRONMENT.items() if name != "PYTEST_ADDOPTS"}
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


# what each example adds, as it is found in -h, config.json, the run's name and docs/options.md; its files, data_sets.md
# aside
ADDED = {
    "Add a neuron": (" IF,", ("neuron", "IF"), "_IF_", "`IF`", 2),
    "Add a network": (" spiking_lenet", ("model", "spiking_lenet"), "_spiking_lenet_", "`spiking_lenet`", 2),
    "Add a data set": (" digits_parity", ("dataset", "digits_parity"), "digits_parity_", "`digits_parity`", 2),
    "Add an option of the loop": ("-clip_grad CLIP_GRAD", ("clip_grad", 0.5), "_clip0.5_", "`-clip_grad`", 2),
    "Add an option of a neuron": ("-v_threshold V_THRESHOLD", ("v_threshold", 0.8), "_vth0.8_", "`-v_threshold`", 4),
}


def run(command: str, tree: Path) -> str:
    program, *words = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [warm_python(), *words],
        cwd=tree,
        env={**PLAIN, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_each_of_them_is_there():
    assert list(EXAMPLES) == [*ADDED, "Add a recipe"]


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
    if example == "Add a recipe":  # its smoke run cleans up behind itself
        return
    (metrics,) = tree.glob("logs/try/*/metrics.jsonl")
    assert len(metrics.read_text().splitlines()) == 1
    in_help, (name, value), in_name, in_page, most_files = ADDED[example]
    assert len({file for file in touched if not file.startswith("tests/")}) <= most_files
    assert in_help in re.sub(r"\s+", " ", run("python train_BPTT.py -h", tree))
    assert json.loads((metrics.parent / "config.json").read_text())[name] == value
    assert in_name in metrics.parent.name
    assert in_page in (tree / "docs" / "options.md").read_text()
    assert in_page not in (ROOT / "docs" / "options.md").read_text()
