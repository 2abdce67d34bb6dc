"""``reproduce.py``: what is run, skipped, resumed, given up; what is reported of whole, torn and missing runs."""

import csv
import io
import json
import os
import shutil
import signal
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import reproduce
from reproduction.evaluation import DONE
from reproduction.evidence import key_of_line, read_lines
from reproduction.recipe import load_recipes
from reproduction.results import Results
from reproduction.runner import StoppedError
from reproduction.training_run import read_rows
from utils.cli import UsageError

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


def test_run_goes_on_past_failures_and_skips_what_is_finished(small, capfd):
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
    assert f"not run; seed 1: {len(stopped.rows)} of 12 epochs" in capfd.readouterr().out

    kept = (folder / "metrics.jsonl").read_text()
    assert main("run", "small", "--only", "lif") == 0
    assert results.trained(run, 1).is_finished
    assert (folder / "metrics.jsonl").read_text().startswith(kept)  # not begun again
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "report"}


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


def test_report_of_several_seeds(table, capsys):
    results, run = table
    for seed, last in ((1, 20.0), (2, 22.0), (3, 24.0)):
        write_run(results, run, seed, accuracies=(10.0, 30.0, last))
    main("report", "small")
    row = reported()
    assert (row["best"], row["best_std"], row["last"], row["last_std"]) == ("30.0", "0.0", "22.0", "2.0")
    assert (row["difference"], row["seeds"], row["hours"], row["device"]) == ("1.5", "1 2 3", "1.0", "abacus")
    assert row["status"] == ""
    text = capsys.readouterr().out
    assert "| LIF, T = 2 | 20.5 | 30.00 ± 0.00 | – | 22.00 ± 2.00 | – | 10.00 ± 0.00 | +1.50 | 1, 2, 3 | 1 |" in text
    main("report", "small", "--seeds", "1", "2", "3", "4")
    assert reported()["status"] == "3 of 4 seeds"
    main("report", "small")
    assert reported("fails")["status"] == "not run"
    assert reported("later")["status"] == "not covered: nobody has written it"
    assert json.loads(Path("logs/reproduce/report/small.json").read_text())["quoted"] == {"others": 90.5}


def test_accuracy_by_epoch_stands_beside_the_published_one(table, small, capsys):
    results, run = table
    path = small / "recipes" / "small.yaml"
    path.write_text(path.read_text().replace("paper: 20.5", "paper: {after epoch 1: 9.50, best by epoch 3: null}"))
    for seed, last in ((1, 20.0), (2, 40.0)):
        write_run(results, run, seed, accuracies=(10.0, 30.0, last))
    main("report", "small", "--seeds", "1", "2")
    text = capsys.readouterr().out
    assert "| | after epoch 1 | best by epoch 3 |" in text.replace("|  |", "| |")
    assert "| LIF, T = 2 | 10.00 ± 0.00 (9.50) | 35.00 ± 7.07 |" in text
    rows = json.loads(Path("logs/reproduce/report/small.json").read_text())["rows"]
    first, best = (row for row in rows if row["run"] == "lif")
    assert (first["quantity"], first["best"], first["difference"], first["trained"]) == (
        "after epoch 1",
        10.0,
        0.5,
        None,
    )
    assert (best["quantity"], best["best"], best["difference"]) == ("best by epoch 3", 35.0, None)


def test_best_is_compared_where_the_recipe_says_so(table, small):
    results, run = table
    write_run(results, run, 1)
    path = small / "recipes" / "small.yaml"
    path.write_text(path.read_text().replace("value: last", "value: best"))
    main("report", "small", "--seeds", "1")
    assert float(reported()["difference"]) == 30 - 20.5


