#!/usr/bin/env python3
"""The paper's tables and figures, one command each.

    python reproduce.py list
    python reproduce.py show table1
    python reproduce.py run table1 --only cifar10-clif-T6 --seeds 2022 2023
    python reproduce.py run table1 -- -cuda_graph
    python reproduce.py report all
    python reproduce.py keep table1
    python reproduce.py compare logs/CLIF logs/LIF
    python reproduce.py smoke

A table or figure is a recipe (recipes/*.yaml), a result is a run folder, a report is the two side by side.
"""

from __future__ import annotations

import utils.early  # isort: skip # noqa: F401 - before what takes seconds
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

from reproduction.checked_yaml import RecipeError
from reproduction.child import StoppedError
from reproduction.commands import CommandError, read_machine_options
from reproduction.comparison import write_report
from reproduction.evidence import RUNS_DIR
from reproduction.html_page import check_page, write_page
from reproduction.keep import keep
from reproduction.markdown import show
from reproduction.recipe import RECIPES, Recipe, Run, load_recipes
from reproduction.results import Results
from reproduction.runner import Job, command_line, plan, run_jobs, shown
from reproduction.side_by_side import compare
from reproduction.smoke import smoke
from utils.cli import OneLineParser, UsageError, did_you_mean, number
from utils.cuda_graph import check_can_record
from utils.device import choose_device
from utils.exit import one_line_errors
from utils.run_dir import naming_disk

COMPARISON = Path("logs/compare")
ALL = "all"
T = TypeVar("T", Recipe, Run)


COMMANDS = {
    "list": "every recipe: what it is of, how many runs, how many are finished",
    "show": "a recipe's commands and the paper's values",
    "run": "run what a recipe still lacks; what was stopped is resumed. Options after -- go to every training: "
    "those that a machine decides, such as -cuda_graph, -device or -j",
    "report": "the paper's values and ours side by side",
    "keep": "write finished runs into the evidence, a line for each, to be committed",
    "compare": "any run folders side by side: a table, their curves, differences paired by seed",
    "smoke": "start every command on two batches of made-up data in the data set's own shape",
}


