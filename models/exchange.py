"""Another neuron in a network that is being trained (Figure 3a: from LIF to CLIF in mid-training)."""

from __future__ import annotations

from torch import nn

from neurons import WEIGHTLESS, SpikingNeuron, build_neuron


def exchange_neurons(net: nn.Module, name: str) -> None:
    """Put neuron ``name`` in the place of every spiking neuron of ``net``, with the same settings, in place.

    Weights, and an optimiser that holds them, are left as they are: neither neuron has any of its own.

    Args:
        name: one of ``neurons.WEIGHTLESS``.

    Raises:
        ValueError: if a neuron has weights of its own, or the network no spiking neurons. Nothing is exchanged then.
    """
    places = [
        (parent, attribute, module)
        for parent in net.modules()
        for attribute, module in parent.named_children()
        if isinstance(module, SpikingNeuron)
    ]
    if name not in WEIGHTLESS or not places or any(list(neuron.parameters()) for _, _, neuron in places):
        raise ValueError(f"only {' and '.join(WEIGHTLESS)} can stand in for each other: the rest have weights to train")
    for parent, attribute, old in places:
        new = build_neuron(
            name,
            tau=old.tau,
            v_threshold=old.v_threshold,
            v_reset=old.v_reset,
            surrogate=old.surrogate,
            alpha=old.alpha,
            step_mode=old.step_mode,
            backend=old.backend,
            keep_state=old.keep_state,
            bptt_k=old.bptt_k,
            decay_input=old.decay_input,
            detach_reset=old.detach_reset,
        )
        setattr(parent, attribute, new.train(old.training))
