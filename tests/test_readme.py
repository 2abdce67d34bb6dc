"""The README stays true: its commands parse, its options are the parser's, its two commands are where CI looks."""

import re
import shlex
from pathlib import Path

import pytest

from data import DATASETS
from models import BATCH_NORMS, MODELS
from neurons import BACKENDS, NEURONS, SURROGATES
from utils.cli import training_parser
from utils.inference_cli import inference_parser

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if re.match(r"python \w+\.py ", line)]


def parser_of(script):
    if script == "train_BPTT.py":
        return training_parser(
            datasets=DATASETS,
            models=MODELS,
            neurons=NEURONS,
            surrogates=SURROGATES,
            batch_norms=BATCH_NORMS,
            backends=BACKENDS,
        )
    return inference_parser(datasets=DATASETS, models=MODELS, neurons=NEURONS, batch_norms=BATCH_NORMS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_accepted(command):
    _, script, *words = shlex.split(command)
    parser_of(script).parse_args(words)


def test_the_six_commands_are_there():
    assert sum(command.startswith("python train_BPTT.py -data_dir ./data_dir") for command in COMMANDS) == 6


def test_every_option_is_in_the_table():
    table = README.split("## Options")[1].split("\n## ")[0]
    for action in parser_of("train_BPTT.py")._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}`" in table, option


@pytest.mark.parametrize("registry", [DATASETS, NEURONS], ids=["data sets", "neurons"])
def test_every_name_is_there(registry):
    for name in registry:
        assert name in README


@pytest.mark.parametrize("name", ["main", "tests"])
def test_ci_finds_the_command(name):
    block = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", README)
    assert block
    assert block[1].startswith("python3 -m venv .venv && ")
