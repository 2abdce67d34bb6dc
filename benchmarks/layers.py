"""Contenders for single layers: one neuron layer, its growth with T, and the public Open Neuromorphic set-up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle

import torch
from spikingjelly.activation_based import functional, layer, surrogate
from spikingjelly.activation_based import neuron as spikingjelly_neuron
from torch import Tensor, nn

from neurons import NEURONS, TAU, SpikingNeuron, build_neuron

from .timing import Contender, Makers

FORWARD_BACKWARD = "forward + backward"  # the one phase of most contenders here
FLOOR_PASSES = 5  # x in, spikes out; x and their gradient in, gradient of x out: nothing can move less
COPY_PASSES = 2  # a copy reads a tensor and writes one
SPIKE_RATE = 0.2  # of random input spikes
# The paper's surrogate for CLIF. SpikingJelly's fused LIF knows no rectangle, so that LIF is compared with its default
SURROGATE = {"CLIF": "rectangle", "LIF": "sigmoid", "KLIF": "rectangle", "GLIF": "rectangle", "ILIF": "rectangle"}
SPIKINGJELLY = {
    "CLIF": partial(
        spikingjelly_neuron.ComplementaryLIFNode, surrogate_function=surrogate.Rect(alpha=1.0), step_mode="m"
    ),
    "LIF": partial(
        spikingjelly_neuron.LIFNode,
        tau=TAU,
        decay_input=False,
        v_reset=None,
        surrogate_function=surrogate.Sigmoid(alpha=4.0),  # ours at alpha = 1
        detach_reset=False,
        step_mode="m",
    ),
}


def our_neuron(name: str, backend: str = "auto", step_mode: str = "m", T: int | None = None) -> SpikingNeuron:
    """Our neuron as the networks of this project use it: τ = 2, soft reset, every sequence starts from zero."""
    neuron = build_neuron(name, surrogate=SURROGATE[name], step_mode=step_mode, backend=backend, keep_state=False, T=T)
    assert isinstance(neuron, SpikingNeuron)
    return neuron


def our_backends(name: str, device: torch.device, dtype: torch.dtype, T: int) -> list[str]:
    """The back ends that are there, the one that ``auto`` takes first."""
    fastest = our_neuron(name, T=T).backend_for(torch.empty(1, 1, device=device, dtype=dtype))
    return list(dict.fromkeys((fastest, "reference")))


def random_sequence(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    """Normal numbers [T, N, *]; as input current they make τ = 2 neurons fire at about one step in five."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def neuron_makers(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Makers:
    """One neuron layer over [T, N, C, H, W], forward and backward."""
    x, grad = (random_sequence(shape, dtype, device, seed) for seed in (0, 1))
    makers: dict[str, Callable[[], Contender]] = {
        f"ours, {backend}": partial(sequence_at_once, our_neuron(name, backend, T=shape[0]).to(device), x, grad)
        for backend in our_backends(name, device, dtype, shape[0])
    }
    if NEURONS[name].takes("step_mode"):  # GLIF has weights for each step: its loop is the reference
        makers["step loop"] = partial(step_by_step, our_neuron(name, step_mode="s").to(device), x, grad)
    if name in SPIKINGJELLY:
        makers["SpikingJelly"] = partial(sequence_at_once, SPIKINGJELLY[name](), x, grad)
    if name == "LIF" and dtype != torch.float32:  # its fused kernels want a float32 state, which the module has not
        makers["SpikingJelly, float32 state"] = partial(spikingjelly_wide_lif, x, grad)
    makers["memory floor"] = partial(memory_floor, x)
    return makers


def sequence_at_once(module: nn.Module, x: Tensor, grad: Tensor) -> Contender:
    """A multi-step neuron, called once for x [T, …]."""
    leaf = x.detach().requires_grad_()
    return Contender(
        {FORWARD_BACKWARD: lambda: torch.autograd.grad(module(leaf), leaf, grad)},
        prepare=partial(functional.reset_net, module),
    )


def step_by_step(module: nn.Module, x: Tensor, grad: Tensor) -> Contender:
    """A single-step neuron under autograd, called T times; the frames come one by one, as from layers before it."""
    frames = [frame.requires_grad_() for frame in x.detach().unbind()]

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(torch.stack([module(frame) for frame in frames]), frames, grad)

    return Contender({FORWARD_BACKWARD: run}, prepare=partial(functional.reset_net, module))


