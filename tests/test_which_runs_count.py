"""Which runs a report counts, over which of them it takes a mean, which a picture of the evidence shows; and which
options a machine may add to a run that stays the run it is.
"""

import json
from dataclasses import replace

import pytest
import torch

import reproduce
from reproduction import runner
from reproduction.markdown import ending
from reproduction.results import Outcome
from tests.fixtures_reproduce import main, reported, results_in, write_run

OF_STEPS = "statistics of each step: seed 2 alone"


def test_a_run_from_trained_weights_is_another_run(table):
    results, run = table
    write_run(results, run, 1)
    assert results.is_finished(run, 1)
    write_run(results, run, 2, where=results.runs_dir / "else", pre_train="zoo:digits_CLIF")
    (results.runs_dir / "else" / results.name(run, 2)).rename(results.runs_dir / "tuned")
    assert not results.is_finished(run, 2)
    write_run(results, run, 3, pre_train="zoo:digits_CLIF")
    main("report", "small")
    assert reported()["seeds"] == "1"
    assert "is another run (-pre_train zoo:digits_CLIF" in reported()["status"]


def test_a_mean_is_over_all_the_seeds_that_are_named(table):
    results, run = table
    write_run(results, run, 1)
    metrics = write_run(results, run, 2) / "metrics.jsonl"
    rows = [json.loads(line) | {"test_acc_per_step": 50.0} for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main("report", "small", "--seeds", "1", "2")
    assert (reported()["last_per_step"], reported()["seeds"], reported()["status"]) == ("", "1 2", OF_STEPS)
    main("report", "small", "--seeds", "2")
    assert (reported()["last_per_step"], reported()["status"]) == ("50.0", "")


def test_a_picture_of_the_evidence_shows_the_recipes_seeds_whichever_are_kept(table, evidence, capsys):
    results, run = table
    for seed in (1, 2, 3):
        write_run(results, run, seed, accuracies=(10.0, 30.0, 20.0 + 9 * seed))
    main("keep", "small")
    picture = evidence / "figures" / "small.png"
    drawn, written = picture.read_bytes(), picture.stat().st_mtime_ns
    capsys.readouterr()
    main("keep", "small", "--seeds", "1", "--runs_dir", "nodir")
    assert capsys.readouterr().out == f"0 of 4 runs kept in {evidence}\n"
    assert picture.stat().st_mtime_ns == written
    main("keep", "small", "--seeds", "1")
    assert "1 of 4 runs kept" in capsys.readouterr().out
    assert picture.read_bytes() == drawn


def test_a_report_of_seeds_that_were_not_run_says_so_of_these_alone(table, evidence, capsys):
    results, run = table
    write_run(results, run, 1)
    main("report", "small", "--seeds", "7", "8")
    said = capsys.readouterr().out
    assert "Nothing of these seeds has been run here: the paper's side alone." in said
    assert "`python reproduce.py run small --seeds 7 8`" in said


def test_a_path_in_a_status_is_shown_as_it_is(table):
    _, run = table
    note, reason = "seed 1: logs|a/*x* is another run", "it takes `data` that nobody has"
    assert ending(run, Outcome(notes=(note,)))[-1] == r"seed 1: logs\|a/\*x\* is another run"
    assert ending(replace(run, command=None), Outcome(notes=(reason,)))[-1] == reason  # the recipe's Markdown


def run_with(*added, only="lif-profile"):
    """``reproduce.py run`` with options for the training script."""
    return reproduce.main(["run", "small", "--only", only, "--recipes", "recipes", "--", *added])


def test_options_after_two_dashes_go_to_trainings_alone(small, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(runner, "call", lambda words: called.append(words) or (0, ""))
    run_with("-j", "0", "-tf32")
    (training,) = called  # it left no folder, so that nothing could be evaluated
    assert training[training.index("-j") :][:5] == ["-j", "0", "-tf32", "-seed", "1"]
    results, runs = results_in(small)
    write_run(results, runs["small/lif"], 1, accuracies=(10.0,), tf32=True)  # and is known by its settings as it was
    run_with("-j", "0", "-tf32")
    evaluation = called[1]
    assert {"-j", "-tf32"}.isdisjoint(evaluation)


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (["-lr", "0.2"], "-lr is not to be added to a recipe's commands"),
        (["-seed", "4"], "-seed is not to be added"),
        (["-epochs=9"], "-epochs=9 is not to be added"),
        (["-j", "many"], "is refused by train_BPTT.py: argument -j: 'many' is not a whole number"),
        (["-device", "cuda:99"], "-device cuda:99: this machine has"),
        (["-cuda_graph", "-device", "cpu"], "small/lif: -cuda_graph: it wants a CUDA device"),
    ],
)
def test_options_that_would_make_another_run_are_refused_before_the_first(small, capsys, added, words):
    with pytest.raises(reproduce.UsageError) as caught:
        run_with(*added)
    assert words in str(caught.value)
    assert not (small / "logs").exists()


def test_a_graph_is_refused_for_the_run_that_cannot_be_recorded(small, monkeypatch):
    monkeypatch.setattr(reproduce, "choose_device", lambda name: torch.device("cuda"))
    with pytest.raises(reproduce.UsageError, match=r"small/lif: -cuda_graph: -checkpoint reads"):
        run_with("-cuda_graph", "-checkpoint")
