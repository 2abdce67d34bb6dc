"""The README and the guides stay true: the options are the parser's, the names the registries', CI finds its commands.

What their blocks say is run by tests/test_snippets.py.
"""

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from data import DATASETS
from neurons import NEURONS
from settings.command_line import training_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}


def test_the_six_commands_are_there():
    assert len(re.findall(r"^python train_BPTT\.py -data_dir \./data_dir ", README, re.MULTILINE)) == 6


def test_every_option_is_in_the_table():
    table = GUIDES["options.md"]
    for action in training_parser()._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}`" in table, option


@pytest.mark.parametrize("registry", [DATASETS, NEURONS], ids=["data sets", "neurons"])
def test_every_name_is_there(registry):
    for name in registry:
        assert f"`{name}`" in GUIDES["options.md"] + GUIDES["data_sets.md"]


@pytest.mark.skipif(not (ROOT / ".git").exists() or which("git") is None, reason="not a git checkout")
def test_what_its_commands_leave_is_ignored():
    left = re.findall(r"(?:-save_lif|-export) (\S+)", README)
    assert left
    left += ["logs/digits_CLIF", "data_dir/cifar-10-batches-py", "inference/digits_LIF", ".venv/bin"]
    done = subprocess.run(["git", "check-ignore", *left], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == left, done.stderr


@pytest.mark.parametrize("name", ["main", "tests"])
def test_ci_finds_the_command(name):
    block = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", README)
    assert block
    assert block[1].startswith("python3 -m venv .venv && ")
