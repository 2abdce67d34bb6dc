"""A recipe to read: its report in Markdown, and, before it is run, its commands and what they took elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from deploy import table8
from utils.output import in_markdown, markdown_table

from .checked_yaml import Printed
from .evaluation import OF_EACH_STEP
from .pairs import Pair, pairs_table
from .recipe import ACCURACY, Recipe, Run
from .recipe_figures import resets_of
from .results import BEST, LAST, TRAINED, Outcome, Results

NOT_RUN, NOT_MEASURED, NONE = "not run", "not measured", "–"
BY_LAYER = "firing rate "  # then the layer's number
NOTE = (
    "Accuracy in %, mean ± standard deviation over seeds. Test accuracy stands twice: with the running statistics of "
    "batch norm that all steps share, as published, and, *per step*, with those of each step ({none}: not measured). "
    "Training: on the training set, in the last epoch. Hours: one seed.\n"
)


def markdown(
    recipe: Recipe,
    outcomes: Mapping[str, Outcome],
    pictures: Sequence[str],
    pairs: Sequence[Pair] = (),
    seeds: Sequence[int] | None = None,
) -> str:
    """A recipe's report.

    Args:
        seeds: those that were asked for in place of the recipe's.
    """
    lines = [f"## {recipe.name}: {recipe.title}", "", recipe.about, ""]
    trained = [run for run in recipe.runs if run.command is None or run.command.trains]
    measured = [run for run in recipe.runs if run not in trained]
    lines += [trained_table(recipe, trained, outcomes)] if trained else []
    lines += [pairs_table(pairs)] if pairs else []
    lines += [measured_table(measured, outcomes)] if measured else []
    if by_epoch := [run for run in trained if run.paper.keys() - {ACCURACY}]:
        lines += ["Test accuracy by epoch, as published in brackets:\n", epochs_table(by_epoch, outcomes)]
    begun = [outcomes[run.id] for run in recipe.runs if run.command is not None]
    if not any(outcome.seeds or outcome.notes for outcome in begun):
        what, words = ("these seeds", f" --seeds {' '.join(map(str, seeds))}") if seeds else ("this", "")
        lines += [f"Nothing of {what} has been run here: the paper's side alone. "
                  f"`python reproduce.py run {recipe.name}{words}`\n"]  # fmt: skip
    if any(quantity.startswith(BY_LAYER) for run in measured for quantity in run.paper):
        lines += [f"The rates of single layers: {recipe.name}.csv, and the figure.\n"]
    lines += [NOTE.format(none=NONE)]
    if resets := {run.label: row for run in recipe.runs if (row := resets_of(outcomes[run.id]))}:
        lines += ["".join(f"- {line}\n" for line in table8.findings(resets))]
    if recipe.quoted:
        lines += ["Quoted by the paper from others, not run here:\n"]
        lines += [markdown_table(["", "accuracy (%)"], [[name, number(v)] for name, v in recipe.quoted.items()])]
    lines += [f"![{recipe.title}]({name})\n" for name in pictures if name.endswith(".png")]
    return "\n".join(lines)


def trained_table(recipe: Recipe, runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> str:
    """Training runs, a row each: the paper's accuracy and ours, of the best and of the last epoch."""
    compared = LAST if recipe.value == "last" else BEST
    header = ["", "paper", "best", "best, per step", "last", "last, per step", "training",
              f"{recipe.value} − paper", *ENDING]  # fmt: skip
    rows = []
    for run in runs:
        paper, values = run.paper.get(ACCURACY), outcomes[run.id].values
        places = places_of(paper)
        shown = [in_print(values.get(name, ()), places)
                 for name in (BEST, BEST + OF_EACH_STEP, LAST, LAST + OF_EACH_STEP, TRAINED)]  # fmt: skip
        known = paper is not None and values.get(compared)
        difference = f"{mean(values[compared]) - paper:+.{max(2, places)}f}" if known else NONE  # type: ignore[operator]
        rows.append([run.label, number(paper), *shown, difference, *ending(run, outcomes[run.id])])
    return markdown_table(header, rows)


