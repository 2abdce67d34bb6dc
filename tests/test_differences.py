"""docs/differences.md: what holds each line is there, and the lines that no other test holds are true."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
import torch

from data import build_dataset
from reproduction.recipe import load_recipes
from settings.command_line import training_parser
from settings.inference import inference_parser
from tests.helpers import ROOT, run_folder, run_training
from utils.engine import Meter
from utils.loss import bptt_loss

HOLDER = re.compile(r"`([\w/]+\.py)::(\w+)`")
TEXT = (ROOT / "docs" / "differences.md").read_text()


def lines_of(text: str) -> list[str]:
    """Rows of tables, their heads left out, and whole items of lists."""
    rows = re.findall(r"^\|(?!---).*\|$", text, re.MULTILINE)
    items = re.findall(r"^- (?:.+\n(?:  .+\n?)*)", text, re.MULTILINE)
    return [row for row in rows if not row.endswith("Held by |")] + items


@cache
def names_in(path: str) -> set[str]:
    """Functions, classes and constants at the top of a module."""
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


@pytest.mark.parametrize("line", lines_of(TEXT), ids=lambda line: line[:40])
def test_what_holds_a_line_is_there(line):
    end = line.rstrip(" |\n").rpartition(" | ")[2] if line.startswith("|") else line.rpartition("Held by")[2]
    assert HOLDER.findall(end), "nothing holds it"
    assert not HOLDER.sub("", end).strip(" ,.\n"), "the last column names tests and code alone"
    for path, name in HOLDER.findall(end):
        assert (ROOT / path).is_file(), path
        assert name in names_in(path), f"{path} has no {name}"


def test_lines_are_found():
    assert len(lines_of(TEXT)) > 50
    assert len(HOLDER.findall(TEXT)) == len(re.findall(r"::", TEXT)), "a name that the check does not see"


def test_defaults_are_the_published_ones():
    """The published script's defaults; those that differ stand in docs/differences.md."""
    published = {
        "seed": [2022], "T": 6, "tau": 2.0, "b": 128, "epochs": 300, "dataset": "cifar10", "out_dir": "logs",
        "surrogate": "rectangle", "resume": None, "pre_train": None, "name": None, "amp": True, "opt": "SGD", "lr": 0.1,
        "momentum": 0.9, "lr_scheduler": "CosALR", "step_size": 100, "gamma": 0.1, "T_max": 300,
        "model": "spiking_vgg11_bn", "drop_rate": 0.0, "weight_decay": 5e-4, "loss_lambda": 0.05, "mse_n_reg": False,
        "loss_means": 1.0, "save_init": False, "cutupmix_auto": False, "label_smoothing": 0.0,
    }  # fmt: skip
    ours = vars(training_parser().parse_args([]))
    ours["out_dir"] = str(ours["out_dir"])
    assert {name: ours[name] for name in published} == published
    assert (ours["neuron"], str(ours["data_dir"]), ours["j"]) == ("CLIF", "data_dir", None)  # LIF, data, 0 there


@pytest.mark.parametrize("option", ["-name x", "-drop_rate 0.3", "-surrogate sigmoid", "-amp", "-cutupmix_auto"])
def test_inference_refuses_what_changes_nothing(option, capsys):
    with pytest.raises(SystemExit):
        inference_parser().parse_args(["-resume", "checkpoint_max.pth", *option.split()])
    assert f"unknown option {option.split()[0]}" in capsys.readouterr().err


def test_tiny_imagenet_is_trained_as_the_paper_says():
    runs = [run for run in load_recipes()["table1"].runs if run.id.startswith("tiny-")]
    assert len(runs) == 3
    for run in runs:
        settings = run.command.settings
        assert (settings["b"], settings["epochs"], settings["T_max"]) == (256, 300, 300)
        assert (settings["weight_decay"], settings["lr"]) == (5e-4, 0.1)


def test_relu_sees_all_events_in_one_frame(tmp_path):
    one, four = build_dataset("digits_dvs", T=1).test, build_dataset("digits_dvs", T=4).test
    for index in one.indices[:20].tolist():
        assert one.load(index).shape[0] == 1
        assert torch.equal(one.load(index)[0], four.load(index).sum(0))
    options = "-dataset digits_dvs -model mlp3 -neuron relu -T 4 -epochs 1 -b 16 -train_fraction 0.02"
    result = run_training(*options.split(), "-out_dir", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "with relu, T = 1," in result.stdout
    assert "_T1_" in run_folder(tmp_path).name


def test_the_printed_loss_of_soft_labels_is_the_mean_over_samples():
    """Ten classes: the printed loss is the loss, and its gradient that of the published formula, for any labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 10, generator=generator, dtype=torch.float64).requires_grad_()
    soft = torch.rand(8, 10, generator=generator, dtype=torch.float64).softmax(1)
    loss = bptt_loss(logits, soft)
    meter = Meter(torch.device("cpu"))
    meter.add(loss, logits, soft, step=0)
    assert meter.read()[0] == pytest.approx(loss.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    # by hand: of −Σ p·log softmax, and of the mean of (logit − 1)², over T·N rows
    by_hand = 0.95 * (logits.softmax(2) - soft) / 24 + 0.05 * 2 * (logits - 1) / 240
    torch.testing.assert_close(gradient, by_hand)
