"""Where another rank, or the launcher, is lost: one line that says so, and no wait that lasts for ever."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

LOOK = 1.0  # seconds between two looks
GRACE = 15.0  # seconds that a wait may last beyond its own limit; torchrun kills a rank 30 s after it told it to end
OF_TORCHRUN = "TORCHELASTIC_RUN_ID"  # what torchrun sets for the ranks that it starts


class Guard:
    """Looks after a rank from a thread, every second; how it ends the process is one line and exit code 2.

    A killed torchrun leaves its ranks to train for nobody. And gloo has been seen to wait for ever, beyond its own
    time limit, as a wake-up that is lost would have it (glibc before 2.41 has such a fault); torch offers no public
    way to give it one thread, which would be out of that fault's reach. So no wait for other ranks goes unwatched.

    Args:
        rank: for the line. speaks: whether this is the rank that says that the launcher has died.
        limit: seconds that a wait for other ranks may take by its own limit.
        environment: where torchrun leaves its traces; a rank that something else started has no launcher to lose.
    """

    def __init__(self, rank: int, *, speaks: bool, limit: float, environment: Mapping[str, str] = os.environ):
        self.rank, self.speaks, self.limit = rank, speaks, limit
        self._launcher = os.getppid() if OF_TORCHRUN in environment else None
        self._waits: list[float] = []  # when each wait that lasts began, or last moved on; outermost first
        self._ends, self._stop = threading.Lock(), threading.Event()
        self._stderr = 2

    def start(self) -> None:
        """Look from now on."""
        self._stderr = os.dup(2)  # see without_traces
        threading.Thread(target=self._watch, name="guard", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK):
            self.look()

    def look(self, patience: float = 0) -> None:
        """End the process if its launcher has died, within ``patience`` seconds, or a wait has lasted too long."""
        deadline = time.monotonic() + patience
        while True:
            if self._launcher is not None and os.getppid() != self._launcher:
                self._end("the torchrun that started this rank has died", says=self.speaks)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        waited = time.monotonic() - max(self._waits[-1:], default=time.monotonic())
        if waited > self.limit + GRACE:
            faulthandler.dump_traceback(self._stderr)
            self._end(f"rank {self.rank} has waited {waited:.0f} s for the other ranks in a call that does not return; "
                      "its stacks are above", says=True)  # fmt: skip

    def _end(self, why: str, says: bool) -> None:
        self._ends.acquire()  # for good: the thread and the rank itself may both come here
        if says:
            line = f"{Path(sys.argv[0]).name}: error: {why}; resume with -resume auto\n"
            os.write(self._stderr, line.encode())
        os._exit(2)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for other ranks; a wait within another one shows that this one moves on."""
        self._waits.append(time.monotonic())
        try:
            yield
        finally:
            self._waits.pop()
            if self._waits:
                self._waits[-1] = time.monotonic()


class RankLostError(Exception):
    """Another rank has died or fallen silent: one line."""


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Turn what a dead or silent rank does to those that wait for it into :class:`RankLostError`."""
    try:
        yield
    except dist.DistError as error:
        raise RankLostError(lost(error)) from None
    except RuntimeError as error:  # gloo's, and those that pass through autograd
        if not dist.is_initialized() or not any(
            word in str(error).lower() for word in ("gloo", "nccl", "connection", "timed out", "socket")
        ):
            raise
        raise RankLostError(lost(error)) from None


def lost(error: Exception) -> str:
    return f"another rank has died or cannot be reached ({reason(error)}); resume with -resume auto"


def reason(error: Exception) -> str:
    """The first line of torch's message, without the place in its source."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first_line.rpartition("] ")[2].removesuffix(".")[:100]


@contextmanager
def without_traces() -> Iterator[None]:
    """Keep from stderr what torch's C++ says of a lost connection, in traces; the caller says it in one line."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
