"""A run that stops being a number is remembered: by its folder, by reproduce.py, by the evidence."""

import json
import shutil

import pytest

from tests.fixtures_reproduce import SMALL, main, reported, results_in
from tests.helpers import assert_refused, run_training
from utils.run_dir import DIVERGED

RUN = "-dataset digits -model mlp3 -T 2 -b 15 -train_fraction 0.02 -no_amp -device cpu"


@pytest.fixture
def diverging(small, evidence):
    """The small recipe, its training run with a rate at which nothing can be learned."""
    text = SMALL.replace("-neuron LIF -epochs 1", "-neuron LIF -epochs 2 -no_amp -lr 1e38")
    (small / "recipes" / "small.yaml").write_text(text)
    return small


@pytest.mark.slow
def test_its_folder_says_so_until_it_is_resumed(tmp_path):
    ended = run_training(*RUN.split(), "-name", "lost", "-lr", "1e38", cwd=tmp_path)
    assert_refused(ended, "is not finite", "the last checkpoint is kept")
    note = (tmp_path / "logs" / "lost" / DIVERGED).read_text()
    assert ended.stderr.startswith(f"train_BPTT.py: error: {note.strip()};")
    assert "epoch 0" in note

    run_training(*RUN.split(), "-name", "run", "-epochs", 1, cwd=tmp_path)
    folder = tmp_path / "logs" / "run"
    assert not (folder / DIVERGED).exists()
    (folder / DIVERGED).write_text(note)
    latest = ["-resume", folder / "checkpoint_latest.pth"]
    ended = run_training(*RUN.split(), "-epochs", 2, *latest, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert not (folder / DIVERGED).exists()


@pytest.mark.slow
def test_reports_name_it_and_it_is_not_run_again(diverging, capfd):
    assert main("run", "small", "--only", "lif") == 1
    results, runs = results_in(diverging)
    folder = results.trained(runs["small/lif"], 1).where
    assert "not finite" in (folder / DIVERGED).read_text()
    capfd.readouterr()
    assert main("run", "small", "--only", "lif") == 1
    said = capfd.readouterr().err
    assert "it diverged before (" in said
    assert f"move {folder.relative_to(diverging)} away to run it again" in said
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, ".lock"}
    main("report", "small")
    assert reported()["status"] == "seed 1 diverged: the loss is not finite at step 1 of epoch 0"
    assert "Nothing of this has been run" not in capfd.readouterr().out

    main("keep", "small")
    (line,) = map(json.loads, (diverging / "evidence" / "small.jsonl").read_text().splitlines())
    assert (line["run"], line["epochs"], line["hours"]) == ("small/lif", {}, 0)
    assert "not finite" in line["diverged"]
    shutil.rmtree(folder)
    main("report", "small")
    assert reported()["status"].startswith("seed 1 diverged: ")
    assert reported()["seeds"] == ""
