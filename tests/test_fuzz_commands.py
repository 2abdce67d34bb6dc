"""Commands over runs damaged at random: each ends well, or with exit code 2 and one line; nothing else is raised.

``pytest -m long tests/test_fuzz_commands.py`` takes 80 times as many of each.
"""

import json
import math
import random
import re
import shutil
import sys
from pathlib import Path

import pytest

import reproduce
import train_BPTT
from tests import test_fuzz
from tests.helpers import ROOT, run_training
from tests.test_fuzz import EXPECTED, damaged, mutated

TRAIN = "-dataset digits -model mlp3 -T 2 -b 16 -train_fraction 0.05 -epochs 1 -T_max 1 -neuron LIF"
RUNS = f"""\
title: A small table
about: Of something.
seeds: [1]
value: last
figure: {{kind: lines, x: T, line: neuron}}
runs:
  - id: lif
    label: LIF, T = 2
    command: python train_BPTT.py {TRAIN}
    paper: 20.5
  - id: lif-gap
    label: LIF, measured
    command: "python inference.py -resume {{of}}/checkpoint_latest.pth"
    of: small/lif
    paper: {{accuracy: null}}
"""


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory):
    """A folder with a recipe, its training run and its evaluation."""
    home = tmp_path_factory.mktemp("runs")
    (home / "recipes").mkdir()
    (home / "recipes" / "small.yaml").write_text(RUNS)
    done = run_training("run", "small", "--recipes", "recipes", cwd=home, script=ROOT / "reproduce.py")
    assert done.returncode == 0, done.stderr
    return home


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, pytest.param(800, marks=pytest.mark.long)])
@pytest.mark.parametrize("command", ["list", "report small", "compare", "-resume"])
def test_commands_over_damaged_runs(made_runs, tmp_path, monkeypatch, capsys, command, count):
    """Each ends well, or with exit code 2 and one line; a resume of a damaged run writes nothing into it."""
    rng = random.Random(6)
    shutil.copytree(made_runs, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    (run,) = (path.parent for path in Path("logs/reproduce").glob("*/metrics.jsonl"))
    files = [run / "metrics.jsonl", *Path("logs/reproduce").glob("*/*.json")]
    files += [run / "checkpoint_latest.pth"] if command == "-resume" else []
    resume = [*TRAIN.split(), "-seed", "1", "-out_dir", "logs/reproduce", "-name", run.name, "-resume", "auto"]
    calls = {
        "compare": lambda: reproduce.main(["compare", str(run), "--out", "compared"]),
        "-resume": lambda: train_BPTT.main(resume),
    }
    whole, ended = contents(Path("logs")), []
    for _ in range(count):
        file = rng.choice(files)
        plain = file.suffix == ".json" and rng.random() < 0.7
        spoilt = json.dumps(mutated(json.loads(whole[file]), rng)).encode() if plain else damaged(whole[file], rng)
        file.write_bytes(spoilt)
        try:
            code = calls.get(command, lambda: reproduce.main([*command.split(), "--recipes", "recipes"]))() or 0
        except SystemExit as end:
            code = end.code
        except EXPECTED as error:  # what reproduce.py ends with
            code = 2
            print(error, file=sys.stderr)
        said = capsys.readouterr().err
        assert code in (0, 1, 2), said
        assert "Traceback" not in said
        if code == 2:
            assert len(said.strip().splitlines()) == 1, said
            assert contents(Path("logs")) == {**whole, file: spoilt}
        ended.append(code)
        for path, content in contents(Path("logs")).items():
            if content != whole.get(path):
                path.write_bytes(whole[path]) if path in whole else path.unlink()
    assert 0 in ended


def test_the_page_says_how_many_there_are():
    """Each test of ``count`` files, as often as its other parameters say; the second count is that of ``-m long``."""
    counts = [0, 0]
    for test in (*vars(test_fuzz).values(), test_commands_over_damaged_runs):
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        given = {mark.args[0]: mark.args[1] for mark in marks}
        if "count" in given:
            quick, long = given.pop("count")
            times = math.prod(map(len, given.values()))
            counts = [counts[0] + times * quick, counts[1] + times * long.values[0]]
    page = (ROOT / "docs/reliability.md").read_text()
    told = re.search(r"\| ([\d,]+) \((\d+) times as many with `-m long`\)", page)
    assert (told[1], int(told[2])) == (f"{counts[0]:,}", round(counts[1] / counts[0]))
