"""Activation checkpointing that counts once: a block's activations are computed again in the backward pass,
without a second update of its running statistics and with the same dropout masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

RECOMPUTING: ContextVar[bool] = ContextVar("recomputing", default=False)
"""Whether a block runs for the second time, in the backward pass. Never in a graph that torch.compile makes."""


@contextmanager
def _second_time() -> Iterator[None]:
    token = RECOMPUTING.set(True)
    try:
        yield
    finally:
        RECOMPUTING.reset(token)


def _contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _second_time()


def recompute(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """block(x), keeping x alone for the backward pass."""
    return checkpoint(block, x, use_reentrant=False, context_fn=_contexts)
