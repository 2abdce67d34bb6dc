"""Recipes: one YAML file per table or figure, read strictly. ``recipes/README.md`` describes the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .checked_yaml import Keys, RecipeError, fail, is_number, is_numbers, is_seeds, is_text, read_yaml
from .commands import ROOT, Command, CommandError, read_command

RECIPES = ROOT / "recipes"
ACCURACY = "accuracy"
VALUES = ("best", "last")
FIGURES = {"lines", "heat", "bars", "curves", "rates", "resets"}


@dataclass(frozen=True)
class Run:
    """One row of a table, or one point or line of a figure.

    Args:
        paper: quantity → the paper's value; None where the paper has none in print.
        command: None for what is not covered, with the reason in ``not_covered``.
        of: the training runs that the command reads, as ``recipe/id``.
    """

    recipe: str
    id: str
    label: str
    paper: Mapping[str, float | None]
    command: Command | None
    not_covered: str
    of: tuple[str, ...]

    @property
    def full_id(self) -> str:
        return f"{self.recipe}/{self.id}"


@dataclass(frozen=True)
class FigureSpec:
    """How a recipe's figure is drawn (see :mod:`reproduction.recipe_figures`).

    Args:
        kind: lines, heat, bars, curves, rates or resets (Table 8).
        x, line, panel: settings of the runs that tell them apart; panel may be missing.
        quantity: what curves show: train_loss or test_loss.
    """

    kind: str
    x: str
    line: str
    panel: str
    quantity: str


@dataclass(frozen=True)
class Recipe:
    """A table or figure.

    Args:
        value: whether the accuracy compared is that of the best epoch or of the last.
        quoted: other methods' values that the table quotes: label → accuracy (%).
    """

    name: str
    title: str
    about: str
    seeds: tuple[int, ...]
    value: str
    runs: tuple[Run, ...]
    quoted: Mapping[str, float]
    figure: FigureSpec | None


def load_recipes(folder: Path = RECIPES) -> dict[str, Recipe]:
    """Every recipe by its name, the paper's first.

    Raises:
        RecipeError: naming file and key.
    """
    try:
        there = list(folder.iterdir())  # glob finds nothing where it may not look
    except OSError as error:
        raise RecipeError(f"{folder} cannot be read: {error.strerror}") from None
    files = sorted((path for path in there if path.name.endswith(".yaml")), key=lambda path: sort_key(path.stem))
    if not files:
        raise RecipeError(f"{folder} holds no recipes (*.yaml)")
    contents = {path: read_keys(path) for path in files}
    runs = {run.full_id: run for path, keys in contents.items() for run in own_runs(path, keys)}
    for run in runs.values():
        for name in run.of:
            of = runs.get(name)
            if of is None or of.command is None or not of.command.trains:
                fail(folder / f"{run.recipe}.yaml", f"runs.{run.id}.of", f"{name!r} is no training run of any recipe")
    return {path.stem: load_recipe(path, keys, runs) for path, keys in contents.items()}


def sort_key(name: str) -> tuple[int, str, int, str]:
    """table1 … table8, figure2a … figure11, then the rest."""
    kinds = ("table", "figure")
    for rank, kind in enumerate(kinds):
        rest = name.removeprefix(kind)
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        if rest != name and digits:
            return rank, kind, int(digits), rest
    return len(kinds), "", 0, name


def read_keys(path: Path) -> Keys:
    """A recipe's file, its keys known and none missing."""
    return Keys(path, "", read_yaml(path), needed={"title", "about", "seeds", "value", "runs"},
                optional={"quoted", "figure"})  # fmt: skip


def own_runs(path: Path, keys: Keys) -> list[Run]:
    """The runs that a recipe has itself; it may use others' besides."""
    rows = keys.of("runs", lambda rows: isinstance(rows, list) and rows, "is to be a list of runs")
    own = [
        load_run(path, row, number)
        for number, row in enumerate(rows, 1)
        if not (isinstance(row, dict) and "use" in row)
    ]
    check_different(path, own)
    return own


def check_different(path: Path, runs: Sequence[Run]) -> None:
    """Refuse two runs of one id."""
    ids = [run.id for run in runs]
    for run_id in ids:
        if ids.count(run_id) > 1:
            fail(path, f"runs.{run_id}.id", "stands twice")


