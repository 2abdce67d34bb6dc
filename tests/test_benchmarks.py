"""The benchmark command as its users run it, and the arithmetic of its ratios; no test judges a time."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import pytest
import torch
from spikingjelly.activation_based import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import rooms
from benchmarks.__main__ import main
from benchmarks.cases import GROUPS, Scale
from benchmarks.layers import growth_name, neuron_makers, onm_makers
from benchmarks.measuring import Case, growth_verdict, run_case
from benchmarks.networks import leave_alone, step_makers, use_plain_norms, use_spikingjelly
from benchmarks.parity import compare, near_ties
from benchmarks.tables import busy_markdown, busy_share, case_markdown, parity_markdown
from benchmarks.timing import Contender, flatness, measure, summarise
from models import build_model
from models.statistics import batch_norms
from neurons import SpikingNeuron, build_neuron
from utils.cli import UsageError

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
ENVIRONMENT.pop("TRITON_INTERPRET", None)


def benchmark(*args):
    command = [sys.executable, "-m", "benchmarks", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """A quick run of two groups that between them have all there is: memory, phases, growth, bars and lines."""
    out_dir = tmp_path_factory.mktemp("benchmarks")
    done = benchmark("growth", "onm", "-device", "cpu", "-quick", "-out_dir", out_dir)
    assert done.returncode == 0, done.stderr
    return done, out_dir, json.loads((out_dir / "cpu-growth-onm.json").read_text())


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
        height, width, _ = matplotlib.image.imread(out_dir / f"cpu-{group}.png").shape
        assert min(height, width) > 300
    return run


def test_quick_run_saves_samples_table_and_pictures(quick_run):
    done, out_dir, _ = quick_run
    run = check_run(out_dir, "cpu-growth-onm", ["growth", "onm"])
    assert {path.name for path in out_dir.iterdir()} == {
        *("cpu-growth-onm.json", "cpu-growth-onm.md", "cpu-growth.png", "cpu-onm.png"),
    }
    for case in run["cases"]:
        assert case_markdown(case) in done.stdout


def test_run_says_what_it_was_made_with(quick_run):
    _, _, run = quick_run
    made = run["made_with"]
    assert made["torch"] == torch.__version__.split("+")[0]
    assert made["threads"] == 1
    for field in ("device", "commit", "spikingjelly", "triton", "compiler", "busy_before"):
        assert made[field] not in ("", None)
    assert run["command"].startswith("python -m benchmarks growth onm -device cpu -quick")
    assert run["quick"]


def test_parity_is_checked_before_anything_is_timed(quick_run):
    done, _, run = quick_run
    parity = run["parity"]
    assert parity["ok"]
    assert {row["neuron"] for row in parity["rows"]} == {"LIF", "PLIF", "CLIF", "KLIF", "GLIF", "ILIF"}
    assert {row["behind a norm"] for row in parity["rows"]} == {True, False}
    assert sum(row["ties"] for row in parity["rows"]) < 0.01 * sum(row["elements"] for row in parity["rows"])
    assert done.stdout.index("Parity: ") < done.stdout.index("## ")


def test_growth_has_memory_and_a_verdict(quick_run):
    _, _, run = quick_run
    (growth,) = (case for case in run["cases"] if case["group"] == "growth")
    assert list(growth["memory_mib"]) == list(growth["contenders"])
    for T in (2, 4):
        assert growth["against"][growth_name(T, True)] == growth_name(T, False)
    assert growth["flatness"]["ours"]["time"] == {"max_deviation": 0.0, "flat": True}  # one T ≥ 4 in a quick run


@pytest.mark.slow
def test_quick_run_of_everything(tmp_path):
    done = benchmark("-device", "cpu", "-quick", "-out_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    check_run(tmp_path, "cpu", list(GROUPS))


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


def test_ratio_is_the_median_of_the_ratios_within_a_round():
    """The machine slows down eightfold during the run: the ratio of the medians would be 8, not 2."""
    samples = {"ours": {"step": [1.0, 1.0, 8.0]}, "rival": {"step": [2.0, 8.0, 8.0]}}
    found = summarise(samples, {"ours": "ours", "rival": "ours"})
    assert found["ours"]["step"]["ratio"] == 1
    assert found["rival"]["step"]["ratio"] == 2
    assert (found["rival"]["step"]["ratio_q1"], found["rival"]["step"]["ratio_q3"]) == (1.5, 5)
    assert found["rival"]["step"]["median_ms"] == 8
    assert found["rival"]["step"]["min_ms"] == 2
    assert (found["rival"]["step"]["q1_ms"], found["rival"]["step"]["q3_ms"]) == (5, 8)
    assert found["rival"]["step"]["samples_ms"] == [2.0, 8.0, 8.0]


def test_each_contender_is_held_against_its_own():
    samples = {"a": {"f": [1.0, 2.0]}, "b": {"f": [5.0, 10.0]}, "c": {"f": [10.0, 20.0]}}
    found = summarise(samples, {"a": "a", "b": "a", "c": "b"})
    assert [found[name]["f"]["ratio"] for name in "abc"] == [1, 5, 2]


def measured(makers, **options):
    return measure(makers, **{"rounds": 3, "repeats": 2, "warm_up": 1, "device": CPU, "title": ""} | options)


def test_contenders_take_turns_and_each_is_first_once():
    calls = []
    makers = {
        name: lambda name=name: Contender({"work": lambda: calls.append(name)}, lambda: calls.append("-"))
        for name in "abc"
    }
    samples, failed, contenders = measured(makers, rounds=4)
    assert "".join(calls) == "-a-b-c" + "".join(f"-{x}-{x}" for x in "abcbcacababc")
    assert failed == {}
    assert list(contenders) == ["a", "b", "c"]
    assert all(len(phases["work"]) == 4 for phases in samples.values())


def test_preparation_is_not_timed_and_phases_are_timed_apart():
    def contender(scale):
        phases = {"short": lambda: None, "long": lambda: time.sleep(0.05)}
        return Contender(phases, prepare=lambda: time.sleep(0.1), scale=scale)

    samples, *_ = measured({"ours": lambda: contender(1), "tenfold": lambda: contender(10)}, rounds=1, repeats=1)
    assert samples["ours"]["short"][0] < 50 <= samples["ours"]["long"][0] < samples["tenfold"]["long"][0]
    assert samples["tenfold"]["long"][0] >= 500


def test_contender_that_cannot_run_is_named_and_the_others_are_measured():
    def fail():
        raise torch.OutOfMemoryError("tried to allocate 1 TiB\nand more")

    idle = Contender({"work": lambda: None})
    held = Contender({"work": lambda: None}, against="large")
    makers = {"ours": lambda: idle, "large": lambda: Contender({"work": fail}), "held": lambda: held}
    samples, failed, _ = measured(makers)
    assert list(samples) == ["ours"]
    assert failed == {
        "large": "tried to allocate 1 TiB",
        "held": "nothing to hold it against: large could not run",
    }
    with pytest.raises(torch.OutOfMemoryError):
        measured({"ours": lambda: Contender({"work": fail}), "other": lambda: idle})
    result = run_case(Case("neuron", "A title", lambda: makers), CPU)
    assert "- large: could not run (tried to allocate 1 TiB)" in case_markdown(result)


def test_flatness_is_the_largest_deviation_from_the_median():
    assert flatness({4: 10.0, 8: 10.0, 16: 10.5, 32: 10.0, 64: 8.0}) == pytest.approx(0.2)


def test_growth_verdict_leaves_out_short_sequences():
    costs = {2: 100.0, 4: 10.0, 8: 10.5, 16: 10.0}
    result = {
        "settings": {"T": list(costs)},
        "contenders": {
            growth_name(T, loop): {"forward + backward": {"median_ms": cost * (T if loop else 1)}}
            for T, cost in costs.items()
            for loop in (False, True)
        },
        "memory_mib": {growth_name(T, False): 8.0 for T in costs},
    }
    verdict = growth_verdict(result)
    assert verdict["ours"]["time"] == {"max_deviation": pytest.approx(0.05), "flat": True}
    assert verdict["ours"]["memory"] == {"max_deviation": 0, "flat": True}
    assert not verdict["step loop"]["time"]["flat"]
    assert "memory" not in verdict["step loop"]


# in a process that does nothing else: the peak is the whole process's
MEMORY = """
import torch
from benchmarks.timing import Contender, peak_memory_mib
kept = []
def work():
    kept[:] = [torch.ones(2**20)]  # 4 MiB that stay: held before a repetition and after it
    torch.ones(16 * 2**20).sum()  # 64 MiB that come and go
    torch.ones(8 * 2**20).sum()
