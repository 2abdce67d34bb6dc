"""SpikingJelly's modules with memories, where these start as numbers: reset, copied and pickled simply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spikingjelly.activation_based import base
from torch import Tensor, nn


class Memory(base.MemoryModule):
    """A module whose memories start as numbers: nothing to copy in a reset, which torch.compile could not follow."""

    def reset(self) -> None:
        """All memories back to their start."""
        self._memories.update(self._memories_rv)

    def start_at(self, name: str, value: float) -> None:
        """Where a memory starts; one that is still there moves along."""
        self._memories_rv[name] = value
        if not isinstance(self._memories[name], Tensor):
            self._memories[name] = value

    def detach(self) -> None:
        """All memories without the graph that they came from. Whoever else holds one keeps it with its graph."""
        for name, value in self._memories.items():
            if isinstance(value, Tensor):
                self._memories[name] = value.detach()  # not in place: it may be a view, or the spikes themselves

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        """As any module, with torch's own arguments, which SpikingJelly's lacks (``to_empty`` gives them both); states
        move along."""
        for name, value in self._memories.items():
            if isinstance(value, Tensor):
                self._memories[name] = fn(value)
        return nn.Module._apply(self, fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: states as numbers, without the graph that they came from."""
        state = self.__dict__.copy()
        memories = {k: v.detach() if isinstance(v, Tensor) else v for k, v in self._memories.items()}
        return {**state, "_memories": memories}
