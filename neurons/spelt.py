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


class Spelt(Memory):
    """A module with dynamics and their text, which it is to spell again when one of its attributes changes."""

    declared: ClassVar[str]
    dynamics: Callable[[], Dynamics]
    _spelt: tuple[tuple, str] | None = None  # what the text says, and the text

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
