"""What reproduce.py reports and keeps: of whole, torn and missing runs, of pictures, and of the evidence."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from reproduction.evaluation import DONE, quantities_of
from reproduction.evidence import EVIDENCE, as_if_at_home, key_of_line, read_lines
from reproduction.markdown import measured_table
from reproduction.recipe import Run
from reproduction.results import Outcome
from tests.fixtures_reproduce import SMALL, main, reported, results_in, write_run
from utils.cli import UsageError


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
    assert row["status"] == "seed 1: 1 line of metrics.jsonl torn and left out; seed 1: 2 of 3 epochs"


def test_keep_writes_a_line_for_each_finished_run(table, evidence, capsys):
    results, run = table
    folder = write_run(results, run, 2)
    write_run(results, run, 1, accuracies=(10.0,))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "out_dir": str(folder.parent.absolute())}))
    assert main("keep", "small") == 0
    assert f"1 of 12 runs kept in {evidence}, 1 pictures" in capsys.readouterr().out
    assert {path.name for path in evidence.rglob("*")} == {"small.jsonl", "figures", "small.png"}
    (line,) = read_lines(evidence / "small.jsonl")
    assert key_of_line(line) == results.key(run, 2)
    assert (line["run"], line["seed"], line["hours"], line["made_with"]) == ("small/lif", 2, 1.0, {"device": "abacus"})
    assert line["command"] == f"{run.command.text} -seed 2"
    assert line["settings"]["neuron"] == "LIF"
    assert line["settings"]["out_dir"] == "logs/reproduce"
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


@pytest.mark.parametrize("home", ["/home/me", "/home/Jö O'Neil"])
def test_the_evidence_says_nothing_of_where_runs_stood(home):
    words = ["x.py", "-resume", f"{home}/runs/a/b.pth", f"-out={home}/runs", "-data_dir", f"{home}/data", "-b", "3"]
    line = {"out_dir": f"{home}/runs", "settings": {"data_dir": f"{home}/data", "out_dir": f"{home}/runs"}}
    line |= {"of": [f"{home}/runs2", f"in{home}/runs"], "runs": {"text": f"runs, {home}/runs", "n": 1}}
    at_home = as_if_at_home(line | {"command": shlex.join(words)}, Path(home, "runs"))
    said = "x.py -resume logs/reproduce/a/b.pth -out=logs/reproduce -data_dir data_dir -b 3"
    assert shlex.split(at_home.pop("command")) == said.split()
    assert at_home == {
        "out_dir": "logs/reproduce",
        "settings": {"data_dir": "data_dir", "out_dir": "logs/reproduce"},
        "of": [f"{home}/runs2", f"in{home}/runs"],
        "runs": {"text": "runs, logs/reproduce", "n": 1},
    }


def test_the_evidence_that_is_committed_names_no_folder_of_a_machine():
    for path in EVIDENCE.glob("*.jsonl"):
        assert not re.search(r"[\"'=\s]/\w", path.read_text()), path


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


@pytest.mark.slow
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


def test_a_sweep_is_reported_with_both_kinds_of_statistics():
    sweep = {"test": {"acc": 90.0}, "fixed": [{"v_reset": None, "acc": 80.0}], "calibrated": {}}
    of_steps = {
        **sweep,
        "test_per_step": {"acc": 91.0},
        "fixed": [{"v_reset": None, "acc": 80.0, "acc_per_step": 81.5}],
    }
    run = Run("small", "sweep", "as LIF", {"as trained": None, "soft": None}, None, "", ())
    shared, per_step = "| as LIF | 90.00 | 80.00 |", "| as LIF; per step | 91.00 | 81.50 |"
    for result, rows in ((sweep, [shared]), (of_steps, [shared, per_step])):
        values = {name: [value] for name, value in quantities_of("inference.py", result).items()}
        table = measured_table([run], {"sweep": Outcome((2022,), values)}).splitlines()[2:]
        assert [line[: len(row)] for line, row in zip(table, rows, strict=True)] == rows
