"""Starts every recipe's commands on two batches of made-up data in the data set's own shape.

Commands that differ only in numbers (τ, k, learning rate, epochs …) make one case: one of them is run, and the parser
has accepted them all. Of trainings that differ in T alone the fewest and the most steps are run, and those whose
checkpoint is read. Network, neuron, T and every switch are the command's own; the data, the batch size and the
number of epochs are cut down. Each case is forked from this process, which has the libraries loaded and has computed
nothing.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
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

from data import DATASETS, describe
from utils.cli import exchange_of
from utils.curves import draw_curves

from .commands import INFER, TRAIN, Command
from .recipe import Recipe, Run

# In what commands of one case may differ: numbers, given or not …
NUMBERS = ("tau", "alpha", "lr", "weight_decay", "epochs", "T_max", "b")
# … and numbers that more than a number depends on: with one another part of the code runs than without.
SWITCHING_NUMBERS = ("train_fraction", "drop_rate", "bptt_k")
LESS = {"figures.evaluation_gap": ("-samples", "20")}  # options that cut down what trains nothing
LESS_CALIBRATION = ("-calibrate_samples", "10", "-calibrate_passes", "1")
ONE_RESET = ("-v_resets", "-0.06")
TWO_RESETS = ("-v_resets", "soft", "-0.06")
FORK = multiprocessing.get_context("fork")


@dataclass
class Case:
    """Commands that start in the same way.

    Args:
        command: the one that is run.
        needs: the cases whose checkpoints it reads.
        of: the runs it stands for, as ``recipe/id``.
    """

    name: str
    command: Command
    needs: tuple[Case, ...]
    of: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None  # None: not ended; "": it works


def cases_of(recipes: Sequence[Recipe], runs: Mapping[str, Run]) -> list[Case]:
    """The cases of some recipes, each after the one whose checkpoint it reads."""
    cases: dict[str, Case] = {}

    def case(run: Run) -> Case:
        assert run.command is not None
        needs = tuple(case(runs[name]) for name in run.of)
        identity = json.dumps([kind_of(run.command), *(each.name for each in needs)], sort_keys=True)
        return cases.setdefault(identity, Case(f"{len(cases)}", run.command, needs))

    for recipe in recipes:
        for run in recipe.runs:
            if run.command is not None:
                case(run).of.append(run.full_id)
    return without_middle_steps(list(cases.values()))


def kind_of(command: Command) -> list[Any]:
    """The program and its options, numbers that may differ within a case left out."""
    given = {name: value for name, value in command.given.items() if name not in NUMBERS}
    for name in SWITCHING_NUMBERS:
        if name in given:
            given[name] = "any"
    if "switch_neuron" in given:
        given["switch_neuron"] = exchange_of(given["switch_neuron"])[1]
    return [command.program, given]


def without_middle_steps(cases: Sequence[Case]) -> list[Case]:
    """Of trainings that differ in T alone, those of the fewest and of the most steps, which stand for the rest."""
    read = {each.name for case in cases for each in case.needs}
    alike: dict[str, list[Case]] = {}
    for case in cases:
        if case.command.trains:
            program, given = kind_of(case.command)
            given.pop("T", None)
            alike.setdefault(json.dumps([program, given], sort_keys=True), []).append(case)
    dropped = set()
    for group in alike.values():
        *fewer, most = sorted(group, key=lambda case: case.command.settings["T"])
        for case in fewer[1:]:
            if case.name not in read:
                most.of += case.of
                dropped.add(case.name)
    return [case for case in cases if case.name not in dropped]


def smoke(recipes: Sequence[Recipe], runs: Mapping[str, Run], processes: int) -> int:
    """Run every case and print a line for each; returns the exit code: 0 if all work, else 1."""
    started = time.monotonic()
    cases = cases_of(recipes, runs)
    with TemporaryDirectory(prefix="smoke-") as folder:
        write_data(Path(folder), [case.command.settings for case in cases if case.command.trains])
        load_libraries([case.command for case in cases], Path(folder) / "curves.png")
        print("seconds  result  what is started (how many of the recipes' commands differ from it in numbers at most)")
        run_cases(cases, Path(folder), processes)
    failed = [case for case in cases if case.error]
    commands = sum(len(case.of) for case in cases)
    for case in failed:
        print(f"FAILED: {', '.join(case.of) or 'what others read'}\n  {case.command.text}\n  {case.error}")
    print(
        f"{commands} commands in {len(cases)} cases, {len(failed)} failed; {time.monotonic() - started:.0f} s. "
        "Cut down: made-up data (of digits, 2% of the training set and 20 test scans), two small batches, one epoch."
    )
    return 1 if failed else 0


def run_cases(cases: Sequence[Case], folder: Path, processes: int) -> None:
    """Run the cases, ``processes`` at once; what reads a checkpoint waits for it."""
    waiting = list(cases)
    running: dict[ForkProcess, tuple[Case, float]] = {}
    read = {each.name for case in cases for each in case.needs}
    while waiting or running:
        ready = [case for case in waiting if all(each.error is not None for each in case.needs)]
        for case in ready[: processes - len(running)]:
            waiting.remove(case)
            if any(each.error for each in case.needs):
                report(case, "its training run failed")
                continue
            log = folder / f"{case.name}.log"
            process = FORK.Process(target=start, args=(case, options_of(case, folder), log))
            process.start()
            running[process] = case, time.monotonic()
        ended = set(wait([process.sentinel for process in running])) if running else set()
        for process in [process for process in running if process.sentinel in ended]:
            case, began = running.pop(process)
            process.join()
            case.seconds = time.monotonic() - began
            lines = (folder / f"{case.name}.log").read_text(errors="replace", encoding="utf-8").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
            report(case, f"exit code {process.exitcode}: {last}" if process.exitcode else "")
            if case.name not in read:
                shutil.rmtree(folder / case.name, ignore_errors=True)


def settings_of(case: Case) -> Mapping[str, Any]:
    """Those of its training run."""
    return (*case.needs, case)[0].command.settings


def report(case: Case, error: str) -> None:
    """Note how a case ended, and say so."""
    case.error = error
    settings = settings_of(case)
    where = [str(settings[key]) for key in ("dataset", "model", "neuron") if key in settings]
    where += [f"T={settings['T']}"] if "T" in settings else []
    switches = [
        f"-{name}" + ("" if value is True else f" {value}")
        for name, value in case.command.given.items()
        if name not in (*NUMBERS, *SWITCHING_NUMBERS, "dataset", "model", "neuron", "T", "resume", "switch_neuron")
    ]
    switches += [f"-{name}" for name in (*SWITCHING_NUMBERS, "switch_neuron") if name in case.command.given]
    line = " ".join([case.command.program, *where, *switches])
    print(f"{case.seconds:7.1f}  {'FAILED' if error else 'ok':<6}  {line} ({len(case.of)})", flush=True)


def options_of(case: Case, folder: Path) -> list[str]:
    """The options of the command, cut down."""
    command, settings = case.command, settings_of(case)
    options = list(command.options)
    if command.trains:
        options += describe(settings["dataset"]).two_batches
        options += ["-epochs", "1"]
        if "switch_neuron" in command.given:  # one epoch before, one after
            options += ["-epochs", "2", "-switch_neuron", f"1:{exchange_of(command.given['switch_neuron'])[1]}"]
    for place, trained in zip(command.places, case.needs, strict=True):
        options = [word.replace(place, str(folder / trained.name)) for word in options]
    if "data_dir" in command.settings:
        options += ["-data_dir", str(data_dir(folder, settings))]
    if command.program in (TRAIN, INFER):
        options += ["-no_download", "-j", "0"]
    options += LESS.get(command.program, ())
    if command.given.get("calibrate"):
        options += LESS_CALIBRATION
    if "v_resets" not in command.given:  # in a calibration each layer tries the soft one, too, if that is among them
        options += ONE_RESET if command.given.get("calibrate") else TWO_RESETS if command.given.get("sweep") else ()
    if command.trains:
        return [*options, "-out_dir", str(folder), "-name", case.name]
    return [*options, "-out_dir", str(folder / case.name)]


def start(case: Case, options: list[str], log: Path) -> None:
    """In a process of its own: call a program with its options."""
    sys.stdout = sys.stderr = log.open("w", buffering=1, encoding="utf-8")
    for fd in (1, 2):  # what is not Python's
        os.dup2(sys.stdout.fileno(), fd)
    torch.set_num_threads(1)
    settings = settings_of(case)
    if "dataset" in settings and (test_few := describe(settings["dataset"]).test_few) is not None:
        test_few()
    importlib.import_module(case.command.program.removesuffix(".py")).main(options)


def load_libraries(commands: Sequence[Command], drawn: Path) -> None:
    """Import what the commands import and draw one picture, so that each fork has the libraries and their fonts."""
    modules = {command.program.removesuffix(".py") for command in commands} | {"torch.utils.tensorboard"}
    datasets = {command.settings["dataset"] for command in commands if command.trains}
    for module in sorted(modules | {f"data.{DATASETS[dataset].split('.')[0]}" for dataset in datasets}):
        importlib.import_module(module)
    draw_curves([{"epoch": 0}], drawn)
    gc.freeze()  # a fork's collector then leaves their pages shared


def data_dir(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Where the data of a command stand; some sets are written for one T alone."""
    return folder / f"data-{settings.get('dataset')}-T{settings.get('T')}"


def write_data(folder: Path, commands: Sequence[Mapping[str, Any]]) -> None:
    """The data sets that training commands read, a few made-up samples each."""
    for root, settings in {data_dir(folder, settings): settings for settings in commands}.items():
        root.mkdir()
        write = describe(settings["dataset"]).write
        if write is not None:
            write(root, settings["T"])
