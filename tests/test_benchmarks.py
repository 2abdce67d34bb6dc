"""The benchmark commands as their users run them, and the checks before them; no test judges a time."""

import importlib
import json
import os
import re
import subprocess
import sys
from functools import partial

import matplotlib.image
import pytest
import torch

from benchmarks import rooms
from benchmarks.__main__ import main
from benchmarks.cases import GROUPS, Scale
from benchmarks.layers import growth_name
from benchmarks.parity import compare, in_processes, near_ties
from benchmarks.tables import busy_markdown, busy_share, case_markdown, parity_markdown
from neurons import build_neuron
from tests.helpers import ENVIRONMENT, ROOT
from utils.cli import UsageError

CPU = torch.device("cpu")


def benchmark(*args):
    command = [sys.executable, "-m", "benchmarks", *map(str, args)]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """A quick run of all groups."""
    out_dir = tmp_path_factory.mktemp("benchmarks")
    done = benchmark("-device", "cpu", "-quick", "-out_dir", out_dir)
    assert done.returncode == 0, done.stderr
    return done, out_dir, json.loads((out_dir / "cpu.json").read_text())


def check_run(out_dir, stem, groups):
    """Samples, ratios, table and pictures of a run are there and agree; returns the run."""
    run = json.loads((out_dir / f"{stem}.json").read_text())
    assert run["not_measured"] == {}
    assert list(dict.fromkeys(case["group"] for case in run["cases"])) == groups
    text = (out_dir / f"{stem}.md").read_text()
    for case in run["cases"]:
        assert case["failed"] == {}
        assert case_markdown(case) in text
        first = next(iter(case["contenders"]))
        assert first.startswith(("ours", "1 rank"))
        for name, phases in case["contenders"].items():
            for phase, s in phases.items():
                ours = case["contenders"][case["against"][name]][phase]["samples_ms"]
                assert len(s["samples_ms"]) == case["rounds"] == 2
                assert min(s["samples_ms"]) > 0
                ratios = [a / b for a, b in zip(s["samples_ms"], ours, strict=True)]
                assert s["ratio"] == pytest.approx(sum(ratios) / 2)  # the median of two
    for group in groups:
        height, width, _ = matplotlib.image.imread(out_dir / f"{stem}-{group}.png").shape
        assert min(height, width) > 300
    return run


@pytest.mark.first
@pytest.mark.slow
def test_quick_run_of_everything_saves_samples_table_and_pictures(quick_run):
    done, out_dir, _ = quick_run
    run = check_run(out_dir, "cpu", list(GROUPS))
    pictures = {f"cpu-{group}.png" for group in GROUPS}
    assert {path.name for path in out_dir.iterdir()} == {"cpu.json", "cpu.md", *pictures}
    for case in run["cases"]:
        assert case_markdown(case) in done.stdout


@pytest.mark.first
@pytest.mark.slow
def test_run_says_what_it_was_made_with(quick_run):
    _, _, run = quick_run
    made = run["made_with"]
    assert made["torch"] == torch.__version__.split("+")[0]
    assert made["threads"] == 1
    for field in ("device", "commit", "spikingjelly", "triton", "compiler", "busy_before"):
        assert made[field] not in ("", None)
    assert run["command"].startswith("python -m benchmarks -device cpu -quick")
    assert run["quick"]


@pytest.mark.first
@pytest.mark.slow
def test_parity_is_checked_before_anything_is_timed(quick_run):
    done, _, run = quick_run
    parity = run["parity"]
    assert parity["ok"]
    assert {row["neuron"] for row in parity["rows"]} == {"LIF", "PLIF", "CLIF", "KLIF", "GLIF", "ILIF"}
    assert {row["behind a norm"] for row in parity["rows"]} == {True, False}
    assert sum(row["ties"] for row in parity["rows"]) < 0.01 * sum(row["elements"] for row in parity["rows"])
    assert done.stdout.index("Parity: ") < done.stdout.index("## ")


