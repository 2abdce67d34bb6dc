"""What Triton's kernels cost on a GPU, read from machine code that needs none: nothing spills, ceilings hold."""

import json
from importlib.metadata import version

import pytest

pytest.importorskip("triton.backends.nvidia", reason="Triton has no NVIDIA back end here")

from benchmarks.__main__ import main as run_benchmarks
from benchmarks.static import CAPABILITIES, CEILINGS, MOST_LAUNCHES, NEURONS, STANDARD, main
from tests.helpers import ROOT, run_training
from utils.cli import UsageError
from utils.exit import one_line_errors

SPILLED = 0 if version("triton") >= "3.7" else 8  # bytes; an older compiler is short of two registers
PAIRS = [(neuron, capability) for neuron in NEURONS for capability in CAPABILITIES]
# CLIF is seen for both GPUs each time, the others for one, and chunks of CLIF and LIF alone
WHOLE = [pytest.param(*pair, marks=[pytest.mark.long] * (pair[1] == 80 and pair[0] != "CLIF")) for pair in PAIRS]
IN_CHUNKS = [
    pytest.param(*pair, marks=[pytest.mark.long] * (pair[1] == 80 or pair[0] not in ("CLIF", "LIF"))) for pair in PAIRS
]


def compiled(what, *cases):
    """``rows`` or ``stacks`` of each case and its launches; see tests/compiled.py."""
    done = run_training(what, json.dumps(cases), cwd=ROOT, script=ROOT / "tests/compiled.py")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_lean(rows, launches):
    found = {row["kernel"]: row for row in rows}
    for kernel, ceiling in CEILINGS.items():
        assert found[kernel]["per_element_and_step"] <= ceiling, found[kernel]
    assert all(row["stack"] <= SPILLED for row in rows)
    assert max(launches["forward"], launches["backward"]) <= MOST_LAUNCHES


@pytest.mark.slow
def test_clif_keeps_below_its_ceilings():
    ((rows, launches),) = compiled("rows", {"capability": 90, "neuron": "CLIF", **STANDARD})
    assert {row["kernel"] for row in rows} > set(CEILINGS)
    assert_lean(rows, launches)


@pytest.mark.slow
@pytest.mark.parametrize(("neuron", "capability"), WHOLE)
def test_nothing_spills_from_registers(neuron, capability):
    """With as many steps in registers as there ever are."""
    ((rows, launches),) = compiled("stacks", {"capability": capability, "neuron": neuron, **STANDARD, "T": 8})
    assert {row["kernel"] for row in rows} > set(CEILINGS)
    assert [row["kernel"] for row in rows if row["stack"] > SPILLED] == []
    assert max(launches["forward"], launches["backward"]) <= MOST_LAUNCHES


@pytest.mark.slow
@pytest.mark.parametrize(("neuron", "capability"), IN_CHUNKS)
def test_little_spills_in_chunks(neuron, capability):
    """There ptxas may trade a few bytes for occupancy."""
    ((rows, launches),) = compiled("stacks", {"capability": capability, "neuron": neuron, **STANDARD, "T": 15})
    assert [row["kernel"] for row in rows if row["stack"] > 64] == []
    assert max(launches["forward"], launches["backward"]) <= MOST_LAUNCHES


def test_the_results_kept_here_are_as_lean():
    kept = json.loads((ROOT / "benchmarks/results/static.json").read_text())
    of_clif = [row for row in kept["rows"] if row["neuron"] == "CLIF" and row["sm"] == 90]
    assert_lean(
        [row for row in of_clif if all(row[key] == STANDARD[key] for key in STANDARD)], kept["launches"]["CLIF"]
    )
    assert {row["neuron"] for row in kept["rows"]} == set(NEURONS)
    assert all(row["stack"] == 0 for row in kept["rows"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-neurons", "CILF"], "no such neuron: CILF"),
        (["-device", "cuda"], "unknown option -device"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit) as ended, one_line_errors("benchmarks", UsageError):
        run_benchmarks(["static", *words, "-out_dir", str(tmp_path / "out")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_results_of_other_neurons_are_not_written_over(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("benchmarks.static.cases", lambda names: [])  # what would be compiled
    path = tmp_path / "static.json"
    path.write_bytes(kept := (ROOT / "benchmarks/results/static.json").read_bytes())
    with pytest.raises(
        UsageError, match=r"static.json has the results of `python -m benchmarks static`, which this run"
    ):
        main(["-neurons", "CLIF", "-out_dir", str(tmp_path)])
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]
