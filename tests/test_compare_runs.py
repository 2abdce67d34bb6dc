"""``reproduce.py compare`` over runs that are damaged, nearly alike, or named twice."""

import html
import json
import re
from pathlib import Path

import pytest

from reproduction import side_by_side
from tests.test_side_by_side import compare, write_run
from utils.cli import UsageError
from utils.run_dir import is_epoch


@pytest.fixture(autouse=True)
def _work_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def compared(*words):
    compare(*words, "--out", "out")
    return json.loads(Path("out/compare.json").read_text())


@pytest.mark.parametrize("neuron", ["LIF", "CLIF"])
def test_an_ann_stands_against_each_number_of_steps(capsys, neuron):
    """It was compared with whichever came first, and nothing said with which."""
    for T, accuracy in ((2, 41.0), (4, 61.0)):
        write_run(Path(f"runs/snn{T}"), [accuracy], neuron=neuron, T=T)
    write_run(Path("runs/z_ann"), [71.0], neuron="relu", T=1)
    pairs = compared("runs")["paired"]
    assert [(pair["reference"], pair["differences"]["test_acc"]["mean"]) for pair in pairs] == [
        (f"{neuron}, T 2", 30.0),
        (f"{neuron}, T 4", 10.0),
    ]
    said = capsys.readouterr().out
    assert f"| relu, T 1 − {neuron}, T 2 | +30.00 |" in said
    assert f"| relu, T 1 − {neuron}, T 4 | +10.00 |" in said


def test_an_ann_against_one_number_of_steps_and_spikes_against_their_own():
    for T in (2, 4):
        write_run(Path(f"runs/clif{T}"), [50.0 + T], neuron="CLIF", T=T)
    write_run(Path("runs/lif2"), [40.0], neuron="LIF", T=2)
    write_run(Path("runs/relu"), [71.0], neuron="relu", T=1)
    assert [(pair["label"], pair["reference"]) for pair in compared("runs")["paired"]] == [
        ("CLIF, T 2", "LIF"),
        ("relu, T 1", "LIF"),
    ]


def test_a_run_that_is_named_by_several_paths_is_one():
    write_run(Path("logs/lif"), [50.0], neuron="LIF")
    write_run(Path("logs/clif"), [60.0], neuron="CLIF")
    Path("link").symlink_to("logs/lif")
    found = compared("logs/lif", "link", "logs/../logs/clif", Path("logs").absolute())
    assert [run["name"] for run in found["runs"]] == ["lif", "clif"]
    assert len(found["paired"]) == 1


def test_a_run_without_an_epoch_is_refused_by_whichever_path_it_is_named():
    write_run(Path("logs/done"), [50.0])
    write_run(Path("logs/begun"), [])
    with pytest.raises(UsageError, match="begun has no finished epoch"):
        compare("logs", "logs/../logs/begun")


def test_settings_that_are_nearly_alike_are_told_apart(capsys):
    """They were two seeds of one network, as both are 0.123457 in six digits."""
    for neuron in ("LIF", "CLIF"):
        for seed, lr in ((1, 0.1234567), (2, 0.1234568)):
            write_run(Path(f"runs/{neuron}{seed}"), [50.0 + seed], neuron=neuron, seed=seed, lr=lr)
    pairs = compared("runs")["paired"]
    assert [(pair["label"], pair["seeds"]) for pair in pairs] == [
        ("CLIF, lr 0.1234567", [1]),
        ("CLIF, lr 0.1234568", [2]),
    ]
    assert "| 0.1234567 |" in capsys.readouterr().out


def test_one_number_that_is_written_in_two_ways_is_one():
    for seed, lr in ((1, 1), (2, 1.0), (3, "1.0")):
        write_run(Path(f"runs/{seed}"), [50.0], seed=seed, lr=lr)
    found = compared("runs")
    assert found["differing"] == ["seed"]
    assert found["in_common"]["lr"] == 1.0


