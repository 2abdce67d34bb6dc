"""The project's own files."""

from functools import cache
from pathlib import Path

from tests.helpers import ROOT

MADE = {"logs", "data_dir", "build"}  # what runs leave behind


@cache
def files(pattern: str) -> tuple[Path, ...]:
    """Files of that name, from the project's root, in order; hidden folders (.venv is one) are not looked through."""
    rooms = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in MADE]
    found = (path for room in rooms for path in room.rglob(pattern))
    return tuple(sorted(path.relative_to(ROOT) for path in (*ROOT.glob(pattern), *found)))