def test_torn_lines_are_left_out_and_counted(table):
    results, run = table
    folder = write_run(results, run, 1)
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    torn = [lines[0][:40], b'{"epoch": 1, "test_acc": NaN}', b"\xff\xfe", b"[]", lines[2], b""]
    (folder / "metrics.jsonl").write_bytes(b"\n".join(torn))
    main("report", "small", "--seeds", "1")
    row = reported()
    assert (row["best"], row["last"], row["hours"]) == ("30.0", "20.0", "1.0")
    assert row["status"] == "seed 1: 4 lines of metrics.jsonl torn and left out"

    (folder / "metrics.jsonl").write_bytes(b"\n".join([lines[0], lines[1], lines[2][:50]]))
    main("report", "small", "--seeds", "1")
    row = reported()
    assert row["last"] == ""
    assert row["status"] == "not run; seed 1: 1 line of metrics.jsonl torn and left out; seed 1: 2 of 3 epochs"


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


@pytest.fixture
def evidence(small, monkeypatch):
    """A folder of evidence that the commands write to and read."""
    monkeypatch.setattr("reproduce.Results", lambda runs_dir, runs: Results(runs_dir, runs, small / "evidence"))
    return small / "evidence"


def test_keep_writes_a_line_for_each_finished_run(table, evidence, capsys):
    results, run = table
    folder = write_run(results, run, 2)
    write_run(results, run, 1, accuracies=(10.0,))
    assert main("keep", "small") == 0
    assert f"1 of 12 runs kept in {evidence}, 1 pictures" in capsys.readouterr().out
    assert {path.name for path in evidence.rglob("*")} == {"small.jsonl", "figures", "small.png"}
    (line,) = read_lines(evidence / "small.jsonl")
    assert key_of_line(line) == results.key(run, 2)
    assert (line["run"], line["seed"], line["hours"], line["made_with"]) == ("small/lif", 2, 1.0, {"device": "abacus"})
    assert line["command"] == f"{run.command.text} -seed 2"
    assert line["settings"]["neuron"] == "LIF"
    assert line["date"].startswith("20")
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert line["epochs"] == {name: [row[name] for row in rows] for name in rows[0]}

    (folder.with_name(results.name(run, 1)) / "metrics.jsonl").unlink()
    for path in folder.parent.iterdir():
        path.rename(path.with_name(path.name + "-moved-away"))  # by name alone nobody would find them
    write_run(results, run, 1)
    write_run(results, run, 2, accuracies=(10.0, 30.0, 25.0))
    assert main("keep", "small") == 0
    lines = read_lines(evidence / "small.jsonl")
    assert [line["seed"] for line in lines] == [1, 2]
    assert lines[1]["epochs"]["test_acc"][-1] in (20.0, 25.0)  # one of the two folders with these settings


def test_the_evidence_is_reported_where_nothing_was_run(table, evidence, capsys):
    results, run = table
    folder = write_run(results, run, 1)
    main("keep", "small")
    folder.rename(folder.with_name("moved")).rename(evidence / "moved")
    main("report", "small", "--seeds", "1")
    assert reported()["last"] == "20.0"
    assert Path(reported()["where"]) == evidence / "small.jsonl"
    results, _ = results_in(evidence.parent)
    assert not results.is_finished(run, 1)  # there is no checkpoint: run would train it
    capsys.readouterr()
    main("list")
    assert "0 of  12 runs finished,   1 in evidence" in capsys.readouterr().out
    main("show", "small")
    assert "takes:   1 hours for one seed on abacus" in capsys.readouterr().out
    write_run(results, run, 1, accuracies=(10.0, 30.0, 25.0))  # what was run here goes first
    main("report", "small", "--seeds", "1")
    assert reported()["last"] == "25.0"


def test_both_evaluations_are_kept_and_reported(table, evidence, capsys):
    results, run = table
    folder = write_run(results, run, 1)
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    per_step = [{**row, "test_acc_per_step": 90.0 + row["epoch"]} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in per_step))
    main("keep", "small")
    capsys.readouterr()
    folder.rename(evidence / "moved")
    main("report", "small", "--seeds", "1")
    assert "| LIF, T = 2 | 20.5 | 30.00 | 91.00 | 20.00 | 92.00 | 10.00 | -0.50 | 1 |" in capsys.readouterr().out
    assert (reported()["best_per_step"], reported()["last_per_step"]) == ("91.0", "92.0")


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


