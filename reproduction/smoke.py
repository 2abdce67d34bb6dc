"""Starts every recipe's commands on two batches of made-up data in the data set's own shape.

Commands that differ only in numbers (τ, k, learning rate, epochs …) make one case: one of them is run, and the parser
has accepted them all. T, network, neuron and every switch are the command's own; the data, the batch size and the
number of epochs are cut down. Each case is forked from this process, which has the libraries loaded and has computed
nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from utils.cli import exchange_of

from .commands import MODULES, OF, ROOT, Command
from .recipe import Recipe, Run
from .tiny_events import write_dvs_cifar10, write_dvs_cifar10_pt, write_dvs_gesture_events
from .tiny_images import write_cifar10, write_cifar100, write_idx, write_tiny_imagenet

# in which commands of one case may differ
NUMBERS = ("tau", "alpha", "lr", "weight_decay", "epochs", "T_max", "b", "train_fraction", "drop_rate", "bptt_k")
FORK = multiprocessing.get_context("fork")
# options that go last, so that they count: two batches of the few samples there are; of 1,438 digits, 30
DIGITS = ("-train_fraction", "0.02", "-b", "15")
CUT = {"cifar10": ("-b", "3"), "dvsgesture": ("-b", "1"), "digits": DIGITS, "digits_dvs": DIGITS, "digits_seq": DIGITS}
CUT_OTHERS = ("-b", "2")


@dataclass
class Case:
    """Commands that start in the same way.

    Args:
        command: the one that is run.
        needs: the case whose checkpoint it reads.
        of: the runs it stands for, as ``recipe/id``.
    """

    name: str
    command: Command
    needs: Case | None
    of: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None  # None: not ended; "": it works


def cases_of(recipes: Sequence[Recipe], runs: Mapping[str, Run]) -> list[Case]:
    """The cases of some recipes, each after the one whose checkpoint it reads."""
    cases: dict[str, Case] = {}

    def case(run: Run) -> Case:
        assert run.command is not None
        needs = case(runs[run.of]) if run.of else None
        given = dict(run.command.given)
        for name in NUMBERS:
            if name in given:
                given[name] = "any"
        if "switch_neuron" in given:
            given["switch_neuron"] = exchange_of(given["switch_neuron"])[1]
        identity = json.dumps([run.command.program, given, needs.name if needs else ""], sort_keys=True, default=str)
        return cases.setdefault(identity, Case(f"{len(cases)}", run.command, needs))

    for recipe in recipes:
        for run in recipe.runs:
            if run.command is not None:
                case(run).of.append(run.full_id)
    return list(cases.values())


def smoke(recipes: Sequence[Recipe], runs: Mapping[str, Run], processes: int) -> int:
    """Run every case and print a line for each; returns the exit code: 0 if all work, else 1."""
    started = time.monotonic()
    cases = cases_of(recipes, runs)
    with TemporaryDirectory(prefix="smoke-") as folder:
        write_data(Path(folder) / "data", [case.command.settings for case in cases if case.command.trains])
        print("seconds  result  what is started (how many of the recipes' commands differ from it in numbers at most)")
        run_cases(cases, Path(folder), processes)
    failed = [case for case in cases if case.error]
    commands = sum(len(case.of) for case in cases)
    for case in failed:
        print(f"FAILED: {', '.join(case.of) or 'what others read'}\n  {case.command.text}\n  {case.error}")
    print(
        f"{commands} commands in {len(cases)} cases, {len(failed)} failed; {time.monotonic() - started:.0f} s. "
        "Cut down: made-up data (of digits, 2% of the training set), two small batches, one epoch."
    )
    return 1 if failed else 0


def run_cases(cases: Sequence[Case], folder: Path, processes: int) -> None:
    """Run the cases, ``processes`` at once; what reads a checkpoint waits for it."""
    waiting = list(cases)
    running: dict[ForkProcess, tuple[Case, float]] = {}
    readers = {id(case.needs) for case in cases if case.needs}
    while waiting or running:
        ready = [case for case in waiting if case.needs is None or case.needs.error is not None]
        for case in ready[: processes - len(running)]:
            waiting.remove(case)
            if case.needs is not None and case.needs.error:
                report(case, "its training run failed")
                continue
            process = FORK.Process(target=start, args=(words_of(case, folder), folder / f"{case.name}.log"))
            process.start()
            running[process] = case, time.monotonic()
        ended = set(wait([process.sentinel for process in running])) if running else set()
        for process in [process for process in running if process.sentinel in ended]:
            case, began = running.pop(process)
            process.join()
            case.seconds = time.monotonic() - began
            lines = (folder / f"{case.name}.log").read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
            report(case, f"exit code {process.exitcode}: {last}" if process.exitcode else "")
            if id(case) not in readers:
                shutil.rmtree(folder / case.name, ignore_errors=True)


def report(case: Case, error: str) -> None:
    """Note how a case ended, and say so."""
    case.error = error
    settings = (case.needs or case).command.settings
    where = [str(settings[key]) for key in ("dataset", "model", "neuron") if key in settings]
    where += [f"T={settings['T']}"] if "T" in settings else []
    switches = [
        f"-{name}" + ("" if value is True else f" {value}")
        for name, value in case.command.given.items()
        if name not in (*NUMBERS, "dataset", "model", "neuron", "T", "resume", "switch_neuron")
    ]
    switches += [f"-{name}" for name in ("bptt_k", "switch_neuron", "drop_rate") if name in case.command.given]
    line = " ".join([case.command.program, *where, *switches])
    print(f"{case.seconds:7.1f}  {'FAILED' if error else 'ok':<6}  {line} ({len(case.of)})", flush=True)


def words_of(case: Case, folder: Path) -> list[str]:
    """The program and its options, cut down."""
    command, data = case.command, ("-data_dir", str(folder / "data"), "-no_download", "-j", "0")
    if command.trains:
        cut = CUT.get(command.settings["dataset"], CUT_OTHERS)
        epochs = ["-epochs", "1"]
        if "switch_neuron" in command.given:  # one epoch before, one after
            epochs = ["-epochs", "2", "-switch_neuron", f"1:{exchange_of(command.given['switch_neuron'])[1]}"]
        return [*command.words(), *cut, *epochs, *data, "-out_dir", str(folder), "-name", case.name]
    words = (
        [word.replace(OF, str(folder / case.needs.name)) for word in command.words()] if case.needs else command.words()
    )
    if command.program in MODULES:
        return [*words, "-out_dir", str(folder / case.name)]
    return [*words, *data, "-out_dir", str(folder / case.name)]


def start(words: Sequence[str], log: Path) -> None:
    """In a process of its own: run a program as if it had been typed."""
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    for fd in (1, 2):  # what is not Python's
        os.dup2(sys.stdout.fileno(), fd)
    torch.set_num_threads(1)
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def write_data(root: Path, commands: Sequence[Mapping[str, Any]]) -> None:
    """The data sets that the commands read, a few samples each."""
    root.mkdir()
    frames = {settings["T"] for settings in commands if settings["dataset"] == "DVSCIFAR10-pt"}
    writers = {
        "cifar10": lambda: write_cifar10(root, per_batch=1, test=2),
        "cifar100": lambda: write_cifar100(root, train=4, test=2),
        "fashion_mnist": lambda: write_idx(root / "FashionMNIST" / "raw", train=4, test=2),
        "fashion_mnist_32": lambda: write_idx(root / "FashionMNIST" / "raw", train=4, test=2),
        "tiny_imagenet": lambda: write_tiny_imagenet(root, classes=2, per_class=2, val_per_class=1),
        "DVSCIFAR10": lambda: write_dvs_cifar10(root, numbers={k: [0] if k < 4 else [900] for k in range(10)}),
        "DVSCIFAR10-pt": lambda: [write_dvs_cifar10_pt(root, T=T, train=4, test=2) for T in frames],
        "dvsgesture": lambda: write_dvs_gesture_events(root, labels=range(2), train_users=(1,)),
    }
    for dataset in sorted({settings["dataset"] for settings in commands} & writers.keys()):
        writers[dataset]()
