"""The command line: option types that say what is wrong in one line.

The docstring of a number's type, and of a function that is a type itself, is what it takes, for the page of options.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path


class UsageError(Exception):
    """A request that cannot be met: one line that says what is wrong and what to do."""


class OneLineParser(argparse.ArgumentParser):
    """Options with one dash; an error is one line and exit code 2; a misspelt option gets a suggestion."""

    def __init__(self, description: str, prog: str | None = None):
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        # argparse's own takes -1e-3 for an option
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def parse_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        known = self._option_string_actions
        for word in args:
            if not word.isascii() and re.search(r"[\ud800-\udfff]", word):  # what Python makes of other bytes
                self.error(f"{word!r} is not UTF-8, and is to be written to files that are")
            # argparse would read a misspelt -batch as -b with the value "atch"
            option = word.split("=")[0]
            if re.match(r"--?[A-Za-z]", word) and option not in known:
                self.error(f"unknown option {option}{did_you_mean(option, known)}")
        return super().parse_args(args, namespace)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")  # what was typed may hold a new line


def did_you_mean(asked: str, names: Iterable[str]) -> str:
    """The end of a line that refuses a name: those that hold it, else the nearest; empty if none is near."""
    by_lower, asked = {name.lower(): name for name in names}, asked.lower()
    near = [by_lower[asked]] if asked in by_lower else [by_lower[low] for low in by_lower if asked and asked in low]
    near = near or [by_lower[low] for low in get_close_matches(asked, by_lower, n=1, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


class OneOf:
    """An option type: one of ``names``; anything else is refused with those that hold it, or the nearest.

    Args:
        kind: what they are names of, for the message.
    """

    def __init__(self, kind: str, names: Iterable[str]):
        self.kind, self.names = kind, tuple(names)

    def __call__(self, text: str) -> str:
        if text in self.names:
            return text
        hint, known = did_you_mean(text, self.names), ", ".join(self.names)
        raise argparse.ArgumentTypeError(f"unknown {self.kind} {text!r}{hint} (known: {known})")


def number(
    cast: type,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> Callable[[str], float]:
    """An option type: a number that float32 or int64 can hold, with least ≤ x ≤ most, above < x < below."""
    largest = 2**63 - 1 if cast is int else 3.4e38
    bounds = [f"≥ {least}"] if least > -math.inf else []
    bounds += [f"> {above}"] if above > -math.inf else []
    bounds += [f"< {below}"] if below < math.inf else []
    bounds += [f"≤ {most}"] if most < math.inf else []

    def parse(text: str) -> float:
        try:
            value = cast(text)
        except ValueError:
            kind = "a whole number" if cast is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None
        if not abs(value) <= largest:  # nor is "nan"
            raise argparse.ArgumentTypeError(f"must be a finite number, at most {largest:g}, not {text[:20]}")
        if not (least <= value <= most and above < value < below):
            raise argparse.ArgumentTypeError(f"must be {' and '.join(bounds)}, not {text}")
        return value

    parse.__doc__ = ", ".join(["a whole number" if cast is int else "a number", *bounds])
    return parse


def folder_name(text: str) -> str:
    """the name of one folder"""
    if text in {"", ".."} or Path(text).name != text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a folder; where it goes is -out_dir's to say")
    return text


def exchange(neurons: Iterable[str]) -> Callable[[str], str]:
    """An option type: EPOCH:NEURON, an exchange of neurons at the start of an epoch; see :func:`exchange_of`."""
    epoch_of, neuron_of = number(int, least=0), OneOf("neuron", neurons)

    def parse(text: str) -> str:
        epoch, colon, neuron = text.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(f"{text!r} is not EPOCH:NEURON, such as 40:CLIF")
        return f"{epoch_of(epoch)}:{neuron_of(neuron)}"

    parse.__doc__ = "an epoch and a neuron, such as `40:CLIF`"
    return parse


def exchange_of(text: str) -> tuple[int, str]:
    """What ``-switch_neuron`` says: the epoch, counted from 0, and the neuron."""
    epoch, _, neuron = text.partition(":")
    return int(epoch), neuron


def exchange_in_words(text: str | None) -> str:
    """What a run's heading adds to its first neuron: nothing without ``-switch_neuron``."""
    epoch, neuron = exchange_of(text) if text else (0, "")
    return f", from epoch {epoch} on {neuron}" if neuron else ""
