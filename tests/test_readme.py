"""The README and the guides stay true: their commands parse, the options are the parser's, CI finds its commands."""

import re
import shlex
from pathlib import Path

import pytest

from data import DATASETS
from neurons import NEURONS
from reproduce import read_options
from reproduction.recipe import RECIPES, load_recipes
from settings.command_line import training_parser
from settings.inference import inference_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
LINES = [line for text in (README, *GUIDES.values()) for line in text.splitlines()]
COMMANDS = [line.split(" #")[0].strip() for line in LINES if re.match(r"python \w+\.py ", line)]


def parser_of(script):
    return training_parser() if script == "train_BPTT.py" else inference_parser()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_accepted(command):
    _, script, *words = shlex.split(command)
    if script == "reproduce.py":
        args = read_options(words)
        assert getattr(args, "recipe", "all") in (*load_recipes(RECIPES), "all", [])
    else:
        parser_of(script).parse_args(words)


def test_the_six_commands_are_there():
    assert sum(command.startswith("python train_BPTT.py -data_dir ./data_dir") for command in COMMANDS) == 6


def test_every_option_is_in_the_table():
    table = GUIDES["options.md"]
    for action in parser_of("train_BPTT.py")._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}`" in table, option


@pytest.mark.parametrize("registry", [DATASETS, NEURONS], ids=["data sets", "neurons"])
def test_every_name_is_there(registry):
    for name in registry:
        assert f"`{name}`" in GUIDES["options.md"] + GUIDES["data_sets.md"]


@pytest.mark.parametrize("name", ["main", "tests"])
def test_ci_finds_the_command(name):
    block = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", README)
    assert block
    assert block[1].startswith("python3 -m venv .venv && ")
