"""The README and the guides stay true: the options are the parser's, the names the registries', CI finds its commands,
the differences of neurons are those of the evidence.

What their blocks say is run by tests/test_snippets.py.
"""

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from data import DATASETS
from neurons import NEURONS
from reproduction.comparison import paired
from reproduction.pairs import pairs_table
from reproduction.recipe import load_recipes
from reproduction.results import Results
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


def test_the_evidence_gives_the_differences_that_the_pages_print(tmp_path):
    recipes = load_recipes()
    results = Results(tmp_path, {run.full_id: run for recipe in recipes.values() for run in recipe.runs})
    page, readme = GUIDES["results.md"].splitlines(), README.splitlines()
    digits, fashion = ("digits, 5-layer SNN, CLIF, T = 4", 4), "5-layer SNN, {}, T = 4"
    shown = {("digits_figure4", *digits): [row for row in page if row.startswith("| CLIF − LIF, paired by seed")]}
    for name in ("PLIF", "CLIF", "KLIF", "GLIF", "ILIF"):
        shown["fashion_mnist", fashion.format(name), 3] = [row for row in page if row.startswith(f"| {name} − LIF |")]
    in_readme = [row.removeprefix("| ") for row in readme if row.startswith("| | CLIF − LIF | ")]
    shown["fashion_mnist", fashion.format("CLIF"), 3] += in_readme[:1]
    shown["digits_figure4", *digits] += in_readme[1:]
    for (name, label, seeds), rows in shown.items():
        outcomes = {run.id: results.outcome(run, recipes[name].seeds) for run in recipes[name].runs}
        (pair,) = [pair for pair in paired(recipes[name], outcomes) if pair.label == label]
        assert len(pair.seeds) == seeds
        assert len(rows) == (2 if "CLIF" in label else 1)
        told = pairs_table([pair]).splitlines()[-1].replace("+", "").split(" | ")[1:7]
        for row in rows:
            cells = row.rstrip(" |").split(" | ")[1:]
            assert cells == told[: len(cells)]
            assert len(cells) >= 5
