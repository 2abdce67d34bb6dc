"""``reproduce.py``: what is run, skipped, resumed, given up, and by what a run is known again."""

import csv
import io
import json
import os
import signal
import threading
import time
from contextlib import redirect_stdout

import pytest

from reproduction import runner
from reproduction.child import StoppedError
from reproduction.evaluation import DONE
from reproduction.recipe import load_recipes
from reproduction.smoke import cases_of
from reproduction.training_run import read_rows
from tests.fixtures_reproduce import SMALL, TRAIN, main, reported, results_in, write_run
from tests.warm_python import warm_python


def test_dry_run_prints_what_would_be_run(small, capsys):
    assert main("run", "small", "--dry-run", "--only", "lif-profile", "--seeds", "3", "--data_dir", "here") == 0
    training, inference = capsys.readouterr().out.splitlines()
    name = training.split("-name ")[1].split()[0]
    assert training == (
        f"{TRAIN} -neuron LIF -epochs 1 -data_dir here -seed 3 -out_dir logs/reproduce -name {name} -resume auto"
    )
    assert name.startswith("digits_mlp3_LIF_T2_")
    assert name.endswith("_seed3")
    assert f"-resume logs/reproduce/{name}/checkpoint_latest.pth -profile -data_dir here -out_dir" in inference
    assert not (small / "logs").exists()


@pytest.mark.slow
def test_run_goes_on_past_failures_and_skips_what_is_finished(small, capfd, monkeypatch):
    monkeypatch.setattr("sys.executable", str(warm_python()))
    assert main("run", "small") == 1
    said = capfd.readouterr()
    results, runs = results_in(small)
    assert results.is_finished(runs["small/lif"], 1)
    assert results.is_finished(runs["small/lif-profile"], 1)
    assert "small/later: not covered: nobody has written it" in said.out
    assert "[2/4] small/lif seed 1" in said.out
    assert "2 of 4 runs finished" in said.out
    assert "failed: small/fails seed 1: exit code 2: train_BPTT.py: error: digits_seq shows" in said.err
    assert "failed: small/fails-profile seed 1: not run, because its training run small/fails failed" in said.err

    folder = results.trained(runs["small/lif"], 1).where
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main("run", "small", "--only", "lif", "lif-profile") == 0
    assert capfd.readouterr().out.count("finished already") == 2
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    assert main("report", "small", "--out", "report") == 0
    lines = capfd.readouterr().out.splitlines()
    trained = results.trained(runs["small/lif"], 1)
    best, last = trained.best_row["test_acc"], trained.last_row["test_acc"]
    of_each_step = [trained.last_row.get("test_acc_per_step")] * 2
    best_step, last_step = ["–", "–"] if None in of_each_step else [f"{each:.2f}" for each in of_each_step]
    training = trained.last_row["train_acc"]
    cells = [f"{best:.2f}", best_step, f"{last:.2f}", last_step, f"{training:.2f}", f"{last - 20.5:+.2f}"]
    start = f"| LIF, T = 2 | 20.5 | {' | '.join(cells)} | 1 |"
    assert any(line.startswith(start) and line.endswith("| done |") for line in lines)
    account = json.loads((results.evaluated(runs["small/lif-profile"], 1) / "account.json").read_text())
    (rate, *_) = (
        row for row in csv.DictReader((small / "report/small.csv").open()) if row["quantity"] == "firing rate"
    )
    rates = account["firing_rates"].values()
    assert float(rate["best"]) == pytest.approx(sum(rates) / len(rates))
    assert float(rate["difference"]) == pytest.approx(float(rate["best"]) - 0.25)
    assert (small / "report" / "small.png").stat().st_size > 5000
    assert (small / "report" / "small.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(143, "it was stopped by SIGTERM;"), (-9, "it was stopped by SIGKILL;"), (3, "exit code 3: loss 2.1"), (0, "it ")],
)
def test_a_run_that_a_signal_stopped_is_told_so(small, monkeypatch, code, reason):
    results, runs = results_in(small)
    monkeypatch.setattr(runner, "call", lambda words: (code, "epoch 1: batch 3\nloss 2.1\n"))
    assert runner.run_job(runner.Job(runs["small/lif"], 1), [], results).startswith(reason)


