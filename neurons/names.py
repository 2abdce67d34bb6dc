"""What is said of a name that a registry does not have."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line: names that hold ``name``, else the one that is most like it, and all that there are."""
    names = {each.lower(): each for each in known}
    asked = str(name).lower()
    near = [names[asked]] if asked in names else [each for low, each in names.items() if asked and asked in low]
    near = near or [names[low] for low in get_close_matches(asked, names, n=1, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(names.values())})"