def read_options(argv: Sequence[str] | None = None) -> Namespace:
    """The command line: a command, then its options."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    added = []
    if name == "run" and "--" in words:  # what follows is for the training script
        words, added = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = OneLineParser(COMMANDS.get(name, "The paper's tables and figures, one command each."))
    parser.prog = "reproduce.py"
    if name not in COMMANDS:
        lines = "; ".join(f"{command}: {text}" for command, text in COMMANDS.items())
        parser.add_argument("command", choices=COMMANDS, help=f"{lines}. Each has a -h of its own")
        return parser.parse_args(words[:1])
    parser.prog += f" {name}"
    add = parser.add_argument
    natural = number(int, least=0)
    if name == "smoke":
        add("recipe", nargs="*", help="these recipes alone; none means all")
        add("--processes", type=number(int, least=1), default=os.cpu_count(), help="how many at once")
    elif name == "compare":
        add("runs", nargs="+", type=Path, metavar="LOGS", help="run folders, or folders that hold some")
    elif name != "list":
        add("recipe", nargs="?" if name == "report" else None, default=ALL,
            help="table1, figure2b …" + (" or all" if name == "report" else ""))  # fmt: skip
    if name == "run":
        add("--only", nargs="+", metavar="ID", help="these runs of the recipe alone")
        add("--data_dir", type=Path, default=Path("./data_dir"), help="folder that holds the data sets")
        add("--dry-run", action="store_true", help="print the commands, run nothing")
    if name != "compare":
        add("--recipes", type=Path, default=RECIPES, help="folder of the recipes")
    if name in ("run", "report", "keep"):
        add("--seeds", type=natural, nargs="+", help="in place of the recipe's seeds")
    if name in ("list", "show", "run", "report", "keep"):
        add("--runs_dir", type=Path, default=RUNS_DIR, help="where run folders stand")
    if name in ("report", "compare"):
        where = "RUNS_DIR/report" if name == "report" else str(COMPARISON)
        add("--out", type=Path, help=f"folder for tables, JSON and figures; None is {where}")
        add("--html", type=Path, metavar="FILE", help="besides, all of it as one page that needs no network")
    args = Namespace(command=name, added=added, **vars(parser.parse_args(words[1:])))
    if vars(args).get("seeds"):
        args.seeds = list(dict.fromkeys(args.seeds))  # one that is named twice is one run
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = read_options(argv)
    if getattr(args, "html", None):
        check_page(args.html)
    if args.command == "compare":
        out_dir = args.out or COMPARISON
        text = compare(args.runs, out_dir)
        print(f"{text}\nwritten to {out_dir}")
        write_html(args.html, "Runs side by side", {"runs": text}, out_dir)
        return 0
    recipes = load_recipes(args.recipes)
    runs = {run.full_id: run for recipe in recipes.values() for run in recipe.runs}
    if args.command == "smoke":
        chosen = [known(recipes, name, "recipe") for name in args.recipe] or list(recipes.values())
        return smoke(chosen, runs, args.processes)
    if args.runs_dir.exists() and not args.runs_dir.is_dir():
        raise UsageError(f"--runs_dir {args.runs_dir} is not a folder")
    results = Results(args.runs_dir, runs)
    if args.command == "show":
        print(show(known(recipes, args.recipe, "recipe"), results))
        return 0
    if args.command == "list":
        for recipe in recipes.values():
            print(line_of(recipe, results))
        return 0
    if args.command == "report":
        chosen = list(recipes.values()) if args.recipe == ALL else [known(recipes, args.recipe, "recipe")]
        out_dir = args.out or args.runs_dir / "report"
        reports = {}
        for recipe in chosen:
            reports[recipe.name] = write_report(recipe, args.seeds, results, out_dir)
            print(reports[recipe.name], flush=True)
        print(f"written to {out_dir}")
        write_html(args.html, "CLIF: the paper's tables and figures, and ours", reports, out_dir)
        return 0
    recipe = known(recipes, args.recipe, "recipe")
    if args.command == "keep":
        print(keep(recipe, args.seeds or recipe.seeds, results, recipes))
        return 0
    return run(recipe, args, results)


def write_html(path: Path | None, title: str, reports: Mapping[str, str], pictures: Path) -> None:
    """Write reports as one page, if that was asked for."""
    if path is not None:
        write_page(path, title, reports, pictures)
        print(f"page: {path}")


def run(recipe: Recipe, args: Namespace, results: Results) -> int:
    """Run what a recipe still lacks; returns the exit code: 0, or 1 if anything failed."""
    by_id = {each.id: each for each in recipe.runs}
    chosen = [known(by_id, name, f"run of {recipe.name}") for name in args.only or by_id]
    for each in chosen:
        if each.command is None:
            print(f"{each.full_id}: not covered: {each.not_covered}")
    jobs = plan(chosen, args.seeds or recipe.seeds, results)
    check_added(args.added, jobs)
    if args.dry_run:
        for job in jobs:
            done = "  # finished" if results.is_finished(job.run, job.seed) else ""
            print(shown(command_line(job, results, args.data_dir, args.added)) + done)
        return 0
    if not all(results.is_finished(job.run, job.seed) for job in jobs):
        with naming_disk(args.runs_dir):  # once, and not by each of the runs
            args.runs_dir.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=args.runs_dir).close()
    failures = run_jobs(jobs, results, args.data_dir, args.added)
    print(f"{recipe.name}: {len(jobs) - len(failures)} of {len(jobs)} runs finished")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def check_added(added: Sequence[str], jobs: Sequence[Job]) -> None:
    """Refuse options after ``--`` that training runs cannot take, before the first of them starts.

    Raises:
        UsageError: naming the option, or the run that does not go with it.
    """
    try:
        machine = read_machine_options(added)
    except CommandError as error:
        raise UsageError(str(error)) from None
    device = choose_device(machine["device"])
    for job in jobs:
        command = job.run.command
        if machine["cuda_graph"] and command is not None and command.trains:
            checkpoint = machine["checkpoint"] or command.settings["checkpoint"]
            try:
                check_can_record(device, 1, checkpoint, command.settings["switch_neuron"])
            except UsageError as error:
                raise UsageError(f"{job.run.full_id}: {error}") from None


def line_of(recipe: Recipe, results: Results) -> str:
    """A recipe in the list: how many of its runs are finished, and so skipped by ``run``, and are in the evidence."""
    jobs = plan(recipe.runs, recipe.seeds, results)
    done = sum(results.is_finished(job.run, job.seed) for job in jobs)
    kept = sum(results.key(job.run, job.seed) in results.kept for job in jobs)
    left = sum(each.command is None for each in recipe.runs)
    counts = f"{done:>3} of {len(jobs):>3} runs finished, {kept:>3} in evidence" + f", {left} not covered" * bool(left)
    return f"{recipe.name:<20} {counts:<56} {recipe.title}"


def known(there: Mapping[str, T], name: str, kind: str) -> T:
    """What has that name.

    Raises:
        UsageError: with those that there are.
    """
    if name not in there:
        raise UsageError(f"unknown {kind} {name!r}{did_you_mean(name, there)} (known: {', '.join(there)})")
    return there[name]


if __name__ == "__main__":
    try:
        with one_line_errors("reproduce.py", UsageError, RecipeError):
            sys.exit(main())
    except StoppedError as stopped:
        print(f"reproduce.py: stopped by {stopped}; the same command resumes it", file=sys.stderr)
        sys.exit(stopped.code)
