"""Contenders for a training step by several ranks, each a process of its own that stays warm between its turns."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

from models import build_model, synchronise
from utils.device import wait_for
from utils.distributed import Ranks

from .measuring import fresh_processes
from .networks import CLASSES, SEED, SIZE, place, training_step
from .timing import Contender, Makers

PATIENCE = 600  # seconds for a step


class Work(NamedTuple):
    """A step that every rank makes on its share of a batch."""

    model: str
    T: int
    share: int  # images of a rank
    dtype: torch.dtype
    device: str
    threads: int = 1
    sync_bn: bool = True


def ranks_makers(
    model: str, T: int, batch: int, dtype: torch.dtype, device: torch.device, worlds: tuple[int, ...], weak: bool,
    alternatives: bool,
) -> Makers:  # fmt: skip
    """One step by 1, 2 … ranks, in time per image: 1/W is what W ranks could reach.

    Args:
        batch: images of a rank if ``weak``, so that the batch grows with the ranks; otherwise of all ranks together.
        alternatives: add the largest world without synchronised batch norm and, on a CPU, one process with as many
            threads.
    """

    def make(world: int, **changes: Any) -> Contender:
        share = batch if weak else batch // world
        work = Work(model, T, share, dtype, device.type)._replace(**changes)
        connections = start(world, work)
        return Contender({"step": partial(step_of_all, connections)}, scale=1 / (world * share), memory=False)

    most = worlds[-1]
    makers = {f"{world} rank" + "s" * (world > 1): partial(make, world) for world in worlds}
    if alternatives and most > 1:
        makers[f"{most} ranks, -no_sync_bn"] = partial(make, most, sync_bn=False)
        if device.type == "cpu":
            makers[f"1 rank with {most} threads"] = partial(make, 1, threads=most)
    return makers


def start(world: int, work: Work) -> list[Connection]:
    """Start the ranks; a connection to each."""
    context = fresh_processes(work.device)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": probe.getsockname()[1]}
    connections = []
    for rank in range(world):
        here, there = context.Pipe()
        variables = {name: str(value) for name, value in {"RANK": rank, "LOCAL_RANK": rank, **meeting}.items()}
        context.Process(target=serve, args=(there, variables, work), daemon=True).start()  # type: ignore[attr-defined]
        there.close()
        connections.append(here)
    return connections


def step_of_all(connections: list[Connection]) -> None:
    """One step by every rank.

    Raises:
        RuntimeError: if a rank has died, or says nothing for ten minutes.
    """
    try:
        for connection in connections:
            connection.send(None)
        waiting = set(connections)
        while waiting:
            ready = wait(list(waiting), PATIENCE)
            if not ready:
                raise RuntimeError("a rank says nothing")
            for connection in ready:  # type: ignore[assignment]
                connection.recv()
                waiting.remove(connection)
    except (EOFError, OSError):
        raise RuntimeError("a rank has died; what it said is above") from None


def serve(orders: Connection, variables: Mapping[str, str], work: Work) -> None:
    """A rank: a step for each order, as the training script makes it."""
    os.environ.update(variables)
    torch.set_num_threads(work.threads)
    ranks = Ranks.from_environment()
    device = torch.device(ranks.device_of(work.device) or work.device)
    ranks.join(device)
    torch.manual_seed(SEED)
    net = place(build_model(work.model), device)
    if work.sync_bn:
        synchronise(net, ranks.sum_over_ranks)
    generator = torch.Generator(device).manual_seed(ranks.rank)
    images = torch.randn(work.share, 3, SIZE, SIZE, generator=generator, device=device)
    labels = torch.randint(CLASSES, (work.share,), generator=generator, device=device)
    x_seq = images.expand(work.T, *images.shape)  # [T, N, C, H, W], one image at every step
    contender = training_step(ranks.parallel(net.train()), x_seq, labels, work.dtype)
    while True:
        try:
            orders.recv()
        except EOFError:  # nobody asks any more
            return
        contender.run()
        wait_for(device)
        orders.send(None)
