"""For ``torch.hub``: the networks of ``zoo/`` and this project's neurons, without installing it.

net = torch.hub.load("/path/to/this/project", "pretrained", "digits_CLIF", source="local")
logits = net(x_seq)                              # [T, N, C, H, W] → [T, N, K]
"""

from typing import Any

from torch import nn

dependencies = ["torch", "spikingjelly", "safetensors"]


def pretrained(name: str) -> nn.Module:
    """A trained network by its name in ``zoo/README.md``, in evaluation mode."""
    from deploy.subject import load_pretrained  # here: torch.hub.list has no use for it

    return load_pretrained(name)


def neuron(name: str, **options: Any) -> nn.Module:
    """A neuron layer, as :func:`neurons.build_neuron` makes it: input current [T, N, *] → spikes [T, N, *]."""
    from neurons import build_neuron

    return build_neuron(name, **options)
