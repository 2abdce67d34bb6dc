"""Sequences through the fused kernels: checked, laid out in memory, and computed by one node of the graph.

The node is an operator of torch (:mod:`.operators`) where somebody looks at operators: a compiler, fake tensors. An
operator costs a quarter of a millisecond a call, more than a small layer does. So elsewhere a node of autograd does the
same directly (:mod:`.nodes`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .dynamics import Dynamics, check_table, first_states, spell
from .layout import channels_last, is_dense, laid_out_like
from .nodes import OPERATORS, Fire, NormFire
from .norm import NormSequence, SumOverRanks, name_of

Tensors = tuple[Tensor, ...]


def fire(
    x: Tensor,
    table: Tensor | None,
    states: Tensors,
    dynamics: Dynamics,
    name: str,
    backend: str,
    last: bool,
    norm: Tensors | None = None,
) -> tuple[Tensor, Tensors]:
    """Input current [T, …] → spikes [T, …] and the last states […] (none unless ``last``).

    Args:
        table: the learned parameters (:func:`.dynamics.parameter_table`), or None.
        states: states before the first step […], or none to start from zero.
        name: the declared neuron's, see :func:`.dynamics.declare`.
        backend: ``"c"`` or ``"triton"``.
        norm: scale and shift [T, C] that x [T, N, C, *] is normalised with on its way in.
    """
    if table is not None:
        check_table(table, x)
    scale, shift = norm or (None, None)
    if scale is not None and shift is not None:
        check_norm(x, scale[0], shift[0])
    x = prepared(x, scale is not None or dynamics.per_channel)
    states = first_states(dynamics, states, x[0]) if states else ()
    states = tuple(laid_out_like(x[0], state) for state in states)
    if is_watched(x):
        spelt, train = spell(name, dynamics), is_for_gradients()
        out = OPERATORS.fire(x, table, list(states), scale, shift, spelt, backend, last, train)
    else:
        out = Fire.apply(name, dynamics, backend, last, x, table, scale, shift, *states)
    return out[0], tuple(out[1 : 1 + len(dynamics.states)]) if last else ()


def norm_and_fire(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    table: Tensor | None,
    dynamics: Dynamics,
    name: str,
    backend: str,
    merged: bool = False,
    sum_over_ranks: SumOverRanks | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch norm by the batch's own statistics and the neuron behind it, from a fresh state.

    Args:
        x: [T, N, C, H, W]. weight, bias: the norm's, [C]. eps: its ε.
        table, dynamics, name, backend: see :func:`fire`.
        merged: T belongs to the batch, and a statistic to a channel alone.
        sum_over_ranks: where x is a share of the batch; its statistics are then the whole batch's.

    Returns:
        spikes like x, the mean and biased variance of each (t, c), [T, C] ([1, C] if merged), and the n behind each.
    """
    if table is not None:
        check_table(table, x)
    check_norm(x, weight, bias)
    check_batch(x)
    weight, bias = weight.contiguous(), bias.contiguous()  # Triton's kernels take one number after the other
    x, ranks = prepared(x, True), "" if sum_over_ranks is None else name_of(sum_over_ranks)
    if is_watched(x):
        spelt, train = spell(name, dynamics), is_for_gradients()
        out = OPERATORS.norm_fire(x, weight, bias, table, eps, merged, ranks, spelt, backend, train)
    else:
        out = NormFire.apply(name, dynamics, backend, eps, merged, ranks, x, weight, bias, table)
    spikes, mean, var, n, *_ = out
    return spikes, mean, var, n


def norm_over_ranks(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, sum_over_ranks: SumOverRanks
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Batch norm per step of a batch that several processes share, without the neuron.

    Args:
        x: [T, N, C, H, W], this process's share. weight, bias: the norm's, [C]. eps: its ε.

    Returns:
        y like x, and mean, biased variance [T, C] and n of the whole batch.
    """
    check_norm(x, weight, bias)
    check_batch(x)
    return NormSequence.apply(x, weight, bias, eps, sum_over_ranks)


def check_norm(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Refuse a norm of other channels than those of x [T, N, C, H, W]: one of a single channel would broadcast.

    Raises:
        ValueError: naming both.
    """
    if x.dim() != 5:
        raise ValueError(f"batch norm of sequences takes [T, N, C, H, W], not {list(x.shape)}")
    for name, term in (("weight", weight), ("bias", bias)):
        if term.shape != x.shape[2:3] or term.device != x.device:
            raise ValueError(
                f"the norm's {name} is {list(term.shape)} on {term.device}, and the input has {x.shape[2]} channels "
                f"on {x.device}"
            )


def check_batch(x: Tensor) -> None:
    """Refuse a batch that statistics are to be taken of, and that has no elements.

    Raises:
        ValueError: saying so.
    """
    if not x.numel():
        raise ValueError(f"batch norm has no statistics to take of an input without elements, {list(x.shape)}")


def prepared(x: Tensor, by_channel: bool) -> Tensor:
    """x [T, …] in a layout that kernels take: dense frames, channels last where channels differ."""
    x = x.resolve_neg()  # a conjugate's imaginary part may be a view that is negative by a flag alone
    if by_channel:
        return x if x[0].movedim(1, -1).is_contiguous() else channels_last(x)
    return x if is_dense(x[0]) else x.contiguous()


def is_watched(x: Tensor) -> bool:
    """Whether somebody looks at operators: a compiler, an export, fake tensors, a dispatch mode, torch.jit.trace."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter) or is_in_torch_dispatch_mode():
        return True
    return torch._C._get_tracing_state() is not None


def is_for_gradients() -> bool:
    """Whether an operator keeps what its gradient needs: in a program of torch.jit.trace always.

    Such a program may run with gradients wherever it was traced, and its check traces it again without them.
    """
    return torch.is_grad_enabled() or (not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None)
