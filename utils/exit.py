"""How every command ends when it cannot go on: one line on standard error and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(
    command: str, *errors: type[Exception], speaks: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Turn ``errors``, whose messages are one line each, into that line and exit code 2.

    Args:
        command: what the user typed, for the start of the line.
        speaks: whether this process is the one to say it; every process exits with 2.
    """
    try:
        yield
    except errors as error:
        if speaks():
            print(f"{command}: error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
