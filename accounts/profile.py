"""Measures a network on data: layer shapes and firing rates.

SpikingJelly 2 has operation counters of its own. They do not count as the paper does (:mod:`accounts.synops` has one):

- ``SynOpCounter`` follows each spike to the weights it really meets, so a spike at the border of a padded
  convolution costs less. The paper multiplies the dense count by the firing rate. For linear layers and for
  1×1 convolutions of stride 1 the two are equal; otherwise they differ by what the borders cost.
- ``MACCounter`` agrees on real-valued layers, but for their bias, which it leaves out; for a batch norm it counts one
  MAC per output where the paper counts two.
- ``LemaireEnergyProfiler`` prices memory differently (see :mod:`accounts.memory_energy`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.modes import in_evaluation
from neurons import SpikingNeuron

from .memory_energy import EnergyBreakdown, memory_energy
from .operations import LayerShape, Operations, operations
from .outside import DenseWork
from .tally import Tally

SYNAPSES = (nn.Conv2d, nn.Linear)
AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
HEARD = (*SYNAPSES, *AVERAGES, _BatchNorm)
SHORTCUT = re.compile("shortcut|downsample")  # in the names of layers and neurons that stand beside the chain


@dataclass(frozen=True)
class SynapticLayer:
    """A convolution or linear layer as it ran.

    Args:
        density: share of its inputs that are not zero.
        arriving: the same of what is averaged for it, where an average pool stands between a neuron and it.
        is_binary: all of its inputs were 0 or 1, so that they are spikes.
        is_static: it saw one frame for all T steps (a view of stride 0 in time).
    """

    name: str
    shape: LayerShape
    density: float
    arriving: float
    is_binary: bool
    is_static: bool

    @property
    def rate(self) -> float | None:
        """The firing rate that feeds it; None where its input is real-valued."""
        return self.density if self.is_binary else None


@dataclass(frozen=True)
class NeuronLayer:
    """``neurons`` neurons that fire, each, ``firing_rate`` spikes per time step (ReLU: share of outputs above 0)."""

    name: str
    neurons: int
    firing_rate: float


@dataclass(frozen=True)
class NetworkProfile:
    """What :func:`profile_network` saw; layers are in the order they ran.

    Args:
        T: time steps. samples: how many samples the rates are averaged over.
        normalised: values that batch norms put out per time step.
        pooled: for each average pool, its number of inputs, and their firing rate (None: real-valued).
        order: names of ``synapses`` and ``neurons`` together, in the order they ran.
    """

    T: int
    samples: int
    synapses: tuple[SynapticLayer, ...]
    neurons: tuple[NeuronLayer, ...]
    normalised: int
    pooled: tuple[tuple[int, float | None], ...]
    order: tuple[str, ...]

    def firing_rates(self) -> dict[str, float]:
        """Firing rate of each neuron layer by its name (Figure 11)."""
        return {layer.name: layer.firing_rate for layer in self.neurons}

    def operations(self, neuron: str, T: int | None = None) -> Operations:
        """ACs, MACs and energy of one sample; ``T=1`` counts one time step, as Table 6 prints."""
        return operations(
            [layer.shape for layer in self.synapses],
            [layer.rate for layer in self.synapses],
            self.T if T is None else T,
            neuron,
            neurons=sum(layer.neurons for layer in self.neurons),
            normalised=self.normalised,
            pooled=self.pooled,
            static=[layer.is_static for layer in self.synapses],
        )

    def memory_energy(self, neuron: str) -> EnergyBreakdown:
        """One row of Table 7, from the chain of layers: what is named :data:`SHORTCUT` is left out.

        A layer reads the share of values that reach it, before they are averaged: the firing rate of the neurons in
        front, if nothing but an average pool is between, and more behind a sum with a shortcut or a max pool.

        Raises:
            ValueError: if those layers and the neuron layers do not take turns.
        """
        layers = [layer for layer in self.synapses if not SHORTCUT.search(layer.name)]
        chain = [layer.shape for layer in layers]
        if neuron == "relu":  # no count depends on what fires
            return memory_energy(chain, None, self.T, neuron)
        rates = {layer.name: layer.firing_rate for layer in self.neurons}
        turns = [name in rates for name in self.order if not SHORTCUT.search(name)]
        if turns != [False, *[True, False] * (len(chain) - 1)]:
            raise ValueError("its layers and its neurons do not take turns, and Table 7 counts a chain of them")
        fired = [rates[name] for name in rates if not SHORTCUT.search(name)]
        return memory_energy(chain, fired, self.T, neuron, arriving=[layer.arriving for layer in layers[1:]])


def is_neuron(module: nn.Module) -> bool:
    """Whether a module is a neuron: one of ours, a SpikingJelly module with a membrane potential ``v``, or a ReLU."""
    if isinstance(module, nn.ReLU | SpikingNeuron):  # whatever one of your own calls its states
        return True
    return isinstance(module, base.MemoryModule) and hasattr(module, "v")


class Hearing:
    """A forward hook that tallies what passes each layer.

    Args:
        names: of the network's modules. is_neuron: which of them are neurons.
    """

    def __init__(self, names: Mapping[nn.Module, str], is_neuron: Callable[[nn.Module], bool]):
        self.names, self.is_neuron = names, is_neuron
        self.tallies: dict[nn.Module, Tally] = {}
        self.averaged: dict[nn.Module, Tally] = {}  # of layers behind average pools: what these pools were given
        self._pooled: Tensor | None = None  # what the first average pool behind the last neuron was given

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        tally = self.tallies.setdefault(module, Tally())
        tally.add(output if self.is_neuron(module) or isinstance(module, _BatchNorm) else inputs[0])
        tally.input_shape, tally.output_shape = inputs[0].shape, output.shape
        if isinstance(module, _BatchNorm) or SHORTCUT.search(self.names[module]):
            return
        before = self._pooled
        if isinstance(module, SYNAPSES) and before is not None:
            self.averaged.setdefault(module, Tally()).add(before)
        self._pooled = (inputs[0] if before is None else before) if isinstance(module, AVERAGES) else None


@torch.no_grad()
def profile_network(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    is_neuron: Callable[[nn.Module], bool] = is_neuron,
) -> NetworkProfile:
    """Run ``net`` in evaluation mode on batches, and measure every layer by forward hooks.

    Args:
        net: x_seq [T, N, C, H, W] → logits [T, N, K]. Its modes are restored.
        batches: (x_seq, labels) pairs on the network's device, all of one T.
        is_neuron: which modules are neurons.

    Raises:
        ValueError: if there are no batches, or no samples in them, T changes between them, nothing in the network could
            be counted, a layer did not run once per sample and time step, a convolution is grouped, dilated or strided
            unevenly, or there are multiply-accumulates in something else than such layers.
    """
    names = {module: name for name, module in net.named_modules()}
    hearing, work = Hearing(names, is_neuron), DenseWork()
    first, samples, lengths = 0, 0, set()
    with ExitStack() as stack:
        stack.enter_context(in_evaluation(net))
        for module in net.modules():
            if isinstance(module, HEARD) or is_neuron(module):
                stack.callback(module.register_forward_hook(hearing).remove)
        for x_seq, _ in batches:
            with nullcontext() if samples else work.of(net):  # every batch does the same
                net(x_seq)
            lengths.add(x_seq.shape[0])
            samples += x_seq.shape[1]
            first = first or samples
    if len(lengths) != 1:
        raise ValueError(f"need batches of one T, got {sorted(lengths) or 'no batch at all'}")
    if not samples:
        raise ValueError("no sample is in the batches, and rates are averages over samples")
    (T,) = lengths

    steps, tallies = samples * T, hearing.tallies
    synapses = {
        m: _synaptic_layer(names[m], m, t, hearing.averaged.get(m, t), steps)
        for m, t in tallies.items()
        if isinstance(m, SYNAPSES)
    }
    neurons = [NeuronLayer(names[m], t.values // steps, t.density) for m, t in tallies.items() if is_neuron(m)]
    if not synapses or not neurons:
        raise ValueError(f"found {len(synapses)} convolutions and linear layers and {len(neurons)} neuron layers")
    work.check(names, {m: first * T * layer.shape.dense_operations for m, layer in synapses.items()}, first)
    return NetworkProfile(
        T,
        samples,
        tuple(synapses.values()),
        tuple(neurons),
        normalised=sum(t.values for m, t in tallies.items() if isinstance(m, _BatchNorm)) // steps,
        pooled=tuple((t.values // steps, t.rate) for m, t in tallies.items() if isinstance(m, nn.AvgPool2d)),
        order=tuple(names[m] for m in tallies if isinstance(m, SYNAPSES) or is_neuron(m)),
    )


def _synaptic_layer(
    name: str, module: nn.Conv2d | nn.Linear, tally: Tally, averaged: Tally, steps: int
) -> SynapticLayer:
    """A layer from what passed it, and was averaged for it, in ``steps`` = samples × T.

    Raises:
        ValueError: if it cannot be counted.
    """
    kernel: tuple[int, int] | None = None
    stride, bias = 1, module.bias is not None
    if isinstance(module, nn.Conv2d):
        kernel, stride = (module.kernel_size[0], module.kernel_size[1]), module.stride[0]
        if module.groups != 1 or set(module.dilation) != {1} or len(set(module.stride)) != 1:
            raise ValueError(f"{name}: grouped, dilated or unevenly strided convolutions are not counted: {module}")
    rank = 1 if kernel is None else 3
    shape = LayerShape(tuple(tally.input_shape[-rank:]), tuple(tally.output_shape[-rank:]), kernel, stride, bias)
    if tally.values != steps * shape.inputs:
        runs = tally.values / shape.inputs
        raise ValueError(f"{name} ran on {runs:g} frames where samples × T = {steps}: its operations cannot be counted")
    return SynapticLayer(name, shape, tally.density, averaged.density, tally.rate is not None, tally.is_static)