def test_a_damaged_line_of_the_evidence_is_named(table, evidence):
    evidence.mkdir()
    (evidence / "small.jsonl").write_text('{"run": "small/lif"\n')
    with pytest.raises(UsageError, match=r"small\.jsonl: line 1 is damaged"):
        main("report", "small")


def test_no_run_at_all(small, capsys):
    assert main("report") == 0
    text = capsys.readouterr().out
    assert "Nothing of this has been run here: the paper's side alone." in text
    assert "| LIF, T = 2 | 20.5 | – | – | – | – | – | – | – | – | – | not run |" in text
    assert "| LIF, measured | – (0.25) | – | – | – | – | not run |" in text
    assert "| others | 90.5 |" in text
    assert "small.png" in text  # the paper's values alone


def test_a_damaged_measurement_is_named(small):
    results, runs = results_in(small)
    folder = results.runs_dir / results.name(runs["small/lif-profile"], 1)
    folder.mkdir(parents=True)
    (folder / DONE).write_text('{"seconds": 1, "device": "abacus"}')
    (folder / "account.json").write_text("{")
    main("report", "small")
    status = reported("lif-profile")["status"]
    assert "is damaged" in status
    assert "run it again" in status


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "smal"], "unknown recipe 'smal'; did you mean small? (known: small)"),
        (["run", "small", "--only", "life"], "unknown run of small 'life'; did you mean lif? (known: fails, lif,"),
        (["report", "tables"], "unknown recipe 'tables'"),
        (["smoke", "table9"], "unknown recipe 'table9'"),
    ],
)
def test_unknown_names(small, words, said):
    with pytest.raises(UsageError) as caught:
        main(*words)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: command"),
        (["runn"], "invalid choice: 'runn'"),
        (["run"], "required: recipe"),
        (["run", "small", "--seed", "1"], "unknown option --seed; did you mean --seeds?"),
        (["run", "small", "--seeds", "one"], "'one' is not a whole number"),
        (["report", "small", "--only", "x"], "unknown option --only"),
        (["smoke", "--processes", "0"], "must be ≥ 1"),
    ],
)
def test_bad_options(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        reproduce.main(words)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("reproduce.py")
    assert said in message


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


def test_what_draws_by_itself_gets_a_folder(small, evidence, capfd):
    """Its pictures and numbers go into the report, and those of its name alone where there are some."""
    text = (
        SMALL[: SMALL.index("figure:")]
        + """runs:
  - id: neurons
    label: two neurons
    command: python -m figures.neuron_traces -steps 20
    paper: {spikes per step of LIF: null}
"""
    )
    (small / "recipes" / "figure8.yaml").write_text(text)
    (small / "recipes" / "small.yaml").write_text(text.replace("-steps 20", "-steps 30"))
    assert main("run", "figure8") == 0
    results, runs = results_in(small)
    folder = results.evaluated(runs["figure8/neurons"], 1)
    assert folder.name.startswith("neuron_traces_")
    assert main("report", "figure8") == 0
    said = capfd.readouterr().out
    rate = json.loads((folder / "neurons.json").read_text())["quantities"]["spikes per step of LIF"]
    assert f"| two neurons | {rate:.4f} | 1 |" in said
    assert "![A small table](figure8.png)" in said
    assert {path.stem for path in (small / "logs/reproduce/report").iterdir()} == {"figure8"}

    (folder / DONE).write_text((folder / DONE).read_text().replace('"steps": 20', '"steps": 30'))  # as if run so
    assert main("report", "small") == 0
    assert "![A small table](small_figure7.png)" in capfd.readouterr().out
    assert main("keep", "small") == 0
    assert {path.name for path in evidence.rglob("*")} == {
        *("small.jsonl", "figures", "small_figure7.png", "small_figure8.png")
    }
    shutil.rmtree(folder)
    assert main("report", "small") == 0  # from the evidence
    assert "![A small table](small_figure7.png)" in capfd.readouterr().out
