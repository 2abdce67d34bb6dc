"""Several processes that train as one, started by ``torchrun``: a rank each, with NCCL on CUDA and gloo on the CPU.

Where there is one process, nothing here does anything.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .cli import UsageError
from .guard import Guard, RankLostError, naming_lost_ranks, reason, without_traces

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MEETING = timedelta(seconds=60)  # until all ranks are there; torchrun starts them together
SILENCE = timedelta(minutes=10)  # of one that hangs, or RANK_TIMEOUT; one that dies is noticed at once
PREPARING = timedelta(hours=24)  # while rank 0 downloads or builds a cache
LAST_WORDS = 5.0  # seconds that rank 0 keeps the store for the others to see that an error has been told


@dataclass
class Ranks:
    """This process among those of the run.

    Args:
        rank, world: its number, and how many there are. local: its number on its machine. node: the machine's.
        silence: how long the others may keep it waiting.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    node: int = 0
    silence: timedelta = SILENCE
    _store: dist.Store | None = None
    _turns: int = 0

    def __post_init__(self) -> None:
        self.guard = Guard(self.rank, speaks=self.local == 0, limit=self.silence.total_seconds())

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Ranks:
        """What torchrun says in the environment; one process without it. RANK_TIMEOUT is in seconds.

        Raises:
            UsageError: if only some of it is there, or it makes no sense.
        """
        if "RANK" not in environment and "WORLD_SIZE" not in environment:
            return cls()
        missing = [name for name in VARIABLES if not environment.get(name)]
        if missing:
            raise UsageError(f"the environment has some of torchrun's variables and lacks {', '.join(missing)}: start "
                             "with torchrun, or unset RANK and WORLD_SIZE")  # fmt: skip
        numbers = {}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
            text = environment[name]
            if not (text.isascii() and text.isdigit() and len(text) < 10):
                raise UsageError(f"{name}={text[:20]!r} in the environment is not a whole number; start with torchrun")
            numbers[name] = int(text)
        if numbers["RANK"] >= numbers["WORLD_SIZE"]:
            raise UsageError(f"RANK={numbers['RANK']} in the environment is not below WORLD_SIZE="
                             f"{numbers['WORLD_SIZE']}; start with torchrun")  # fmt: skip
        if not 0 < numbers["MASTER_PORT"] < 2**16:
            raise UsageError(f"MASTER_PORT={numbers['MASTER_PORT']} in the environment is no port; start with torchrun")
        text = environment.get("RANK_TIMEOUT", str(SILENCE.seconds))
        if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
            raise UsageError(f"RANK_TIMEOUT={text[:20]!r} in the environment is not a number of whole seconds")
        silence = timedelta(seconds=int(text))
        node = environment.get("GROUP_RANK", "")
        node_number = int(node) if node.isascii() and node.isdigit() and len(node) < 10 else 0
        return cls(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"], node_number, silence)

    def __str__(self) -> str:
        return f", {self.world} ranks" if self.world > 1 else ""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and prints."""
        return self.rank == 0

    @contextmanager
    def saying_once(self) -> Iterator[None]:
        """What every rank would say alike, rank 0 says."""
        if self.is_first:
            yield
            return
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
            yield

    def device_of(self, name: str | None) -> str | None:
        """The device for -device ``name``: each rank of a machine has its own GPU.

        Raises:
            UsageError: if there are fewer GPUs than ranks here, or all would share one.
        """
        if self.world == 1 or name == "cpu":
            return name
        if name not in (None, "cuda"):
            raise UsageError(
                f"-device {name} with {self.world} ranks: take cpu, or cuda, of which each rank has its own"
            )
        gpus = torch.cuda.device_count()
        if name is None and not gpus:
            return "cpu"
        if self.local >= gpus:
            raise UsageError(f"torchrun started {self.local + 1} ranks or more here, and this machine has {gpus} "
                             "GPU(s); lower --nproc_per_node, or take -device cpu")  # fmt: skip
        return f"cuda:{self.local}"

    def join(self, device: torch.device) -> None:
        """Meet the other ranks.

        Raises:
            RankLostError: if they are not there within a minute.
        """
        if self.world == 1:
            return
        if not self.is_first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        self.guard.start()
        try:
            with without_traces():
                self._store, _, _ = next(dist.rendezvous("env://", self.rank, self.world, timeout=MEETING))
                self._store.set_timeout(MEETING)
                dist.init_process_group(
                    backend, store=self._store, rank=self.rank, world_size=self.world, timeout=self.silence
                )
        except (dist.DistError, RuntimeError, ValueError) as error:
            self.guard.look(patience=LAST_WORDS)  # the store may be gone before its process is
            raise RankLostError(
                f"the {self.world} ranks did not meet within {MEETING.seconds} s: {reason(error)}"
            ) from None

    def leave(self) -> None:
        """End in order, all ranks together."""
        if self.world > 1:
            with self.waiting():
                dist.barrier()
            dist.destroy_process_group()
            self.guard.stop()

    def speaks(self) -> bool:
        """Whether this rank is the first that has an error to report; the others fail because it did."""
        if self._store is None:
            return True
        with without_traces():
            try:
                told = self._store.add("errors", 1)
                deadline = time.monotonic() + LAST_WORDS * self.is_first  # the store may go when rank 0 does
                while time.monotonic() < deadline and self._store.add("errors", 0) < self.world:
                    time.sleep(0.05)
            except RuntimeError:  # the store went with its host
                self.guard.look(patience=LAST_WORDS)
                return True
        return told == 1

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Rank 0 goes through the block before the others do, however long it takes; then one rank of each machine."""
        if self._store is None:
            yield
            return
        self._turns += 1
        done, done_here = (f"{who} has done {self._turns}" for who in ("rank 0", f"a rank of node {self.node}"))
        if not self.is_first:
            with naming_lost_ranks(), without_traces():
                self._store.wait([done if self.local == 0 else done_here], PREPARING)
        yield
        if self.is_first:
            self._store.set(done, "")
        if self.local == 0:
            self._store.set(done_here, "")

    def agree(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over all ranks."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.int64)
        with self.waiting():
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.tolist()

    def of_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        values = [value]
        with self.waiting():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def parallel(self, net: nn.Module) -> nn.Module:
        """``net`` with its gradients averaged over all ranks; its buffers are left as they are."""
        if self.world == 1:
            return net
        return DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True)

    def share_buffers(self, net: nn.Module) -> None:
        """Give every rank the first one's buffers, which are saved: where batch norm is not synchronised, each has the
        statistics of its own share, and the ranks would test as many networks."""
        if self.world > 1:
            with self.waiting():
                for buffer in net.buffers():
                    dist.broadcast(buffer, src=0)

    @property
    def sum_over_ranks(self) -> Callable[[Tensor], None] | None:
        """Adds a tensor up over all ranks, in place; None where there is one."""
        if self.world == 1:
            return None
        guard = self.guard

        def add_up(tensor: Tensor) -> None:
            with guard.waiting():
                dist.all_reduce(tensor)

        return add_up

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for other ranks: not for ever, and a lost one is named."""
        with self.guard.waiting(), naming_lost_ranks():
            yield
