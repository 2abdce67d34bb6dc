"""What is known of an option besides its value: the metadata of a field of :class:`settings.Settings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from utils.cli import OneOf

# what a resume does where an option has changed
IDENTITY = "identity"  # the run is another one: refused, with the old and the new value
HELD = "held_by_checkpoint"  # the optimiser or the schedule in the checkpoint has a value of its own: refused
MAY_CHANGE = "may_change"  # said, and recorded in config.json
ORIGIN = "origin"  # another run, too; but a resume has no use for it: only another value is refused
START = "start"  # where and how a run begins: a resume has no use for it
ROLES = (IDENTITY, HELD, MAY_CHANGE, ORIGIN, START)

# what inference.py does with a setting
NEEDED = "needed"  # an option; there is no evaluation without it
SAVED = "saved"  # an option; the result depends on it, so a LIF checkpoint carries it
ASKED = "asked"  # an option; the result says nothing of it


@dataclass(frozen=True)
class Named:
    """How an option stands in the run's name.

    Args:
        text: a format of its value.
        place: the parts stand in this order.
        always: at its default too.
    """

    text: str
    place: int = 50
    always: bool = False


@dataclass(frozen=True)
class Option:
    """All that the command line, config.json, the run's name, a resume, inference.py and docs/options.md must know.

    Args:
        help: one line, for ``-h`` and docs/options.md.
        group: its heading there.
        role: one of :data:`ROLES`.
        type: from text to a value, with bounds, as in ``utils.cli``; None for a switch.
        spellings: names it has besides ``-`` and the field's own.
        off: what turns a switch off.
        many: several values may be given, and make a run each.
        metavar: what stands for the value in ``-h``.
        named: its part of the run's name; None for none.
        held_as: what an optimiser or schedule calls a value that the checkpoint holds.
        given_to: the functions that take it by the same name: data, network, loss, optimiser, schedule, step.
        inference: NEEDED, SAVED or ASKED where inference.py has it too; "" where not.
    """

    help: str
    group: str
    role: str
    type: Callable[[str], Any] | None = None
    spellings: tuple[str, ...] = ()
    off: str = ""
    many: bool = False
    metavar: str | None = None
    named: Named | None = None
    held_as: str = ""
    given_to: tuple[str, ...] = ()
    inference: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The names that it takes, if it takes names."""
        return self.type.names if isinstance(self.type, OneOf) else ()

    def said(self, words: str = "") -> str:
        """Its help for ``-h``: ``words``, or else its own, and the names that it takes."""
        return ": ".join([words or self.help, *filter(None, [", ".join(self.choices)])])

    def __post_init__(self) -> None:
        if self.role not in ROLES or (self.role == HELD) != bool(self.held_as):
            raise ValueError(f"an option of role {self.role!r}, held as {self.held_as!r}")


def option(default: Any, type: Callable[[str], Any] | None = None, help: str = "", **known: Any) -> Any:
    """A field of a dataclass with an :class:`Option`; ``known`` are its other arguments."""
    return field(default=default, metadata={"option": Option(help=help, type=type, **known)})
