"""The paper's values and ours side by side: Markdown, CSV, JSON and figures."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

from analysis.report import markdown_table, write_json, written_aside

from .figures import draw
from .recipe import ACCURACY, NOT_MEASURED, Recipe, Run
from .results import Outcome, Results

NOT_RUN = "not run"
BY_LAYER = "firing rate "  # then the layer's number
PICTURES = (".png", ".pdf")


@dataclass(frozen=True)
class Row:
    """One quantity of one run; numbers are means over the seeds that are finished.

    Args:
        best, last: accuracy (%) of the best and of the last epoch; of what has no epochs, ``best`` alone.
        difference: ours less the paper's, of the value that the recipe compares.
    """

    recipe: str
    run: str
    label: str
    quantity: str
    paper: float | None
    best: float | None
    best_std: float | None
    last: float | None
    last_std: float | None
    difference: float | None
    seeds: tuple[int, ...]
    hours: float | None
    device: str
    status: str
    folders: tuple[str, ...]


def rows_of(recipe: Recipe, outcomes: Mapping[str, Outcome]) -> list[Row]:
    """The table's rows, in the recipe's order."""
    return [
        row_of(recipe, run, quantity, paper, outcomes[run.id])
        for run in recipe.runs
        for quantity, paper in run.paper.items()
    ]


def row_of(recipe: Recipe, run: Run, quantity: str, paper: float | None, outcome: Outcome) -> Row:
    """One quantity of a run."""
    trained = run.command is not None and run.command.trains
    names = (f"{quantity}, best", f"{quantity}, last") if trained else (quantity, "")
    (best, best_std), (last, last_std) = (mean_and_std(outcome.values.get(name, ())) for name in names)
    compared = last if trained and recipe.value == "last" else best
    return Row(
        recipe=recipe.name,
        run=run.id,
        label=run.label,
        quantity=quantity,
        paper=paper,
        best=best,
        best_std=best_std,
        last=last,
        last_std=last_std,
        difference=None if compared is None or paper is None else compared - paper,
        seeds=outcome.seeds,
        hours=outcome.hours,
        device=outcome.device,
        status="; ".join([*([] if outcome.seeds or run.not_covered else [NOT_RUN]), *outcome.notes]),
        folders=tuple(str(folder) for folder in outcome.folders),
    )


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation, as far as there are values."""
    if not values:
        return None, None
    return mean(values), stdev(values) if len(values) > 1 else None


def markdown(recipe: Recipe, rows: Sequence[Row], pictures: Sequence[str]) -> str:
    """A recipe's report to read."""
    several = any(row.quantity != ACCURACY for row in rows)
    header = ["", *(["quantity"] if several else []), "paper", "ours, best", "ours, last", "difference", "seeds",
              "hours", "device", "status"]  # fmt: skip
    by_layer = [row for row in rows if row.quantity.startswith(BY_LAYER)]
    cells = [
        [
            row.label,
            *([row.quantity] if several else []),
            "–" if row.paper is None else str(row.paper),  # the paper's own digits
            number(row.best, row.best_std),
            number(row.last, row.last_std),
            "–" if row.difference is None else f"{row.difference:+.2f}",
            ", ".join(map(str, row.seeds)) or "–",
            "–" if row.hours is None else f"{row.hours:.3g}",
            row.device or "–",
            row.status or "done",
        ]
        for row in rows
        if row not in by_layer
    ]
    lines = [f"## {recipe.name}: {recipe.title}", "", recipe.about, "", markdown_table(header, cells)]
    if not any(row.seeds for row in rows):
        lines += [
            f"Nothing of this has been run here: the paper's side alone. `python reproduce.py run {recipe.name}`\n"
        ]
    if by_layer:
        lines += [f"The rates of single layers: {recipe.name}.csv, and the figure.\n"]
    compared = "best epoch, chosen on the test set as the paper does" if recipe.value == "best" else "last epoch"
    lines += [
        f"Accuracy in %, mean ± standard deviation over seeds; the difference is of the {compared}. Hours: one seed.\n"
    ]
    if recipe.quoted:
        lines += ["Quoted by the paper from others, not run here:\n"]
        lines += [markdown_table(["", "accuracy (%)"], [[k, str(v)] for k, v in recipe.quoted.items()])]
    lines += [f"![{recipe.title}]({name})\n" for name in pictures if name.endswith(".png")]
    return "\n".join(lines)