@pytest.mark.first
@pytest.mark.slow
def test_growth_has_memory_and_a_verdict(quick_run):
    _, _, run = quick_run
    (growth,) = (case for case in run["cases"] if case["group"] == "growth")
    assert list(growth["memory_mib"]) == list(growth["contenders"])
    for T in (2, 4):
        assert growth["against"][growth_name(T, True)] == growth_name(T, False)
    assert growth["flatness"]["ours"]["time"] == {"max_deviation": 0.0, "flat": True}  # one T ≥ 4 in a quick run


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("neurons",), ("unknown group 'neurons'", "did you mean neuron?")),
        (("-device", "mps"), ("unknown device 'mps'", "known: cpu, cuda")),
        (("-fast",), ("unknown option -fast",)),
    ],
)
def test_bad_usage_is_one_line(args, parts, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(list(args))
    error = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert error.count("\n") == 1
    for part in parts:
        assert part in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="-device cuda: this machine has no cuda device"):
        main(["-device", "cuda", "-out_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("logs/benchmarks/cpu.json", ["all", "-quick"]),
        ("benchmarks/results/cpu.json", ["all", "-tf32"]),
        ("out/cpu-growth-onm.json", ["onm", "growth", "-quick", "-out_dir", "out"]),
    ],
)
def test_results_of_other_options_are_not_written_over(tmp_path, monkeypatch, file, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.__main__.made_with", None)  # refused before any work
    for kept in (ROOT / "benchmarks/results/cpu.json").read_text(), "{}":
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(kept)
        with pytest.raises(UsageError, match=rf"{file} has .*give another -out_dir"):
            main([*options, "-device", "cpu"])
        assert path.read_text() == kept
        assert os.listdir(path.parent) == [path.name]


def test_near_ties_are_those_at_a_step_of_the_spike_or_of_its_surrogate():
    neuron = build_neuron("LIF", alpha=0.8, keep_state=False)
    current = torch.tensor([[1.0, 0.3, 1.4, 0.6, 1.2, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0, 0.75]])  # u[1] = 0.5·0.5 + 0.75
    assert near_ties(neuron, current, 1e-6).tolist() == [True, False, True, True, False, True]


def test_parity_sees_a_wrong_spike_gradient_or_weight():
    right = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.5, 1.0, -1.0]]), [torch.tensor([2.0])]
    ties = torch.tensor([False, False, True])
    assert compare(right, right, ties, 1e-5)["ok"]
    at_a_tie = torch.tensor([[1.0, 0.0, 0.0]]), *right[1:]
    assert compare(at_a_tie, right, ties, 1e-5)["ok"]
    wrong = [
        (torch.tensor([[0.0, 0.0, 1.0]]), *right[1:]),
        (right[0], right[1] + 1e-4, right[2]),
        (right[0], right[1], [torch.tensor([2.001])]),
        (right[0], right[1] * float("nan"), right[2]),
    ]
    for found in wrong:
        assert not compare(found, right, ties, 1e-5)["ok"]
    row = {"neuron": "CLIF", "surrogate": "rectangle", "shape": [6, 5], "dtype": "float32", "ok": False}
    failed = parity_markdown({"ok": False, "backend": "triton", "rows": [row]})
    assert failed.startswith("**PARITY FAILED**: back end `triton` differs from the reference for CLIF rectangle")


def test_comparisons_by_several_processes_are_in_their_order():
    assert in_processes([partial(pow, 2, exponent) for exponent in (3, 1, 2)]) == [8, 2, 4]


def test_a_busy_machine_is_named():
    assert busy_markdown({"busy_before": 0.1, "processors": 2}) == []
    assert "took 60% of its 2 processors" in busy_markdown({"busy_before": 0.6, "processors": 2})[0]


def test_other_work_is_noticed():
    before = [busy_share(0.5) for _ in range(3)]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            during = [busy_share(0.5) for _ in range(3)]
        finally:
            other.kill()
    assert all(0 <= share <= 1 for share in (*before, *during))
    assert max(during) >= 0.5 / (os.cpu_count() or 1)


def test_full_size_cases_are_what_the_claims_are_about():
    cpu = {case.title for make in GROUPS.values() for case in make(Scale(CPU))}
    cuda = {case.title for make in GROUPS.values() for case in make(Scale(torch.device("cuda")))}
    assert "One CLIF layer, forward + backward, [6, 16, 64, 32, 32], bfloat16" in cpu
    assert "One CLIF layer, forward + backward, [6, 128, 64, 32, 32], float16" in cuda
    assert "One training step of spiking_resnet18, T = 6, batch 16, float32" in cpu
    assert "One training step of spiking_resnet18, T = 6, batch 128, float16" in cuda
    assert sum("16384 neurons" in title for title in cuda) == 1


def test_a_move_is_a_call_in_another_room(tmp_path, monkeypatch):
    one = ["import two", "def go(): here(); two.there(); two.there(); here()", "def here(): pass"]
    two = ["import json", "def there(): json.dumps([{}], indent=1); deeper()", "def deeper(): pass"]
    for name, lines in (("one", one), ("two", two)):
        (tmp_path / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    seen = rooms.trace(importlib.import_module("one").go)
    # go, here, there, deeper, there, deeper, here: from one to two, and back
    assert (seen.calls, seen.moves, dict(seen.entries)) == (7, 2, {"one.py": 2, "two.py": 1})


def test_a_step_of_resnet18_turns_few_pages(capsys):
    """Half as many as the first house's 456, at most; blocks of memory that are given back may add a few."""
    rooms.main(["-T", "2"])
    out = capsys.readouterr().out
    assert "models/resnet.py" in out
    assert "utils/engine.py" in out
    found = re.search(r"^spiking_resnet18 with CLIF: \d+ rooms, (\d+) moves, \d+ calls$", out, re.MULTILINE)
    assert found
    assert 100 < int(found[1]) <= 228


@pytest.mark.long
def test_another_commit_takes_turns_with_this_one(capsys):
    assert main(["against", "HEAD", "-quick", "-rounds", "2", "-repeats", "1"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0].split("|")[2:5] == [" this (ms) ", " HEAD (ms) ", " HEAD / this "]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["float32", "bfloat16"]
    assert all(float(cell) > 0 for line in table[2:] for cell in line.split("|")[2:5])
    with pytest.raises(UsageError, match="no commit nowhere"):
        main(["against", "nowhere"])
