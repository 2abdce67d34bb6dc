"""What is said where another rank is lost: one line, and nothing of what torch says of it besides."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


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
