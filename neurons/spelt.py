"""A neuron's dynamics as text, kept beside its settings: torch.compile guards a string by its value.

A number of a module that has changed, or that another such module has otherwise, becomes a symbol there, and a symbol
cannot be spelt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from .memory import Memory
from .ops import Dynamics
from .ops.dynamics import said, spell
from .options import CHECKED, check_change


class Spelt(Memory):
    """A module with dynamics and their text, which it is to spell again when one of its attributes changes."""

    declared: ClassVar[str]
    states: ClassVar[dict[str, float | str]]
    starts: Callable[[], tuple[tuple[str, float], ...]]
    dynamics: Callable[[], Dynamics]
    _spelt: tuple[tuple, str] | None = None  # what the text says, and the text

    def __setattr__(self, name: str, value: object) -> None:
        """As of any module; an option of one that is built is checked first, states that start from it move along, and
        so does the text."""
        built = "_spelt" in self.__dict__
        if built and name in CHECKED:
            check_change(self, name, value)
        super().__setattr__(name, value)
        if name in type(self).states.values() and self._memories:
            for state, start in self.starts():
                self.start_at(state, start)
        if built and name not in self._memories and name != "training":
            self.respell()

    def respell(self) -> None:
        """Spell the dynamics that the attributes describe now; nothing where they describe none yet."""
        if torch.compiler.is_compiling():  # with_text sees that the text is another's
            return
        try:
            dynamics = self.dynamics()
        except (AttributeError, TypeError, ValueError):  # half built, or a setting that is refused when it is used
            self.__dict__["_spelt"] = None
        else:
            self.__dict__["_spelt"] = said(dynamics), spell(self.declared, dynamics)

    def with_text(self, dynamics: Dynamics) -> Dynamics:
        """These dynamics with their text, if it is theirs: an attribute of the class may have changed."""
        if self._spelt is None or self._spelt[0] != said(dynamics):
            return dynamics
        return replace(dynamics, text=self._spelt[1])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_spelt"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A class may have another name here than where it was pickled: the text is made anew."""
        super().__setstate__(state)
        self.respell()
