"""What the tests of reproduce.py share: a small recipe, runs as a training leaves them, what is reported of them."""

import csv
import json
from pathlib import Path

import pytest

import reproduce
from reproduction.recipe import load_recipes
from reproduction.results import Results

TRAIN = "python train_BPTT.py -dataset digits -model mlp3 -T 2 -b 15 -train_fraction 0.02"
SMALL = f"""\
title: A small table
about: Of something.
seeds: [1]
value: last
figure: {{kind: lines, x: T, line: neuron}}
quoted: {{others: 90.5}}
runs:
  - id: fails
    label: what cannot be run
    command: python train_BPTT.py -dataset digits_seq -model mlp3 -T 6 -epochs 1
    paper: 50
  - id: lif
    label: LIF, T = 2
    command: {TRAIN} -neuron LIF -epochs 1
    paper: 20.5
  - id: lif-profile
    label: LIF, measured
    command: "python inference.py -resume {{of}}/checkpoint_latest.pth -profile"
    of: small/lif
    paper: {{firing rate: 0.25, firing rate 1: null, accuracy: null}}
  - id: fails-profile
    label: what cannot be measured
    command: "python inference.py -resume {{of}}/checkpoint_latest.pth -profile"
    of: small/fails
    paper: {{firing rate: null}}
  - id: later
    label: what there is not yet
    not_covered: nobody has written it
    paper: 60
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder to work in, with the small recipe in ``recipes/``."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def main(*words):
    return reproduce.main([*words, "--recipes", "recipes"])


def results_in(folder, runs_dir="logs/reproduce"):
    runs = {run.full_id: run for recipe in load_recipes(folder / "recipes").values() for run in recipe.runs}
    return Results(folder / runs_dir, runs, folder / "evidence"), runs


def write_run(results, run, seed, *, accuracies=(10.0, 30.0, 20.0), where=None, **config):
    """A training run's folder as the training script leaves it."""
    folder = (where or results.runs_dir) / results.name(run, seed)
    folder.mkdir(parents=True)
    settings = {**run.command.settings, "seed": seed, "made_with": {"device": "abacus"}, **config}
    (folder / "config.json").write_text(json.dumps(settings, default=str))
    rows = [
        {
            **{"epoch": n, "lr": 0.1, "seconds": 1200.0},
            **{"train_loss": 2.0 - n / 10, "train_acc": 10.0, "test_loss": 2.1 - n / 10, "test_acc": accuracy},
            "best_test_acc": max(accuracies[: n + 1]),
        }
        for n, accuracy in enumerate(accuracies)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture
def table(small):
    """The small recipe with three epochs of LIF, its results, and its training run."""
    text = SMALL.replace("-neuron LIF -epochs 1", "-neuron LIF -epochs 3").replace("seeds: [1]", "seeds: [1, 2, 3]")
    (small / "recipes" / "small.yaml").write_text(text)
    results, runs = results_in(small)
    return results, runs["small/lif"]


def reported(run_id="lif"):
    """The row of a run in the report's CSV."""
    table = Path("logs/reproduce/report/small.csv").read_text().splitlines()
    return next(row for row in csv.DictReader(table) if row["run"] == run_id)


@pytest.fixture
def evidence(small, monkeypatch):
    """A folder of evidence that the commands write to and read."""
    monkeypatch.setattr("reproduce.Results", lambda runs_dir, runs: Results(runs_dir, runs, small / "evidence"))
    return small / "evidence"
