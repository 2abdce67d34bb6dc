"""How every command ends when it cannot go on, or is asked not to: one line on standard error, and an exit code."""

from __future__ import annotations

import errno
import getpass
import io
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from .aside import DISK_IS_FULL

ENDING = (signal.SIGTERM, signal.SIGHUP)  # a scheduler's, and that of a terminal which closes
# what the system says of a place that was named: it is another's, it is read-only, no name is that long
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


class AskedToEnd(KeyboardInterrupt):
    """One of ENDING came; what a block leaves half-written it takes away, as after Ctrl-C."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


@contextmanager
def one_line_errors(
    command: str, *errors: type[Exception], speaks: Callable[[], bool] = lambda: True, alone: bool = True
) -> Iterator[None]:
    """Turn ``errors``, a disk that is full and a place that the system refuses into a line and exit code 2.

    Warnings are a line as well.

    A process that is asked to end says so too, and its exit code is a shell's: 130 after Ctrl-C, 143 after SIGTERM,
    129 after SIGHUP, 141 where nobody reads what is printed any more (``| head``).

    Args:
        command: what the user typed, for the start of the line.
        speaks: whether this process is the one to say it; every process exits with the same code.
        alone: False for one of several ranks: it may be waiting for others, where SIGTERM must end it at once.
    """
    open_what_is_closed()
    name_the_user()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal has not is no reason to end
            stream.reconfigure(errors="backslashreplace")
    before = warnings.formatwarning
    # where in the source it was said is of no use to who typed a command
    warnings.formatwarning = lambda message, *_, **__: f"{command}: warning: {message}\n"

    def leave(said: str, code: int) -> None:
        if speaks():
            print(f"{command}: {said}".replace("\n", "\\n"), file=sys.stderr, flush=True)  # in a file's name
        sys.exit(code)

    try:
        with raising_when_asked_to_end(ENDING if alone else ()):
            yield
    except errors as error:
        leave(f"error: {error}", 2)
    except BrokenPipeError:
        if not nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be written
        leave("stopped: nobody reads what it prints; what was saved is kept", 128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in REFUSED and error.filename:
            leave(f"error: cannot use {os.fsdecode(error.filename)}: {error.strerror}", 2)
        if "temporary directory" in str(error.strerror):  # tempfile's own words, of all the places that it has tried
            leave(f"error: {error.strerror}; make room, or set TMPDIR to a folder that can be written", 2)
        if error.errno not in DISK_IS_FULL:
            raise
        file = f" to {error.filename}" if error.filename else ""
        leave(f"error: cannot write{file}: {error.strerror}; what was saved before is kept", 2)
    except KeyboardInterrupt as asked:
        signum = asked.signum if isinstance(asked, AskedToEnd) else signal.SIGINT
        leave(f"stopped by {signal.Signals(signum).name}; what was saved before is kept", 128 + signum)
    finally:
        warnings.formatwarning = before


def open_what_is_closed() -> None:
    """Give a process that was started without standard streams (``2>&-``) ones that lead nowhere.

    Python has None in their place, and the next files that are opened would get their numbers.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives


def name_the_user() -> None:
    """Give a user whom the system does not know (a container's ``--user 1234``) a name: torch cannot do without."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"


@contextmanager
def raising_when_asked_to_end(signals: Iterable[int]) -> Iterator[None]:
    """Raise :class:`AskedToEnd` at each of ``signals`` that would end this process where it stands."""
    owner = os.getpid()

    def end(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork, which has nothing to take away
            os._exit(128 + signum)
        for each in ours:
            signal.signal(each, signal.SIG_DFL)  # a second one ends it at once
        raise AskedToEnd(signum)

    is_main = threading.current_thread() is threading.main_thread()  # no other may set them
    ours = [each for each in signals if is_main and signal.getsignal(each) == signal.SIG_DFL]  # nohup's stay ignored
    for each in ours:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is closed."""
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))
