"""A command as a process of its own, which has the signals that come meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from .commands import ROOT

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TAIL = 4000  # bytes of standard error kept for the account of failures


class StoppedError(Exception):
    """A signal asked to stop; the command that was running has had it and has ended.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


def call(words: Sequence[str]) -> tuple[int, str]:
    """Run a command in a process group of its own, and pass signals on to it once each.

    A terminal sends Ctrl-C to every process of a group; training takes a second one for "at once", so it must
    not come twice.

    Returns:
        Its exit code, and the end of what it wrote to standard error (which is passed on as it comes).

    Raises:
        StoppedError: if a signal came meanwhile.
    """
    # -P: a module of the project, and not one of its name in the folder where it is started
    program = [sys.executable, *([str(ROOT / words[0])] if words[0] != "-m" else ["-P", "-m"]), *words[1:]]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    tail = b""
    with (
        forwarding() as (seen, pass_on_to),
        subprocess.Popen(program, env=surroundings, stderr=subprocess.PIPE, process_group=0) as process,
    ):
        pass_on_to(process)
        assert process.stderr is not None
        while chunk := os.read(process.stderr.fileno(), 65536):
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()
            tail = (tail + chunk)[-TAIL:]
        code = process.wait()
    if seen:
        raise StoppedError(seen[0])
    return code, tail.decode(errors="replace")


@contextmanager
def forwarding() -> Iterator[tuple[list[int], Callable[[subprocess.Popen], None]]]:
    """Pass signals on to a process that is about to start: one that comes meanwhile must not leave it alone.

    Yields:
        The list of those that came, and what to call with the process once it is there.
    """
    seen: list[int] = []
    waiting: deque[int] = deque()
    processes: list[subprocess.Popen] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        seen.append(signum)
        # training knows two: Ctrl-C and SIGTERM; a terminal that closes means the second
        waiting.append(signal.SIGTERM if signum == signal.SIGHUP else signum)
        send()

    def send() -> None:
        with suppress(IndexError):  # another signal may come between two lines, and send what waits
            while processes and waiting:
                processes[0].send_signal(waiting.popleft())

    def pass_on_to(process: subprocess.Popen) -> None:
        processes.append(process)
        send()

    before = {each: signal.getsignal(each) for each in FORWARDED}
    for each, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup
            signal.signal(each, forward)
    try:
        yield seen, pass_on_to
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
