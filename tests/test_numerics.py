"""How exactly CUDA computes is an option: set before anything runs, named by config.json, the same in evaluation."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

from benchmarks.measuring import Case, run_case
from benchmarks.timing import Contender
from tests.helpers import rows_of, run_folder, run_training
from utils.numerics import CUDNN, set_numerics

QUICK = shlex.split("-dataset digits -model mlp3 -T 1 -epochs 1 -b 32 -train_fraction 0.05")


def seen_by_torch() -> tuple[bool, bool, bool, bool]:
    """(cudnn.deterministic, cudnn.benchmark, TF32 in convolutions, TF32 in matrix products)."""
    cudnn = torch.backends.cudnn
    return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def _as_before():
    deterministic, benchmark, tf32, _ = seen_by_torch()
    precision = torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("cudnn", CUDNN)
def test_every_setting_is_what_torch_sees(cudnn, tf32):
    for before in CUDNN:  # whatever was set before
        set_numerics(before, tf32=not tf32)
        set_numerics(cudnn, tf32=tf32)
        assert seen_by_torch() == (cudnn == "deterministic", cudnn == "benchmark", tf32, tf32)


def test_an_unknown_setting_is_refused_and_changes_nothing():
    set_numerics("benchmark", tf32=True)
    with pytest.raises(ValueError, match="deterministic, benchmark"):
        set_numerics("fast", tf32=False)
    assert seen_by_torch() == (False, True, True, True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], (True, False, False, False)), (["-cudnn", "benchmark", "-tf32"], (False, True, True, True))],
)
def test_training_evaluation_and_benchmarks_compute_alike(tmp_path, monkeypatch, options, expected):
    """The options' way into each of the three commands."""
    import inference
    import train_BPTT
    from deploy import subject

    seen = {}

    def training(settings, device, ranks, command):
        seen["training"] = seen_by_torch()
        return {"best_test_acc": 0.0, "test_acc": 0.0}

    result = run_training(*QUICK, *options, "-out_dir", tmp_path / "logs", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = run_folder(tmp_path / "logs")
    config = json.loads((folder / "config.json").read_text())
    assert (config["cudnn"], config["tf32"]) == ("benchmark" if options else "deterministic", bool(options))
    assert len(rows_of(folder)) == 1

    monkeypatch.setattr(train_BPTT, "train", training)
    train_BPTT.main([*map(str, QUICK), *options])

    evaluate = subject.evaluate

    def evaluation(*args, **kwargs):
        seen["evaluation"] = seen_by_torch()
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(subject, "evaluate", evaluation)
    inference.main(["-resume", str(folder / "checkpoint_latest.pth")])  # what config.json names
    saved = json.loads((folder / "inference/checkpoint_latest/evaluation.json").read_text())
    assert (saved["cudnn"], saved["tf32"]) == (config["cudnn"], config["tf32"])

    def work():
        seen["benchmarks"] = seen_by_torch()

    case = Case("neuron", "A title", lambda: {"ours": lambda: Contender({"work": work})}, rounds=1)
    run_case(case, torch.device("cpu"), config["cudnn"], config["tf32"])
    assert seen == dict.fromkeys(("training", "evaluation", "benchmarks"), expected)


def test_options_of_evaluation_go_before_config_json(tmp_path, monkeypatch):
    import inference

    result = run_training(*QUICK, "-out_dir", tmp_path / "logs", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    inference.main(["-resume", str(run_folder(tmp_path / "logs") / "checkpoint_latest.pth"), "-tf32"])
    assert seen_by_torch() == (True, False, True, True)