def number(value: float | None, std: float | None = None) -> str:
    """Two decimals, four significant digits for what is small."""
    if value is None:
        return "–"
    text = f"{value:.2f}" if abs(value) >= 1 or not value else f"{value:.4f}"
    return text if std is None else f"{text} ± {std:.2f}" if abs(value) >= 1 else f"{text} ± {std:.4f}"


def as_csv(rows: Sequence[Row]) -> str:
    """One line per row; an empty cell is what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row.__dataclass_fields__)
    for row in rows:
        cells = asdict(row).values()
        writer.writerow([" ".join(map(str, c)) if isinstance(c, tuple) else "" if c is None else c for c in cells])
    return text.getvalue()


def write_report(recipe: Recipe, seeds: Sequence[int] | None, results: Results, out_dir: Path) -> str:
    """Write ``<recipe>.md``, ``.csv``, ``.json`` and its figure into ``out_dir``; returns the Markdown.

    Args:
        seeds: which seeds to look for; None takes the recipe's.
    """
    outcomes = {run.id: results.outcome(run, seeds or recipe.seeds) for run in recipe.runs}
    rows = rows_of(recipe, outcomes)
    with written_aside(out_dir) as folder:
        pictures = draw(recipe, outcomes, results, folder)
        for run in recipe.runs:
            if run.command is not None and not run.command.trains and not run.of:  # it has drawn by itself
                pictures += copy_pictures(outcomes[run.id].folders, recipe.name, folder)
        text = markdown(recipe, rows, [path.name for path in pictures])
        (folder / f"{recipe.name}.md").write_text(text)
        (folder / f"{recipe.name}.csv").write_text(as_csv(rows))
        write_json(folder / f"{recipe.name}.json", {"title": recipe.title, "rows": [asdict(row) for row in rows],
                                                    "quoted": dict(recipe.quoted)})  # fmt: skip
    return text


def copy_pictures(folders: Sequence[Path], name: str, to: Path) -> list[Path]:
    """Copy what a command has drawn: the pictures named like the recipe if there are some, else all, with its name."""
    there = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in PICTURES]
    own = [path for path in there if path.stem == name]
    return [Path(shutil.copy(path, to / (path.name if own else f"{name}_{path.name}"))) for path in own or there]


def show(recipe: Recipe) -> str:
    """A recipe to read before it is run: every command, the paper's values, and what it takes."""
    lines = [f"{recipe.name}: {recipe.title}", "", recipe.about, "", f"seeds: {', '.join(map(str, recipe.seeds))}", ""]
    for run in recipe.runs:
        lines += [f"{run.id}: {run.label}"]
        paper = ", ".join(f"{name} {'not printed' if v is None else v}" for name, v in run.paper.items())
        lines += [f"    paper:   {paper}"]
        if run.command is None:
            lines += [f"    NOT COVERED: {run.not_covered}", ""]
            continue
        lines += [f"    command: {run.command.text}" + (f"    ({{of}}: the run {run.of})" if run.of else "")]
        if run.expected is None:
            takes = f"time and memory: {NOT_MEASURED}"
        else:
            takes = f"{run.expected['hours']:g} hours, {run.expected['memory_gb']:g} GB on {run.expected['device']}"
        lines += [f"    takes:   {takes}", ""]
    lines += [f"quoted from others: {', '.join(f'{k} {v}' for k, v in recipe.quoted.items())}"] if recipe.quoted else []
    return "\n".join(lines)