def measured_table(runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> str:
    """What else was measured, a row for each run and a column for each quantity; the paper's value in brackets.

    Accuracies with the running statistics of each step have a row of their own.
    """
    columns = list(dict.fromkeys(name for run in runs for name in run.paper if not name.startswith(BY_LAYER)))
    rows = []
    for run in runs:
        outcome = outcomes[run.id]
        cells = [beside_paper(run, outcome, name) for name in columns]
        rows.append([run.label, *cells, *ending(run, outcome)])
        per_step = [in_print(outcome.values.get(name + OF_EACH_STEP, ())) for name in columns]
        if set(per_step) != {NONE}:
            rows.append([f"{run.label}; per step", *per_step, *[""] * len(ENDING)])
    return markdown_table(["", *columns, *ENDING], rows)


def epochs_table(runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> str:
    """Training runs whose accuracy is compared after some epochs, a row each; the published value in brackets."""
    columns = list(dict.fromkeys(name for run in runs for name in run.paper if name != ACCURACY))
    rows = [[run.label, *(beside_paper(run, outcomes[run.id], name) for name in columns)] for run in runs]
    return markdown_table(["", *columns], rows)


ENDING = ("seeds", "hours", "device", "status")


def ending(run: Run, outcome: Outcome) -> list[str]:
    """The last columns: which seeds, what it took, and what is missing."""
    hours = NONE if outcome.hours is None else f"{outcome.hours:.3g}"
    notes = missing(outcome) if run.command is None else map(in_markdown, missing(outcome))  # the recipe's own words
    return [
        ", ".join(map(str, outcome.seeds)) or NONE,
        hours,
        in_markdown(outcome.device or NONE),
        "; ".join(notes) or "done",
    ]


def missing(outcome: Outcome) -> list[str]:
    """What is missing of a run, or was left out, in words; nothing where it is done."""
    return list(outcome.notes) or ([] if outcome.seeds else [NOT_RUN])


def beside_paper(run: Run, outcome: Outcome, quantity: str) -> str:
    """Our value of a quantity, and the paper's in brackets if it has one."""
    paper = run.paper.get(quantity)
    ours = in_print(outcome.values.get(quantity, ()), places_of(paper))
    return ours if paper is None else f"{ours} ({number(paper)})"


def in_print(values: Sequence[float], places: int = 0) -> str:
    """Mean ± standard deviation, as far as there are values."""
    if not values:
        return NONE
    places = max(places, places_for(mean(values)))
    return f"{mean(values):.{places}f}" + (f" ± {stdev(values):.{places}f}" if len(values) > 1 else "")


def number(value: float | None) -> str:
    """The paper's number as it is printed."""
    if value is None:
        return NONE
    return value.text if isinstance(value, Printed) else f"{value:g}"


def places_of(paper: float | None) -> int:
    """How many decimals the paper prints."""
    return len(paper.text.partition(".")[2]) if isinstance(paper, Printed) else 0


def places_for(value: float) -> int:
    """How many decimals to show of a value of ours: two, four of what is below 1."""
    return 2 if abs(value) >= 1 or not value else 4


def show(recipe: Recipe, results: Results) -> str:
    """A recipe to read before it is run: every command, the paper's values, and what it took where it was run."""
    lines = [f"{recipe.name}: {recipe.title}", "", recipe.about, "", f"seeds: {', '.join(map(str, recipe.seeds))}", ""]
    for run in recipe.runs:
        lines += [f"{run.id}: {run.label}"]
        paper = ", ".join(f"{name} {'not printed' if v is None else number(v)}" for name, v in run.paper.items())
        lines += [f"    paper:   {paper}"]
        if run.command is None:
            lines += [f"    NOT COVERED: {run.not_covered}", ""]
            continue
        lines += [f"    command: {run.command.text}" + (f"    (reads {', '.join(run.of)})" if run.of else "")]
        lines += [f"    takes:   {takes(results.outcome(run, recipe.seeds))}", ""]
    if recipe.quoted:
        lines += [f"quoted from others: {', '.join(f'{name} {number(v)}' for name, v in recipe.quoted.items())}"]
    return "\n".join(lines)


def takes(outcome: Outcome) -> str:
    """What one seed took, as measured."""
    if outcome.hours is None:
        return f"time and memory: {NOT_MEASURED}"
    memory = "" if outcome.memory_gb is None else f", {outcome.memory_gb:.2g} GiB"
    return f"{outcome.hours:.2g} hours{memory} for one seed on {outcome.device or 'a device that is not named'}"