@pytest.fixture
def ctrl_c_is_heard():
    """As in a terminal; nohup and pytest's workers ignore it, and a script does then too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_next_run_resumes(small, capfd, ctrl_c_is_heard):
    text = SMALL.replace("-neuron LIF -epochs 1", "-neuron LIF -epochs 12")
    (small / "recipes" / "small.yaml").write_text(text)
    results, runs = results_in(small)
    run = runs["small/lif"]
    folder = small / "logs/reproduce" / results.name(run, 1)

    def interrupt():
        deadline = time.monotonic() + 120
        while len(read_rows(folder / "metrics.jsonl")[0]) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StoppedError, match="SIGINT") as caught:
        main("run", "small", "--only", "lif")
    assert caught.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "resume with" in capfd.readouterr().out  # the training script's own words: it saved
    stopped = results.trained(run, 1)
    assert 2 <= len(stopped.rows) < 12
    assert not stopped.is_finished
    assert main("report", "small") == 0
    assert f"| seed 1: {len(stopped.rows)} of 12 epochs" in capfd.readouterr().out

    kept = (folder / "metrics.jsonl").read_text()
    assert main("run", "small", "--only", "lif") == 0
    assert results.trained(run, 1).is_finished
    assert (folder / "metrics.jsonl").read_text().startswith(kept)  # not begun again
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "report", ".lock"}


def test_a_folder_of_another_run_is_not_taken(table):
    results, run = table
    folder = write_run(results, run, 1, lr=0.5)
    write_run(results, run, 2)
    (results.runs_dir / results.name(run, 2) / "config.json").write_text("{torn")
    main("report", "small")
    row = reported()
    assert row["seeds"] == ""
    assert (
        f"seed 1: {folder.relative_to(results.runs_dir.parents[1])} is another run (-lr 0.5, not 0.1)" in row["status"]
    )
    assert "(config.json is missing or torn)" in row["status"]
    assert not results.is_finished(run, 1)


def test_a_second_folder_of_a_run_counts(table):
    results, run = table
    folder = write_run(results, run, 1, accuracies=(10.0,))
    whole = write_run(results, run, 2)
    whole.rename(folder.with_name(f"{folder.name}-2"))
    assert results.trained(run, 1).where.name == f"{folder.name}-2"
    assert results.is_finished(run, 1)


def test_a_folder_is_known_by_its_settings(table):
    """Whatever it is called, and whichever options there have come to be since."""
    results, run = table
    folder = write_run(results, run, 1)
    config = json.loads((folder / "config.json").read_text())
    del config["alpha"], config["backend"]  # an older run knows fewer options
    (folder / "config.json").write_text(json.dumps({**config, "gone": 3}))
    moved = folder.rename(folder.with_name("digits_mlp3_LIF_T2_0a1b2c3d_seed1"))
    assert results.trained(run, 1).where == moved
    assert results.is_finished(run, 1)
    (line,) = [line for line in dry_run("--only", "lif-profile", "--seeds", "1") if "inference.py" in line]
    assert f"-resume logs/reproduce/{moved.name}/checkpoint_latest.pth" in line
    (folder.with_name(moved.name) / "config.json").write_text(json.dumps({**config, "alpha": 0.5}))
    assert results.trained(run, 1) is None


def dry_run(*words):
    """The commands that would be run."""
    with redirect_stdout(io.StringIO()) as said:
        main("run", "small", "--dry-run", *words)
    return said.getvalue().splitlines()


def test_an_evaluation_of_older_code_is_known_by_its_command(table):
    results, run = table
    trained = write_run(results, run, 1)
    folder = results.runs_dir / "inference_of_old"
    folder.mkdir()
    command = f"python inference.py -resume {trained}/checkpoint_latest.pth -profile -data_dir d -out_dir {folder}"
    (folder / DONE).write_text(json.dumps({"command": command, "seconds": 1, "device": "abacus"}))
    profile = results.runs["small/lif-profile"]
    assert results.evaluated(profile, 1) == folder
    assert results.evaluated(profile, 2) is None
    (folder / DONE).write_text(json.dumps({"command": command.replace("_latest", "_max"), "seconds": 1}))
    os.utime(folder / DONE, ns=(1, 1))
    assert results.evaluated(profile, 1) is None


def test_list_and_show(table, capsys):
    results, run = table
    write_run(results, run, 1)
    main("list")
    assert "1 of  12 runs finished,   0 in evidence, 1 not covered" in capsys.readouterr().out
    main("show", "small")
    text = capsys.readouterr().out
    assert "paper:   accuracy 20.5" in text
    assert "firing rate 1 not printed" in text
    assert f"command: {run.command.text}" in text
    assert "takes:   1 hours for one seed on abacus" in text
    assert "time and memory: not measured" in text
    assert "NOT COVERED: nobody has written it" in text


@pytest.mark.slow
def test_smoke(small, capfd):
    text = SMALL.replace("-T 6 -epochs 1", "-T 8 -epochs 40 -neuron PLIF")
    (small / "recipes" / "small.yaml").write_text(text)
    assert main("smoke") == 0
    said = capfd.readouterr().out
    assert "4 commands in 4 cases, 0 failed" in said
    assert said.count("  ok      ") == 4
    (small / "recipes" / "small.yaml").write_text(SMALL)  # -T 6 is none of digits_seq's
    assert main("smoke", "small", "--processes", "2") == 1
    said = capfd.readouterr().out
    assert "4 commands in 4 cases, 2 failed" in said
    assert "FAILED: small/fails\n" in said
    assert "exit code 2: train_BPTT.py: error: digits_seq shows" in said
    assert "its training run failed" in said
    assert {path.name for path in small.iterdir()} == {"recipes"}


def test_smoke_has_a_case_for_every_command():
    recipes = load_recipes()
    runs = {run.full_id: run for recipe in recipes.values() for run in recipe.runs}
    cases = cases_of(list(recipes.values()), runs)
    covered = {full_id for case in cases for full_id in case.of}
    assert covered == {name for name, run in runs.items() if run.command}
    for case in cases:
        for full_id in case.of:  # what may differ within a case is numbers alone
            command = runs[full_id].command
            assert command
            settings = command.settings
            for name in ("dataset", "model", "neuron", "cutupmix_auto", "mse_n_reg"):
                assert settings.get(name) == case.command.settings.get(name)
            assert (settings.get("T") or 0) <= (case.command.settings.get("T") or 0)
    assert len(cases) < len(covered)
    table3 = cases_of([recipes["table3"]], runs)  # two tasks; τ = 2 is the default, and not given
    assert [len(case.of) for case in table3] == [30, 30]
    figure2 = cases_of([recipes["digits_figure2a"], recipes["digits_figure2b"]], runs)
    lif = [case for case in figure2 if case.command.settings["neuron"] == "LIF" and case.command.settings["T"] == 8]
    kinds = [("digits_seq" in case.command.text, "bptt_k" in case.command.given) for case in lif]
    assert sorted(kinds) == [(True, False), (True, True)]  # with k other code runs: never in one case
    figure2b = cases_of([recipes["digits_figure2b"]], runs)  # T of 1 to 32, and of 8 to 64; LIF and CLIF
    found = [(case.command.settings["T"], len(case.of)) for case in figure2b]
    assert found == 2 * [(1, 1), (32, 5)] + 2 * [(8, 1), (64, 3)]
