"""The batch norms of a network together: their statistics chosen, taken again, or shared by several processes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from neurons import ops

from .batch_norm import NO_STATISTICS, BatchNorm2d
from .modes import in_evaluation

STATISTICS = ("shared", "per_step")  # which running statistics evaluation normalises with


def batch_norms(net: nn.Module) -> list[BatchNorm2d]:
    """The batch norms of a network, in the order of its modules."""
    return [module for module in net.modules() if isinstance(module, BatchNorm2d)]


def synchronise(net: nn.Module, sum_over_ranks: ops.SumOverRanks | None) -> None:
    """Take the statistics of every batch norm over the whole batch, of which each process has a share.

    Args:
        sum_over_ranks: adds a tensor up over all processes, in place; None for one process.
    """
    for norm in batch_norms(net):
        norm.sum_over_ranks = sum_over_ranks


def steps_known(net: nn.Module) -> int:
    """For how many steps every batch norm has running statistics of each step; 0 where one has none."""
    return min(
        (0 if norm.running_mean_t is None else norm.running_mean_t.shape[0] for norm in batch_norms(net)), default=0
    )


def keep_steps(net: nn.Module, T: int) -> None:
    """Forget the running statistics of steps from T on: training on T steps would leave them as they were before."""
    for norm in batch_norms(net):
        norm.keep_steps(T)


def use_statistics(net: nn.Module, which: str) -> None:
    """Choose the running statistics that evaluation normalises with.

    Args:
        which: ``"shared"`` by all steps, the published code's, or ``"per_step"``, those of each step.

    Raises:
        ValueError: if ``which`` is unknown, or the network has none of each step.
    """
    if which not in STATISTICS:
        raise ValueError(f"unknown statistics {which!r}; known: {', '.join(STATISTICS)}")
    if which == "per_step" and not steps_known(net):
        raise ValueError(NO_STATISTICS)
    for norm in batch_norms(net):
        norm.statistics = which


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Take both kinds of running statistics again, as means over ``batches``; weights stay as they are.

    Each step is normalised by its batch's statistics meanwhile, as in training; dropout is off.

    Args:
        batches: (x_seq [T, N, C, H, W], target) pairs of training data.

    Raises:
        ValueError: if there is no batch.

    Whatever is raised, by ``batches`` or by the network, leaves all as it was.
    """
    norms, batches = batch_norms(net), iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("no batch to take statistics of")
    momenta = [norm.momentum for norm in norms]
    kept = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    with in_evaluation(net):
        for norm in norms:
            norm.forget()
            norm.train()
        try:
            for seen, (x_seq, _) in enumerate(chain([first], batches), 1):
                for norm in norms:
                    norm.momentum = 1 / seen
                net(x_seq)
        except BaseException:  # a loader may fail, and whoever sits before it press Ctrl-C
            for norm, state in zip(norms, kept, strict=True):
                norm.load_state_dict(state)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    for norm in norms:
        if norm.running_mean_t is not None and norm.running_var_t is not None:
            norm.running_mean.copy_(norm.running_mean_t.mean(0))
            norm.running_var.copy_(norm.running_var_t.mean(0))
