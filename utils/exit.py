"""How every command ends when it cannot go on, one line on standard error and exit code 2; and how it warns."""

from __future__ import annotations

import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(
    command: str, *errors: type[Exception], speaks: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Turn ``errors`` into a line each and exit code 2; warnings are a line as well.

    Where nobody reads what is printed any more (``| head``), the exit code is a shell's for that, 141.

    Args:
        command: what the user typed, for the start of the line.
        speaks: whether this process is the one to say it; every process exits with 2.
    """
    before = warnings.formatwarning
    # where in the source it was said is of no use to who typed a command
    warnings.formatwarning = lambda message, *_, **__: f"{command}: warning: {message}\n"
    try:
        yield
    except errors as error:
        if speaks():
            said = str(error).replace("\n", "\\n")  # of a file's name
            print(f"{command}: error: {said}", file=sys.stderr, flush=True)
        sys.exit(2)
    except BrokenPipeError:
        if not nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be written
        if speaks():
            print(f"{command}: stopped: nobody reads what it prints; what was saved is kept", file=sys.stderr)
        sys.exit(128 + signal.SIGPIPE)
    finally:
        warnings.formatwarning = before


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is closed."""
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))
