"""Which runs a report counts, and over which of them it takes a mean."""

import json

from tests.fixtures_reproduce import main, reported, write_run

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
