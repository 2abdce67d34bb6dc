"""The gradient through time of every neuron layer, split by how far it has come (Eq. 10–14 and 20–24 of the paper).

In each layer, ∂L/∂c[t] = Σ over t′ ≥ t of what the spike of step t′ sends back to t; the lag is t′ − t. Lag 0 is the
spatial term. c is the input current: where u[t] = γ·u[t−1] + c[t], as in LIF, PLIF and CLIF, this is the paper's
∂L/∂u[t]. GLIF weighs c by a gate of each step, ILIF's passes into its inhibition too, and there the two differ. All in
float64; the parts are checked to sum to autograd's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from neurons import STEPPING, SpikingNeuron
from neurons.ops import lags_of

EXACT = 1e-10  # of the largest gradient: how well the parts must sum to autograd's


@dataclass(frozen=True)
class LayerFlow:
    """The gradient of one neuron layer by lag 0 … T − 1.

    Args:
        l1: L1 norm of each lag's part. share: of their sum.
        zero, cut: fractions without a gradient of lag ≥ 1, as above; None for T = 1.
        m1, m2: with more states than u, L1 norms of what u alone carries and of the rest; where they cancel, they add
            up to more.
        error: largest difference of the parts' sum from autograd's gradient, relative to the largest gradient.
    """

    name: str
    neuron: str
    l1: list[float]
    share: list[float]
    zero: float | None
    cut: float | None
    m1: list[float] | None
    m2: list[float] | None
    error: float


def gradient_flow(
    net: nn.Module, x_seq: Tensor, target: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
) -> list[LayerFlow]:
    """Split the gradient of every neuron layer by lag, in the network's order.

    Args:
        net: a network of this project, in float64. Its gradients are left as they were.
        x_seq: [T, N, C, H, W], float64. target: labels [N] or [N, K].
        criterion: (logits [T, N, K], target) → scalar.

    Raises:
        ValueError: if there is no neuron with a step in the network, or one runs more than once (step mode ``"s"``).
        ArithmeticError: if the parts do not sum to autograd's gradient.
    """
    seen: dict[str, tuple[SpikingNeuron, Tensor, Tensor]] = {}

    def alone(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The input as a tensor of its own: what takes a shortcut past the neuron has its gradient elsewhere."""
        return (inputs[0].view_as(inputs[0]), *inputs[1:])

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
        assert isinstance(module, SpikingNeuron)
        if name in seen:
            raise ValueError(f"{name} runs more than once, step by step or in several places: its gradient is no split "
                             "of one sequence")  # fmt: skip
        seen[name] = (module, inputs[0], spikes)

    with ExitStack() as stack:
        for name, module in net.named_modules():
            if isinstance(module, SpikingNeuron):
                stack.callback(module.register_forward_pre_hook(alone).remove)
                stack.callback(module.register_forward_hook(partial(keep, name)).remove)
        loss = criterion(net(x_seq), target)
    if not seen:
        raise ValueError(f"the network has no {', '.join(STEPPING)} whose gradient could be split")
    tensors = [tensor for _, c, spikes in seen.values() for tensor in (c, spikes)]
    gradients = torch.autograd.grad(loss, tensors)
    pairs = zip(gradients[::2], gradients[1::2], strict=True)
    return [
        split_layer(name, module, c.detach(), g_s, g_c)
        for (name, (module, c, _)), (g_c, g_s) in zip(seen.items(), pairs, strict=True)
    ]


@torch.no_grad()
def split_layer(name: str, neuron: SpikingNeuron, c: Tensor, g_s: Tensor, g_c: Tensor) -> LayerFlow:
    """One layer by lag, from its input current c, ∂L/∂s and, to check the sum against, autograd's ∂L/∂c, [T, N, …]."""
    T, dynamics, learned = len(c), neuron.dynamics(), neuron.learned_values()
    others = dynamics.state_names[1:]  # CLIF's m, ILIF's m and i: what but u carries a gradient
    l1, by_u, by_m = (torch.zeros(T, dtype=c.dtype) for _ in range(3))
    zeros = cut = sent = 0
    worst, later = 0.0, torch.zeros_like(c[0], dtype=torch.bool)  # later: where a later step has a spatial term
    whole = lags_of(c, g_s, dynamics, learned)
    alone = lags_of(c, g_s, dynamics, learned, cut=others)
    for t, parts, of_u in zip(range(T - 1, -1, -1), whole, alone, strict=True):  # parts: [T − t, N, …]
        n = len(parts)
        l1[:n] += parts.abs().flatten(1).sum(1)
        by_u[:n] += of_u.abs().flatten(1).sum(1)
        by_m[:n] += (parts - of_u).abs().flatten(1).sum(1)
        worst = max(worst, (parts.sum(0) - g_c[t]).abs().max().item())
        if t < T - 1:
            zero = (parts[1:] == 0).all(0)
            zeros, cut, sent = zeros + int(zero.sum()), cut + int((zero & later).sum()), sent + int(later.sum())
        later |= parts[0] != 0
    error = worst / max(g_c.abs().max().item(), 1e-300)
    if error > EXACT:
        raise ArithmeticError(f"{name}: the parts by lag miss autograd's gradient by {error:.1e}")
    return LayerFlow(
        name=name,
        neuron=type(neuron).__name__,
        l1=l1.tolist(),
        share=(l1 / l1.sum().clamp(min=1e-300)).tolist(),
        zero=zeros / ((T - 1) * c[0].numel()) if T > 1 else None,
        cut=cut / max(sent, 1) if T > 1 else None,
        m1=by_u.tolist() if others else None,
        m2=by_m.tolist() if others else None,
        error=error,
    )
