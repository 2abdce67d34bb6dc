"""Writes finished runs into the evidence: a line for each into its recipe's ``.jsonl``, and the recipe's pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from utils.cli import UsageError
from utils.run_dir import naming_disk

from .comparison import write_pictures
from .evidence import EVIDENCE, FIGURES, Line, as_if_at_home, merge
from .recipe import Recipe
from .results import Results
from .runner import plan


def keep(recipe: Recipe, seeds: Sequence[int], results: Results, recipes: Mapping[str, Recipe]) -> str:
    """Write what is finished under ``runs_dir``, of a recipe and of the training runs that it reads.

    A run that the evidence has is replaced; nothing else of it changes. Pictures show the recipe's own seeds, whichever
    are kept now, and are drawn only if something is.

    Args:
        seeds: those whose runs are kept.
        recipes: all of them, for the order of the lines.

    Returns:
        What was kept, in words.

    Raises:
        UsageError: where there is no evidence to write into: an update of the package would lose what is put there.
    """
    if not EVIDENCE.is_dir():
        raise UsageError("keep is for the project's own folder, whose evidence is committed; pip installs none")
    jobs = plan(recipe.runs, seeds, results)
    new: dict[str, list[Line]] = {}
    for job in jobs:
        line = results.keep(job.run, job.seed)
        if line is not None:
            new.setdefault(job.run.recipe, []).append(as_if_at_home(line, results.runs_dir))
    for name, lines in new.items():
        merge(results.evidence / f"{name}.jsonl", lines, [run.full_id for run in recipes[name].runs])
    now = Results(results.runs_dir, results.runs, results.evidence)
    pictures = keep_pictures(recipe, now) if new else 0
    count = sum(map(len, new.values()))
    return f"{count} of {len(jobs)} runs kept in {results.evidence}" + (f", {pictures} pictures" if pictures else "")


def keep_pictures(recipe: Recipe, results: Results) -> int:
    """Draw a recipe's figure from what there is now, or take what its command has drawn; returns how many there are."""
    outcomes = {run.id: results.outcome(run, recipe.seeds) for run in recipe.runs}
    if not any(outcome.seeds for outcome in outcomes.values()):
        return 0
    to = results.evidence / FIGURES
    with naming_disk(to), TemporaryDirectory() as folder:
        pictures = [path for path in write_pictures(recipe, outcomes, results, Path(folder)) if path.suffix == ".png"]
        to.mkdir(parents=True, exist_ok=True)
        for path in pictures:
            aside = to / f"{path.name}.tmp"
            shutil.copy(path, aside)
            os.replace(aside, to / path.name)
    return len(pictures)
