"""Ctrl-C while a command still imports its libraries, for seconds: one line in place of a traceback.

Scripts import this first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType


def say_in_one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Python's own way to show what nobody has caught, but for Ctrl-C; it ends the process by the signal still."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{Path(sys.argv[0]).name}: stopped by SIGINT", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = say_in_one_line
