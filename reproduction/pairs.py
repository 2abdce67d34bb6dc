"""Neurons compared by pairs of runs: the same seed means the same split, order and initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any, Protocol, TypeVar

from settings.resume import MUST_STAY
from utils.output import markdown_table

from .training_run import PER_STEP, SHARED

REFERENCE = "LIF"
# columns of metrics.jsonl that are compared, in the last epoch → words
COMPARED = {
    SHARED: "test accuracy, shared (%)",
    PER_STEP: "per step (%)",
    "test_loss": "test loss, shared",
    "test_loss_per_step": "per step",
    "train_acc": "training accuracy (%)",
    "train_loss": "training loss",
}
TOLD_APART_BY = MUST_STAY - {"neuron", "seed"} | {"epochs"}


class HasSettings(Protocol):
    """A run of whatever kind."""

    @property
    def settings(self) -> Mapping[str, Any]: ...


R = TypeVar("R", bound=HasSettings)


@dataclass(frozen=True)
class Member:
    """A network trained with several seeds.

    Args:
        settings: of its runs; the seed in them counts for nothing.
        last: seed → the last row of its metrics; two are compared if they are of one epoch.
    """

    label: str
    settings: Mapping[str, Any]
    last: Mapping[int, Mapping[str, float]]

    @property
    def neuron(self) -> str:
        return str(self.settings["neuron"])


@dataclass(frozen=True)
class Pair:
    """What a network has over another of the same settings with another neuron, over the seeds that both have.

    Args:
        reference: its neuron, with T where others of that neuron have another T.
        differences: column → (mean, its standard error; None for one seed).
    """

    label: str
    reference: str
    seeds: tuple[int, ...]
    differences: Mapping[str, tuple[float, float | None]]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        named = {name: {"mean": value, "standard_error": error} for name, (value, error) in self.differences.items()}
        return {**asdict(self), "differences": named}


def grouped(runs: Sequence[R], differing: Sequence[str]) -> list[tuple[str, list[R]]]:
    """Runs that differ in nothing but the seed, under what tells them from the others: the neuron comes first."""
    groups: dict[tuple[Any, ...], list[R]] = {}
    others = [name for name in differing if name not in ("neuron", "seed")]
    for run in runs:
        groups.setdefault(tuple(run.settings[name] for name in ("neuron", *others)), []).append(run)
    return [
        (", ".join([neuron, *map(" ".join, zip(others, map(setting_in_words, values), strict=True))]), group)
        for (neuron, *values), group in groups.items()
    ]


def setting_in_words(value: Any) -> str:
    """A setting's value in a label or a cell; of a number, as many digits as tell it from every other."""
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    return short if float(short := f"{value:g}") == value else repr(value)


def pairs_of(members: Sequence[Member]) -> list[Pair]:
    """Each network against LIF of the same settings, or against the first of these where there is no LIF.

    An ANN is like networks of every T, so it stands against each of them.
    """
    found = []
    for member in members:
        alike = [other for other in members if are_alike(member, other)]
        neuron = REFERENCE if any(other.neuron == REFERENCE for other in alike) else alike[0].neuron
        references: dict[Any, Member] = {}
        for other in alike:
            if other.neuron == neuron != member.neuron:
                references.setdefault(other.settings.get("T"), other)
        for T, reference in references.items():
            seeds = tuple(
                seed for seed, row in member.last.items() if reference.last.get(seed, {}).get("epoch") == row["epoch"]
            )
            if seeds:
                rows = [(member.last[seed], reference.last[seed]) for seed in seeds]
                label = neuron if len(references) == 1 else f"{neuron}, T {T}"
                found.append(Pair(member.label, label, seeds, differences(rows)))
    return found


def are_alike(one: Member, other: Member) -> bool:
    """Whether two networks differ in nothing but their neurons; T says nothing of an ANN."""
    skipped = {"T"} if "relu" in (one.neuron, other.neuron) else set()
    return all(one.settings.get(name) == other.settings.get(name) for name in TOLD_APART_BY - skipped)


def differences(
    rows: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
) -> dict[str, tuple[float, float | None]]:
    """Mean and standard error of ours less the reference's, for each column that all rows have."""
    found: dict[str, tuple[float, float | None]] = {}
    for name in COMPARED:
        if all(name in row for pair in rows for row in pair):
            each = [ours[name] - theirs[name] for ours, theirs in rows]
            error = stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None
            found[name] = mean(each), error
    return found


def pairs_table(pairs: Sequence[Pair], named: Callable[[str], str] = str) -> str:
    """The pairs as a Markdown table, under a line that says what they are.

    Args:
        named: a label as Markdown; as it is, if the labels are Markdown already.
    """
    columns = [name for name in COMPARED if any(name in pair.differences for pair in pairs)]
    rows = [
        [named(f"{pair.label} − {pair.reference}"), *[in_words(name, pair) for name in columns], str(len(pair.seeds))]
        for pair in pairs
    ]
    header = ["", *[COMPARED[name] for name in columns], "seeds"]
    return f"Differences paired by seed, last epoch, mean ± standard error:\n\n{markdown_table(header, rows)}"


def in_words(column: str, pair: Pair) -> str:
    """A difference with its sign and its standard error; losses with a digit more."""
    if column not in pair.differences:
        return "–"
    value, error = pair.differences[column]
    places = 3 if column.endswith(("loss", "loss_per_step")) else 2
    return f"{value:+.{places}f}".replace("-", "−") + ("" if error is None else f" ± {error:.{places}f}")
