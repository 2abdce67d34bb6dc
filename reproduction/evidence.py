"""The evidence: one ``.jsonl`` per recipe, a line per run and seed (``evidence/README.md``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.aside import write_aside
from utils.cli import UsageError
from utils.run_dir import is_epoch, naming_disk

from .commands import ROOT, TRAIN, identity
from .evaluation import Evaluation
from .recipe import Run
from .training_run import ABOUT, TrainingRun

EVIDENCE = ROOT / "evidence"
FIGURES = "figures"  # the folder of its pictures
RUNS_DIR = Path("logs/reproduce")  # where runs stand unless somebody says otherwise
QUOTE = "'\"'\"'"  # a quotation mark within two
Line = dict[str, Any]
Key = tuple[str, tuple[str, ...], int]
"""What tells a run from others: its identity, those of the training runs it reads, its seed."""


def read_lines(path: Path) -> list[Line]:
    """The lines of a recipe's evidence, none if there is no such file.

    Raises:
        UsageError: naming a line that is damaged.
    """
    lines = []
    texts = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() and path.stat().st_size else []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
            check_line(lines[-1], path)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError(f"{path}: line {number} is damaged; take it from git again") from None
    return lines


def check_line(line: Line, path: Path) -> None:
    """Read a line as reports do.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: if it cannot be.
    """
    hash(key_of_line(line))
    if line["program"] != TRAIN:
        about = evaluation(line, path).about
    else:
        run = training_run(line, path)
        about = run.about.get("made_with", {})
        if not all(is_epoch(row) for row in run.rows):
            raise ValueError("no epoch")
    about.keys()


def key_of_line(line: Line) -> Key:
    """What tells a line's run from others."""
    of = tuple(identity(TRAIN, each["settings"]) for each in line.get("of", ()))
    return identity(line["program"], line["settings"]), of, line["seed"]


def training_run(line: Line, where: Path) -> TrainingRun:
    """A training run's line."""
    columns = line["epochs"]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    about = {name: line[name] for name in (*ABOUT, "made_with", "date") if name in line}
    return TrainingRun(where, rows, line["settings"]["epochs"], line["settings"], about, line.get("left_out", 0),
                       diverged=line.get("diverged", ""))  # fmt: skip


def evaluation(line: Line, where: Path) -> Evaluation:
    """The line of what trains nothing."""
    return Evaluation(where, line["about"], line["results"])


def line_of_training(run: Run, seed: int, trained: TrainingRun) -> Line:
    """A training run that is finished, or diverged, as a line; ``epochs`` has a list for each column of its metrics."""
    assert run.command is not None
    columns = list(dict.fromkeys(name for row in trained.rows for name in row))
    return {
        "run": run.full_id,
        "seed": seed,
        "program": run.command.program,
        "command": f"{run.command.text} -seed {seed}",
        "date": trained.about.get("date"),
        "hours": round(trained.hours, 4),
        **{name: trained.about[name] for name in (*ABOUT, "made_with") if name in trained.about},
        "settings": dict(trained.settings),
        **({"left_out": trained.left_out} if trained.left_out else {}),
        **({"diverged": trained.diverged} if trained.diverged else {}),
        "epochs": {name: [row.get(name) for row in trained.rows] for name in columns},
    }


def line_of_evaluation(run: Run, seed: int, found: Evaluation, of: Sequence[Run]) -> Line:
    """A finished evaluation as a line.

    Args:
        of: the training runs that it reads.
    """
    assert run.command is not None
    return {
        "run": run.full_id,
        "seed": seed,
        "program": run.command.program,
        "command": run.command.text,
        "of": said_of(of),
        "settings": run.command.given,
        "about": {name: value for name, value in found.about.items() if name not in ("program", "settings", "of")},
        "results": found.results,
    }


def as_if_at_home(value: Any, runs_dir: Path) -> Any:
    """A line whose runs seem to stand in :data:`RUNS_DIR`, their data in ``data_dir``: where they were says nothing."""
    if isinstance(value, Mapping):
        return {
            name: "data_dir" if name == "data_dir" and Path(str(each)).is_absolute() else as_if_at_home(each, runs_dir)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [as_if_at_home(each, runs_dir) for each in value]
    if not isinstance(value, str):
        return value
    # a command has a path with a space or an umlaut in quotes, as shlex.join writes them
    path = str(runs_dir.absolute())
    spelt = "|".join(map(re.escape, (path, path.replace("'", QUOTE))))
    value = re.sub(rf"(-data_dir[ =])(/\S+|'/([^']|{QUOTE})*')", r"\1data_dir", value)
    return re.sub(rf"(?<![^\s='])({spelt})(?=[/\s']|$)", str(RUNS_DIR), value)


def said_of(of: Sequence[Run]) -> list[Mapping[str, Any]]:
    """The training runs that an evaluation reads: by name, and by what tells each from others."""
    return [{"run": run.full_id, "settings": run.command.given} for run in of if run.command is not None]


def merge(path: Path, new: Sequence[Line], order: Sequence[str]) -> None:
    """Put lines into a file: a run that stands there already is replaced; sorted by run and seed.

    Args:
        order: the recipe's runs by their full id; others come last.
    """
    lines = {key_of_line(line): line for line in (*read_lines(path), *new)}
    place = {name: number for number, name in enumerate(order)}
    ordered = sorted(lines.values(), key=lambda line: (place.get(line["run"], len(place)), line["run"], line["seed"]))
    with naming_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in ordered))
