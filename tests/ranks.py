"""What test_ranks.py asks of ranks: three training steps in float64.

    RANK=… WORLD_SIZE=… python tests/ranks.py OUT PORT=RANK,…=CASE,… [PORT=RANK,…=CASE,… ...]

Started as torchrun starts ranks, a fresh interpreter each. The ranks of each argument train together, the one case
after the other; the first of them saves losses, weights and figures in the folder OUT, as ``W_CASE.pt``.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from data.batch_order import BatchOrder
from models import build_model, synchronise
from utils.distributed import Ranks
from utils.engine import TrainState, evaluate, train_one_epoch
from utils.loss import bptt_loss
from utils.seeding import seed_all


class Case(NamedTuple):
    model: str
    neuron: str = "CLIF"
    checkpoint: bool = False
    sync_bn: bool = True
    size: int = 32


CASES = {
    "resnet18": Case("spiking_resnet18", size=25),  # the smallest that it takes
    "vgg11": Case("spiking_vgg11_bn"),
    "plif_recomputed": Case("snn5", "PLIF", checkpoint=True),
    "no_sync_bn": Case("snn5", "PLIF", sync_bn=False),
}
CPU = torch.device("cpu")
STEPS, BATCH, T = 3, 5, 2  # 5 samples are uneven shares for 2 and for 4 ranks
TESTED = 7  # and for 4 ranks, so is the one sample of the last batch


def batches_of(x, labels, order):
    for positions in order.batches():
        yield x[positions].expand(T, *x[positions].shape), labels[positions]


def train(case: Case, ranks: Ranks) -> dict:
    """Losses of the steps, weights after them, and figures of training and evaluation."""
    seed_all(3)
    net = build_model(case.model, case.neuron, input_size=case.size, backend="torch")
    net.checkpoint = case.checkpoint
    # statistics that would tell a wrong mean from a right one: each sample has an offset of its own
    samples = STEPS * BATCH
    x = torch.rand(samples + TESTED, 3, case.size, case.size) + torch.arange(samples + TESTED)[:, None, None, None] % 5
    labels = torch.arange(samples + TESTED) % 10
    if case.sync_bn:
        synchronise(net, ranks.sum_over_ranks)
    share = partial(BatchOrder, rank=ranks.rank, world=ranks.world, seed=1)
    order, tested = share(samples, BATCH, shuffle=True), share(TESTED, 3, shuffle=False)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    steps: list[float] = []

    def criterion(logits, target):
        loss = bptt_loss(logits, target, label_smoothing=0.1)
        if torch.is_grad_enabled():
            steps.append(loss.item() * len(target))
        return loss

    state = TrainState(net, optimizer, criterion, CPU, seed=1, ranks=ranks, weight=order.weight)
    trained = train_one_epoch(state, batches_of(x, labels, order), STEPS)
    test_batches = batches_of(x[samples:], labels[samples:], tested)
    seen = evaluate(net, test_batches, criterion, device=CPU, steps=len(tested), sum_over_ranks=ranks.sum_over_ranks)
    losses = torch.tensor(steps) / BATCH
    buffers = torch.cat([buffer.double().flatten() for buffer in net.buffers()])
    mean = buffers / ranks.world
    if ranks.sum_over_ranks is not None:
        ranks.sum_over_ranks(losses)
        ranks.sum_over_ranks(mean)
    figures = {"train_loss": trained["loss"], "train_acc": trained["acc"], **seen}
    return {"losses": losses, "net": net.state_dict(), "figures": figures, "apart": (buffers - mean).abs().max()}


if __name__ == "__main__":
    out, groups = Path(sys.argv[1]), sys.argv[2:]
    torch.set_default_dtype(torch.float64)
    own = os.environ["RANK"]
    for group in groups:
        port, members, cases = (part.split(",") for part in group.split("="))
        if own not in members:
            continue
        place = {"RANK": str(members.index(own)), "WORLD_SIZE": str(len(members)), "MASTER_PORT": port[0]}
        os.environ |= place
        ranks = Ranks.from_environment()
        ranks.join(CPU)
        for case in cases:
            result = train(CASES[case], ranks)
            if ranks.is_first:
                torch.save(result, out / f"{ranks.world}_{case}.pt")
        ranks.leave()