def spikingjelly_wide_lif(x: Tensor, grad: Tensor) -> Contender:
    """SpikingJelly's fused LIF as a function, from a float32 state."""
    leaf, v = x.detach().requires_grad_(), torch.zeros_like(x[0], dtype=torch.float32)
    spike = surrogate.Sigmoid(alpha=4.0)

    def run() -> tuple[Tensor, ...]:
        spikes, *_ = functional.lif_multi_step(leaf, v, 2.0, False, 1.0, None, spike, False)
        return torch.autograd.grad(spikes, leaf, grad)

    return Contender({FORWARD_BACKWARD: run})


def memory_floor(x: Tensor) -> Contender:
    """What moving the tensors takes at the speed of a copy of one of them."""
    copy = torch.empty_like(x)
    return Contender({FORWARD_BACKWARD: lambda: copy.copy_(x)}, scale=FLOOR_PASSES / COPY_PASSES)


def growth_makers(lengths: tuple[int, ...], frame: tuple[int, ...], device: torch.device) -> Makers:
    """The CLIF layer for several T; per time step.

    Every contender goes through the same frames [N, C, H, W] in a turn, T of them at a time, so that a short sequence
    finds its input as cold as a long one does.
    """
    x, grad = (random_sequence((max(lengths), *frame), torch.float32, device, seed) for seed in (0, 1))

    def make(T: int, loop: bool) -> Contender:
        neuron, timed = our_neuron("CLIF", step_mode="s" if loop else "m"), step_by_step if loop else sequence_at_once
        parts = [timed(neuron, *part) for part in zip(x.split(T), grad.split(T), strict=True)]
        turns = cycle(parts)
        return Contender(
            {FORWARD_BACKWARD: lambda: next(turns).phases[FORWARD_BACKWARD]()},
            parts[0].prepare,
            scale=1 / T,
            repeats=len(parts),
            against=growth_name(T, False),
        )

    return {growth_name(T, loop): partial(make, T, loop) for T in lengths for loop in (False, True)}


def growth_name(T: int, loop: bool) -> str:
    return f"{'step loop' if loop else 'ours'}, T = {T}"


class LinearLIF(nn.Module):
    """One linear layer n → n and LIF neurons behind it: [T, N, n] → spikes [T, N, n]."""

    def __init__(self, n: int, lif: nn.Module, loop: bool = False):
        super().__init__()
        self.linear, self.lif, self.loop = layer.Linear(n, n, bias=False, step_mode="s" if loop else "m"), lif, loop
        nn.init.normal_(self.linear.weight, std=(SPIKE_RATE * n) ** -0.5)  # currents of unit size, so that it fires

    def forward(self, x_seq: Tensor) -> Tensor:
        if self.loop:
            return torch.stack([self.lif(self.linear(x)) for x in x_seq])
        return self.lif(self.linear(x_seq))


class ForwardThenBackward:
    """A network whose two directions are timed apart; ``grad`` [T, N, n] is what comes back to its spikes."""

    def __init__(self, net: nn.Module, x_seq: Tensor, grad: Tensor):
        self.net, self.x_seq, self.grad = net, x_seq, grad
        self.weights = list(net.parameters())
        self.spikes: Tensor

    def forward(self) -> None:
        self.spikes = self.net(self.x_seq)

    def backward(self) -> None:
        torch.autograd.grad(self.spikes, self.weights, self.grad)


def onm_makers(n: int, batch: int, T: int, device: torch.device) -> Makers:
    """The set-up of Open Neuromorphic's public benchmark: forward and backward of linear + LIF, float32."""
    generator = torch.Generator(device).manual_seed(0)
    x_seq = (torch.rand(T, batch, n, generator=generator, device=device) < SPIKE_RATE).float()  # spikes [T, N, n]
    grad = random_sequence((T, batch, n), torch.float32, device)

    def make(lif: Callable[[], nn.Module], loop: bool = False) -> Contender:
        torch.manual_seed(0)
        net = LinearLIF(n, lif(), loop).to(device)
        work = ForwardThenBackward(net, x_seq, grad)
        return Contender(
            {"forward": work.forward, "backward": work.backward}, prepare=partial(functional.reset_net, net)
        )

    return {
        "ours": partial(make, partial(our_neuron, "LIF")),
        "SpikingJelly": partial(make, SPIKINGJELLY["LIF"]),
        "step loop": partial(make, partial(our_neuron, "LIF", step_mode="s"), loop=True),
        "the linear layer alone": partial(make, nn.Identity),
    }
