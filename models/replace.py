"""Other neurons in the place of a network's own: for a twin in LIF, in mid-training (Figure 3a), for a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from neurons import WEIGHTLESS, SpikingNeuron, build_neuron, taking

# what a neuron and the one in its place have in common
SETTINGS = (
    *("tau", "v_threshold", "v_reset", "surrogate", "alpha", "step_mode", "backend", "keep_state", "bptt_k"),
    *("decay_input", "detach_reset"),
)


def replace_neurons(net: nn.Module, make: Callable[[str, SpikingNeuron], nn.Module]) -> None:
    """Put ``make(name, neuron)`` in the place of every spiking neuron of ``net``, in place.

    Args:
        make: (name of the layer, its neuron) → the module that takes its place. A neuron that stands in several
            places is replaced by one module in all of them; the training mode carries over.

    Raises:
        ValueError: if the network has no spiking neurons, or is one. An error of ``make`` leaves it as it was.
    """
    modules = list(net.named_modules(remove_duplicate=False))
    places = [(name, module) for name, module in modules if name and isinstance(module, SpikingNeuron)]
    if not places:
        raise ValueError("the network has no spiking neurons in it that others could stand in for")
    made: dict[nn.Module, nn.Module] = {}
    for name, old in places:
        if old not in made:
            made[old] = make(name, old).train(old.training)
    for name, old in places:
        parent, _, attribute = name.rpartition(".")
        setattr(net.get_submodule(parent), attribute, made[old])


def build_like(neuron: SpikingNeuron, name: str, **changes: Any) -> nn.Module:
    """A neuron ``name`` with the settings of ``neuron``, but for ``changes`` (see ``neurons.build_neuron``).

    What ``neuron`` learns is no setting: GLIF's ``alpha`` is a gate, and its surrogate's width another number.
    """
    learned = {each.name for each in neuron.learned}
    like = {setting: getattr(neuron, setting) for setting in SETTINGS if setting not in learned}
    sizes = {size: getattr(neuron, size) for size in ("T", "channels") if name in taking(size)}
    return build_neuron(name, **{**like, **sizes, "alpha": neuron.width, **changes})


def exchange_neurons(net: nn.Module, name: str) -> None:
    """Put neuron ``name`` in the place of every spiking neuron of a network that is being trained, in place.

    Weights, and an optimiser that holds them, are left as they are: neither neuron has any of its own.

    Args:
        name: one of ``neurons.WEIGHTLESS``.

    Raises:
        ValueError: if a neuron has weights of its own, or a setting that ``name`` has not, or the network has no
            spiking neurons. Nothing is exchanged then.
    """
    neurons = [module for module in net.modules() if isinstance(module, SpikingNeuron)]
    if name not in WEIGHTLESS or not neurons or any(list(neuron.parameters()) for neuron in neurons):
        raise ValueError(f"only {', '.join(WEIGHTLESS)} can stand in for each other: the rest have weights to train")
    replace_neurons(net, lambda _, neuron: build_like(neuron, name))
