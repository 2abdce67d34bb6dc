"""Whether what a run holds is finite: its losses, its weights and buffers, what the optimiser keeps, its potentials.

A neuron whose potential is not finite ends its sequence with a spike that is NaN (``neurons/ops``), so the loss tells
of all that goes wrong on the way to it. What it cannot tell of is looked at once an epoch, before anything is saved.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .meter import Meter

REMEDY = "the last checkpoint is kept. Try a lower -lr, or, in mixed precision, -no_amp"


class NonFiniteLossError(Exception):
    """Something stopped being a number: one line that names it, and the epoch and step."""


def tensors_of(net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[tuple[str, Tensor]]:
    """Weights, buffers and what an optimiser keeps, as far as they are floating-point numbers, each with its name."""
    weights = dict(net.named_parameters())
    for name, tensor in (*weights.items(), *net.named_buffers()):
        if tensor.is_floating_point():
            yield name, tensor
    for name, weight in weights.items():
        kept = optimizer.state.get(weight, {}) if optimizer is not None else {}
        yield from ((f"{what} of {name}", tensor) for what, tensor in kept.items() if isinstance(tensor, Tensor))


@torch.no_grad()
def first_not_finite(net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> str | None:
    """The first weight, buffer or state of the optimiser that is not finite; waits for the device."""
    named = list(tensors_of(net, optimizer))
    device = named[0][1].device if named else None
    flags = [tensor.isfinite().all().to(device) for _, tensor in named]  # an optimiser counts its steps on the CPU
    finite = torch.stack(flags).tolist() if flags else []
    return next((name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite), None)


@torch.no_grad()
def layer_not_finite(net: nn.Module, x_seq: Tensor) -> str | None:
    """The first layer whose output is not finite for a batch x_seq [T, N, C, H, W]; the input is one, too.

    Listened to, layers run one by one: that takes longer, so it is done for a message alone.
    """
    if not x_seq.isfinite().all():
        return "the input"
    found: list[str] = []

    def listen(name: str, out: object) -> None:
        if isinstance(out, Tensor) and not found and not out.isfinite().all():
            found.append(f"the output of {name}")

    layers = [(name, module) for name, module in net.named_modules() if not list(module.children())]
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: listen(name, out))  # type: ignore[misc]
        for name, module in layers
    ]
    try:
        net(x_seq)
    finally:
        for handle in handles:
            handle.remove()
    return next(iter(found), None)


def stop_if_loss_is_not_finite(meter: Meter, where: str, net: nn.Module, x_seq: Tensor | None = None) -> None:
    """Raise :class:`NonFiniteLossError` if any loss so far was infinite or not a number; waits for the device.

    Args:
        net: what made it; the first of its weights or layers that is not finite by now is named.
        x_seq: a batch that evaluation has seen, to find the layer with.
    """
    step = int(meter.first_bad)
    if step < 0:
        return
    culprit = first_not_finite(net)
    if culprit is None and x_seq is not None:
        culprit = layer_not_finite(net, x_seq)
    by_now = f", and neither is {culprit} by now" if culprit else ""
    what_now = f"; {REMEDY}" if x_seq is None else ""
    raise NonFiniteLossError(f"the loss is not finite at step {step} of {where}{by_now}{what_now}")


def stop_if_state_is_not_finite(net: nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
    """Raise :class:`NonFiniteLossError` before what the last steps spoilt is evaluated or saved."""
    culprit = first_not_finite(net, optimizer)
    if culprit is not None:
        raise NonFiniteLossError(f"{culprit} is not finite at {where}; {REMEDY}")