print(peak_memory_mib(Contender({"work": work}, scale=0.5), torch.device("cpu")))
"""


def test_memory_is_the_peak_of_one_repetition():
    command = [sys.executable, "-c", MEMORY]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    mib = None if printed == "None\n" else float(printed)
    if mib is None:
        pytest.skip("this system does not tell")
    assert mib == pytest.approx(34, abs=3)  # half of 64 and the new 4 beside the old


@pytest.mark.parametrize("name", ["CLIF", "LIF"])
def test_contenders_of_a_layer_compute_the_same_gradient(name):
    makers = neuron_makers(name, (5, 2, 3, 4, 4), torch.float32, CPU)
    gradients = {}
    for contender_name, make in makers.items():
        contender = make()
        for _ in range(2):  # the second call must start from zero, too
            contender.prepare()
            (work,) = contender.phases.values()
            found = work()
        if contender_name != "memory floor":
            gradients[contender_name] = torch.stack(found) if len(found) > 1 else found[0]
    assert {"ours, reference", "step loop", "SpikingJelly"} <= gradients.keys()
    for found in gradients.values():
        torch.testing.assert_close(found, gradients["ours, reference"])


def test_contenders_of_linear_lif_compute_the_same_spikes():
    spikes = {}
    for name, make in onm_makers(12, 3, 20, CPU).items():
        contender = make()
        contender.run()
        contender.run()
        spikes[name] = contender.phases["forward"].__self__.spikes.detach()
    rate = spikes["ours"].mean()
    assert 0.05 < rate < 0.5
    assert torch.equal(spikes["SpikingJelly"], spikes["ours"])
    assert torch.equal(spikes["step loop"], spikes["ours"])


def test_networks_of_a_step_compute_the_same_logits():
    x_seq = torch.randn(4, 3, 32, 32).expand(3, 4, 3, 32, 32)
    logits = []
    for change in (leave_alone, use_spikingjelly, lambda net: functional.set_step_mode(net, "s")):
        torch.manual_seed(0)
        net = build_model("snn5_noAP")
        change(net)
        logits.append(net(x_seq))
        assert change is not use_spikingjelly or not any(isinstance(m, SpikingNeuron) for m in net.modules())
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[2], logits[0], rtol=1e-4, atol=1e-5)


def test_contenders_of_a_step_convolve_as_much_as_they_say():
    """Ours sends a static image through the first convolution once, the step loop T times, ReLU T·N images once; ReLU
    at T = 1 sends N through each."""
    T, batch = 3, 2
    macs = {}
    for name, make in step_makers("snn5_noAP", T, batch, torch.float32, CPU).items():
        contender = make()
        contender.run()
        with Convolutions() as seen:
            contender.run()
        macs[name] = seen.forward, seen.backward
    first = batch * 16 * 32 * 32 * 3 * 9  # of one pass of the first convolution
    forward, backward = macs["ours"]
    for name, found in macs.items():
        more = (T - 1) * first if name in ("step loop", "ReLU, T·N images") else 0
        if name == "ReLU, N images (T = 1)":
            assert found == (first + (forward - first) // T, first + (backward - first) // T)
        else:
            assert found == (forward + more, backward + more), name


def test_the_relu_network_is_the_same_with_torch_s_batch_norm():
    x = torch.rand(1, 3, 3, 32, 32)
    logits = []
    for change in (leave_alone, use_plain_norms):
        torch.manual_seed(0)
        net = build_model("snn5_noAP", "relu")
        change(net)
        logits.append(net(x))
    assert not batch_norms(net)
    torch.testing.assert_close(logits[1], logits[0])


class Convolutions(TorchDispatchMode):
    """Multiply-accumulates of all convolutions, forward and backward."""

    def __init__(self):
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.forward += out.numel() * args[1][0].numel()  # input, weight [C_out, C_in, k, k], …
        elif func is torch.ops.aten.convolution_backward.default:  # grad, input, weight, …, which are wanted
            self.backward += args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
        return out


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


@pytest.mark.slow
def test_another_commit_takes_turns_with_this_one(capsys):
    assert main(["against", "HEAD", "-quick", "-rounds", "2", "-repeats", "1"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0].split("|")[2:5] == [" this (ms) ", " HEAD (ms) ", " HEAD / this "]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["float32", "bfloat16"]
    assert all(float(cell) > 0 for line in table[2:] for cell in line.split("|")[2:5])
    with pytest.raises(UsageError, match="no commit nowhere"):
        main(["against", "nowhere"])