def test_lines_that_are_left_out_are_counted(capsys):
    """The last epoch that the table names was not the run's, and nothing said so."""
    write_run(Path("runs/whole"), [50.0, 60.0])
    metrics = write_run(Path("runs/torn"), [50.0, 60.0, 70.0], epochs=5, seed=2) / "metrics.jsonl"
    nan = metrics.read_text().splitlines()[0].replace('"epoch": 0', '"epoch": 3').replace("2.0", "NaN")
    metrics.write_text(metrics.read_text() + nan + '\n{"epoch": 4, "tr')
    found = compared("runs")
    assert {run["name"]: run["left_out"] for run in found["runs"]} == {"whole": 0, "torn": 2}
    assert "Lines of metrics.jsonl torn or no epoch's, and left out: torn (2).\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "odd",
    [
        *({"epochs": value} for value in ("ten", None, 2.5, True, 0)),
        *({"T": ""}, {"lr": "fast"}, {"amp": "yes"}, {"opt": 3}, {"switch_neuron": 4}, {"seed": [[1]]}, {"seed": 0.5}),
    ],
)
def test_a_setting_that_no_option_takes_is_named(odd):
    write_run(Path("run"), [1.0], **odd)
    with pytest.raises(UsageError, match=f"^run/config.json is damaged: {next(iter(odd))} is .*; mend it, or take"):
        compare("run")
    assert not Path("logs").exists()


ODD = ["a|b", "CLIF <old>", "__x__", "a&lt;b", "*x*", "`x`", "[x](y)", "a\\|b", "~~x~~", "_", "c_d"]


def test_a_name_is_shown_as_it_is(capsys):
    """Columns shifted behind a bar, and what looked like a mark or a tag was taken for one."""
    for number, name in enumerate(ODD):
        write_run(Path("runs") / name, [50.0 + number], neuron="CLIF", seed=number, pre_train=name)
    write_run(Path("runs/lif"), [40.0], neuron="LIF", seed=0, pre_train=ODD[0])
    write_run(Path("runs/_begun_"), [])
    compare("runs", "--out", "out", "--html", "page.html")
    page = Path("page.html").read_text()
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page, re.DOTALL)]
    shown = {cells[0]: cells[1:] for cells in ([html.unescape(cell) for cell in row] for row in rows) if cells}
    assert shown.keys() == {*ODD, "lif", f"CLIF, pre_train {ODD[0]} − LIF"}  # nor is any of them a tag
    for number, name in enumerate(ODD):
        assert shown[name][:5] == ["CLIF", name, str(number), "1 of 1", f"{50 + number:.2f}"]
    assert shown[f"CLIF, pre_train {ODD[0]} − LIF"][0] == "+10.00"
    assert "Left out, as no epoch is finished: runs/_begun_.</p>" in page
    assert {run["name"] for run in json.loads(Path("out/compare.json").read_text())["runs"]} == {*ODD, "lif"}
    assert "\n| c_d | " in capsys.readouterr().out  # an underscore within a word is no mark


@pytest.mark.parametrize("column", ["epoch", "train_loss"])
def test_a_number_that_no_figure_can_draw_is_no_epochs(column, capsys):
    """It ended in a traceback of matplotlib."""
    metrics = write_run(Path("run"), [50.0, 60.0]) / "metrics.jsonl"
    first, second = map(json.loads, metrics.read_text().splitlines())
    for value in (2**53 - 1, -(2**53) + 1)[: 1 if column == "epoch" else 2]:
        assert is_epoch({**second, column: value})
    assert not is_epoch({**second, column: 2**53})
    metrics.write_text(json.dumps(first) + "\n" + json.dumps({**second, column: 10**23 - 1}) + "\n")
    (run,) = compared("run")["runs"]
    assert len(run["epochs"]) == run["left_out"] == 1


def test_a_run_without_its_config_is_left_out_and_named(capsys, monkeypatch):
    """It was left out without a word."""
    monkeypatch.setattr(side_by_side, "draw_runs", lambda *_: None)  # it takes a second
    write_run(Path("runs/whole"), [50.0])
    for name in ("of_rows", "of_weights"):
        (write_run(Path("runs") / name, [60.0]) / "config.json").unlink()
    Path("runs/of_weights/metrics.jsonl").rename("runs/of_weights/checkpoint_latest.pth")
    Path("runs/report").mkdir()
    assert [run["name"] for run in compared("runs")["runs"]] == ["whole"]
    assert "Left out, as config.json is missing: runs/of_rows, runs/of_weights.\n" in capsys.readouterr().out