def load_recipe(path: Path, keys: Keys, runs: Mapping[str, Run]) -> Recipe:
    """One recipe; ``runs`` are those of all recipes, by their full id."""
    mine: list[Run] = []
    own = iter(own_runs(path, keys))
    for number, row in enumerate(keys.content["runs"], 1):
        if not (isinstance(row, dict) and "use" in row):
            mine.append(next(own))
            continue
        pattern = Keys(path, f"runs.{number}.", row, needed={"use"}).of("use", is_text, "is to be text")
        found = [run for name, run in runs.items() if fnmatchcase(name, pattern)]
        if not found:
            fail(path, f"runs.{number}.use", f"{pattern!r} is no run of any recipe")
        mine += found
    check_different(path, mine)
    has_quoted = "quoted" in keys.content
    return Recipe(
        name=path.stem,
        title=keys.of("title", is_text, "is to be text"),
        about=keys.of("about", is_text, "is to be text").strip(),
        seeds=tuple(keys.of("seeds", is_seeds, "is to be a list of different whole numbers ≥ 0")),
        value=keys.of("value", lambda value: value in VALUES, f"is to be one of {', '.join(VALUES)}"),
        runs=tuple(mine),
        quoted=keys.of("quoted", is_numbers, "is to map labels to accuracies") if has_quoted else {},
        figure=load_figure(path, keys.content["figure"], mine) if "figure" in keys.content else None,
    )


def load_run(path: Path, row: Any, number: int) -> Run:
    """One entry of ``runs`` that is not another recipe's."""
    name = str(row.get("id", number)) if isinstance(row, dict) else str(number)
    keys = Keys(path, f"runs.{name}.", row, needed={"id", "label", "paper"},
                optional={"command", "not_covered", "of"})  # fmt: skip
    run_id = keys.of("id", lambda text: is_text(text) and not set(text) & set(" /{}"), "is to be a word without / { }")
    if ("command" in row) == ("not_covered" in row):
        fail(path, f"runs.{name}", "is to have either a command or not_covered with the reason")
    command, of = None, load_of(keys)
    if "command" in row:
        try:
            command = read_command(keys.of("command", is_text, "is to be text"))
        except CommandError as error:
            fail(path, f"runs.{name}.command", str(error))
        if command.places != places_for(of):
            fail(
                path, f"runs.{name}.of", "goes with {of} in the command (several with {of1}, {of2} …), and {of} with it"
            )
    paper = row["paper"]
    if not isinstance(paper, dict):
        paper = {ACCURACY: paper}
    if not (paper and all(is_text(key) and (value is None or is_number(value)) for key, value in paper.items())):
        fail(path, f"runs.{name}.paper", "is to be a number, null, or a mapping of quantities to numbers or null")
    return Run(
        recipe=path.stem,
        id=run_id,
        label=keys.of("label", is_text, "is to be text"),
        paper=paper,
        command=command,
        not_covered=keys.of("not_covered", is_text, "is to be text") if "not_covered" in row else "",
        of=of,
    )


def places_for(of: Sequence[str]) -> tuple[str, ...]:
    """What stands in a command for the folders of the training runs that it reads."""
    return ("{of}",) if len(of) == 1 else tuple(f"{{of{number}}}" for number in range(1, len(of) + 1))


def load_of(keys: Keys) -> tuple[str, ...]:
    """The training runs that a command reads: one, or a list."""
    if "of" not in keys.content:
        return ()
    value = keys.of("of", lambda of: of and all(map(is_text, of if isinstance(of, list) else [of])),
                    "is to be recipe/id, or a list of these")  # fmt: skip
    return tuple(value) if isinstance(value, list) else (value,)


def load_figure(path: Path, value: Any, runs: Sequence[Run]) -> FigureSpec:
    """The ``figure`` of a recipe; what it names must be settings that its commands have."""
    keys = Keys(path, "figure.", value, needed={"kind"}, optional={"x", "line", "panel", "quantity"})
    kind = keys.of("kind", lambda kind: kind in FIGURES, f"is to be one of {', '.join(sorted(FIGURES))}")
    trained = [run.command.settings for run in runs if run.command and run.command.trains]
    for name in ("x", "line", "panel"):
        if name in value and any(value[name] not in settings for settings in trained):
            fail(path, f"figure.{name}", f"{value[name]!r} is no option of every command")
    if "quantity" in value:
        keys.of("quantity", lambda name: name in ("train_loss", "test_loss"), "is to be train_loss or test_loss")
    filled = {"x": "T", "line": "neuron", "panel": "", "quantity": "test_loss", **value}
    return FigureSpec(**{**filled, "kind": kind})
