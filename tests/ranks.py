"""The ranks of test_distributed.py, forked from a process that has its libraries loaded, which torchrun's are not.

    python tests/ranks.py W train_BPTT.py [ARGUMENT ...]
    python tests/ranks.py W OUT MODEL [OPTION ...]

W processes meet by the variables that torchrun sets. They run the script, or five steps in float64 of which rank 0
saves losses and weights to OUT. Prints each rank's process id, and its exit code at the end.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from functools import partial
from pathlib import Path

import torch

from data.loader import BatchOrder
from models import build_model, synchronise
from utils.distributed import Ranks
from utils.engine import evaluate, train_one_epoch
from utils.loss import bptt_loss
from utils.seeding import seed_all

CPU = torch.device("cpu")
STEPS, BATCH, T = 5, 5, 2  # 5 rows are uneven shares for 2 and for 4 ranks
TESTED = 7  # and for 4 ranks, so is the one row of the last batch


def batches_of(x, labels, order, epoch):
    order.epoch = epoch
    for positions in order.batches():
        yield x[positions].expand(T, *x[positions].shape), labels[positions]


def train(out: Path, model: str, *options: str) -> None:
    torch.set_default_dtype(torch.float64)
    ranks = Ranks.from_environment()
    ranks.join(CPU)
    seed_all(3)
    net = build_model(model, "PLIF" if "PLIF" in options else "CLIF", backend="torch")
    net.checkpoint = "checkpoint" in options
    # statistics that would tell a wrong mean from a right one: each half of the data has an offset of its own
    samples = STEPS * BATCH
    x = torch.rand(samples + TESTED, 3, 32, 32) + torch.arange(samples + TESTED)[:, None, None, None] % 5
    labels = torch.arange(samples + TESTED) % 10
    if "no_sync_bn" not in options:
        synchronise(net, ranks.sum_over_ranks)
    parallel = ranks.parallel(net)
    share = partial(BatchOrder, rank=ranks.rank, world=ranks.world, seed=1)
    order, tested = share(samples, BATCH, shuffle=True), share(TESTED, 3, shuffle=False)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    steps: list[float] = []

    def criterion(logits, target):
        loss = bptt_loss(logits, target, label_smoothing=0.1)
        if torch.is_grad_enabled():
            steps.append(loss.item() * len(target))
        return loss

    common = {"device": CPU, "sum_over_ranks": ranks.sum_over_ranks}
    trained = train_one_epoch(
        parallel,
        batches_of(x, labels, order, 0),
        optimizer,
        criterion,
        epoch=0,
        steps=STEPS,
        seed=1,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        amp_dtype=None,
        weight=order.weight,
        **common,
    )
    seen = evaluate(net, batches_of(x[samples:], labels[samples:], tested, 0), criterion, steps=len(tested), **common)
    losses = torch.tensor(steps) / BATCH
    if ranks.sum_over_ranks is not None:
        ranks.sum_over_ranks(losses)
    ranks.leave()
    if ranks.is_first:
        figures = {"train_loss": trained["loss"], "train_acc": trained["acc"], **seen}
        torch.save({"losses": losses, "net": net.state_dict(), "figures": figures}, out)


def as_torchrun(rank: int, world: int, port: int) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in variables.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    world, target, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    port = free_port()
    children = []
    for rank in range(int(world)):
        pid = os.fork()
        if not pid:
            if int(world) > 1:
                as_torchrun(rank, int(world), port)
            if target.endswith(".py"):
                sys.argv = [target, *arguments]
                runpy.run_path(target, run_name="__main__")
            else:
                train(Path(target), *arguments)
            sys.exit()
        print(f"rank {rank} is process {pid}", flush=True)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(f"exit codes {codes}")
    sys.exit(max(abs(code) for code in codes))
