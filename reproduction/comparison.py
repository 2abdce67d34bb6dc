"""The paper's values and ours side by side: Markdown, CSV, JSON and figures."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from utils.output import write_json, written_aside

from .evaluation import OF_EACH_STEP
from .evidence import FIGURES
from .markdown import markdown, missing
from .pairs import Member, Pair, pairs_of
from .recipe import ACCURACY, Recipe, Run
from .recipe_figures import draw
from .results import TRAINED, Outcome, Results

PICTURES = (".png", ".pdf")


@dataclass(frozen=True)
class Row:
    """One quantity of one run; numbers are means over the seeds that are finished.

    Args:
        best, last: accuracy (%) of the best and of the last epoch; of what has no epochs, ``best`` alone.
        best_per_step, last_per_step: the same with the running statistics of each step.
        trained: accuracy (%) on the training set in the last epoch.
        difference: ours less the paper's, of the value that the recipe compares.
    """

    recipe: str
    run: str
    label: str
    quantity: str
    paper: float | None
    best: float | None
    best_std: float | None
    best_per_step: float | None
    best_per_step_std: float | None
    last: float | None
    last_std: float | None
    last_per_step: float | None
    last_per_step_std: float | None
    trained: float | None
    trained_std: float | None
    difference: float | None
    seeds: tuple[int, ...]
    hours: float | None
    device: str
    status: str
    where: tuple[str, ...]


def rows_of(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> list[Row]:
    """The table's rows, in the recipe's order."""
    return [
        row_of(recipe, run, quantity, paper, outcomes[run.id])
        for run in recipe.runs
        for quantity, paper in run.paper.items()
    ]


def row_of(recipe: Recipe, run: Run, quantity: str, paper: float | None, outcome: Outcome) -> Row:
    """One quantity of a run."""
    has_epochs = run.command is not None and run.command.trains and quantity == ACCURACY
    best, last = (f"{quantity}, best", f"{quantity}, last") if has_epochs else (quantity, "")
    names = {
        "best": best,
        "best_per_step": best + OF_EACH_STEP,
        "last": last,
        "last_per_step": last + OF_EACH_STEP,
        "trained": TRAINED if quantity == ACCURACY else "",
    }
    numbers: dict[str, float | None] = {}
    for field, name in names.items():
        numbers[field], numbers[f"{field}_std"] = mean_and_std(outcome.values.get(name, ()))
    compared = numbers["last" if has_epochs and recipe.value == "last" else "best"]
    return Row(
        recipe=recipe.name,
        run=run.id,
        label=run.label,
        quantity=quantity,
        paper=paper,
        **numbers,
        difference=None if compared is None or paper is None else compared - paper,
        seeds=outcome.seeds,
        hours=outcome.hours,
        device=outcome.device,
        status="; ".join(missing(outcome)),
        where=tuple(str(path) for path in outcome.where),
    )


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation, as far as there are values."""
    if not values:
        return None, None
    return mean(values), stdev(values) if len(values) > 1 else None


def as_csv(rows: Sequence[Row]) -> str:
    """One line per row; an empty cell is what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row.__dataclass_fields__)
    for row in rows:
        cells = vars(row).values()
        writer.writerow([" ".join(map(str, c)) if isinstance(c, tuple) else "" if c is None else c for c in cells])
    return text.getvalue()


def write_report(recipe: Recipe, seeds: Sequence[int] | None, results: Results, out_dir: Path) -> str:
    """Write ``<recipe>.md``, ``.csv``, ``.json`` and its figure into ``out_dir``; returns the Markdown.

    Args:
        seeds: which seeds to look for; None takes the recipe's.
    """
    outcomes = {run.id: results.outcome(run, seeds or recipe.seeds) for run in recipe.runs}
    rows, pairs = rows_of(recipe, outcomes), paired(recipe, outcomes)
    with written_aside(out_dir) as folder:
        pictures = write_pictures(recipe, outcomes, results, folder)
        text = markdown(recipe, outcomes, [path.name for path in pictures], pairs, seeds)
        (folder / f"{recipe.name}.md").write_text(text, encoding="utf-8")
        (folder / f"{recipe.name}.csv").write_text(as_csv(rows), encoding="utf-8")
        content = {"title": recipe.title, "rows": [asdict(row) for row in rows],
                   "paired": [pair.as_dict() for pair in pairs], "quoted": dict(recipe.quoted)}  # fmt: skip
        write_json(folder / f"{recipe.name}.json", content)
    return text


def paired(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> list[Pair]:
    """Neurons of a recipe that were trained with the same settings and seeds, compared by pairs of runs."""
    members = []
    for run in recipe.runs:
        if run.command is not None and run.command.trains:
            outcome = outcomes[run.id]
            last = {seed: rows[-1] for seed, rows in zip(outcome.seeds, outcome.rows, strict=True)}
            members.append(Member(run.label, run.command.settings, last))
    return pairs_of(members)


def write_pictures(recipe: Recipe, outcomes: Mapping[str, Outcome], results: Results, folder: Path) -> list[Path]:
    """A recipe's pictures: drawn here from its numbers, or by its command; returns those that there are."""
    pictures = draw(recipe, outcomes, results, folder)
    if any(run.command and run.command.draws for run in recipe.runs):
        for where in dict.fromkeys(path for run in recipe.runs for path in outcomes[run.id].where):
            pictures += copy_pictures(where, recipe.name, folder)
    return pictures


def copy_pictures(where: Path, name: str, to: Path) -> list[Path]:
    """Copy what a command has drawn: what is named like the recipe if there is some, else all, with the recipe's name.

    Args:
        where: its folder, or the file of the evidence, which has pictures beside it.
    """
    if where.is_file():
        there = [path for path in sorted((where.parent / FIGURES).glob("*.png")) if path.stem.startswith(name)]
        return [Path(shutil.copy(path, to)) for path in there if path.stem == name or path.stem[len(name)] == "_"]
    there = [path for path in sorted(where.iterdir()) if path.suffix in PICTURES]
    stems = {path.stem for path in there}
    if name in stems or len(stems) == 1:
        own = [path for path in there if path.stem == name or len(stems) == 1]
        return [Path(shutil.copy(path, to / (name + path.suffix))) for path in own]
    return [Path(shutil.copy(path, to / f"{name}_{path.name}")) for path in there]
