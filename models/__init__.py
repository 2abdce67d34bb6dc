"""Networks by name: every one reads a sequence [T, N, C, H, W] and returns logits [T, N, K]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from neurons import build_neuron

from .batch_norm import BATCH_NORMS, STATISTICS, BatchNorm2d, recalibrate, steps_known, synchronise, use_statistics
from .chain import snn5, snn5_noAP, vggsnn
from .layers import Parts, SpikingNetwork
from .mlp import SpikingMLP
from .replace import build_like, exchange_neurons, replace_neurons
from .resnet import spiking_resnet18, spiking_resnet34, spiking_resnet50, spiking_resnet101, spiking_resnet152
from .vgg import spiking_vgg11_bn, spiking_vgg13_bn, spiking_vgg16_bn, spiking_vgg19_bn

__all__ = [
    "BATCH_NORMS",
    "MODELS",
    "NETWORK_OPTIONS",
    "STATISTICS",
    "SpikingNetwork",
    "build_like",
    "build_model",
    "exchange_neurons",
    "recalibrate",
    "replace_neurons",
    "steps_known",
    "synchronise",
    "use_statistics",
]

MODELS: dict[str, Callable[..., SpikingNetwork]] = {
    "spiking_resnet18": spiking_resnet18,
    "spiking_resnet34": spiking_resnet34,
    "spiking_resnet50": spiking_resnet50,
    "spiking_resnet101": spiking_resnet101,
    "spiking_resnet152": spiking_resnet152,
    "spiking_vgg11_bn": spiking_vgg11_bn,
    "spiking_vgg13_bn": spiking_vgg13_bn,
    "spiking_vgg16_bn": spiking_vgg16_bn,
    "spiking_vgg19_bn": spiking_vgg19_bn,
    "vggsnn": vggsnn,
    "snn5": snn5,
    "snn5_noAP": snn5_noAP,
    "mlp3": partial(SpikingMLP, (128, 128)),
}
# what the command line calls by the same names
NETWORK_OPTIONS = ("tau", "surrogate", "alpha", "v_reset", "drop_rate", "bn", "backend", "bptt_k", "T")


def build_model(
    name: str,
    neuron: str = "CLIF",
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    tau: float = 2.0,
    surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
    alpha: float = 1.0,
    v_reset: float | None = None,
    drop_rate: float = 0.0,
    bn: str = "per_step",
    backend: str = "auto",
    bptt_k: int | None = None,
    T: int | None = None,
) -> SpikingNetwork:
    """Build a network by its name on the command line.

    Args:
        name: a key of :data:`MODELS`.
        neuron: a key of ``neurons.NEURONS``; tau, surrogate, alpha, v_reset, backend, bptt_k, T: see
            ``neurons.build_neuron``.
        num_classes: K. in_channels: C. input_size: H = W.
        drop_rate: dropout probability in [0, 1), one mask per sequence.
        bn: ``"per_step"`` (the paper's), or ``"merged"``: T merged into the batch, a different network.

    Returns:
        A network [T, N, C, H, W] → [T, N, K] that keeps no state between calls.

    Raises:
        ValueError: if a name is unknown, the input is too small, or an option has no meaning for the neuron.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if bn not in BATCH_NORMS:
        raise ValueError(f"unknown batch norm {bn!r}; known: {', '.join(BATCH_NORMS)}")
    make_neuron = partial(
        build_neuron,
        neuron,
        tau=tau,
        surrogate=surrogate,
        alpha=alpha,
        v_reset=v_reset,
        backend=backend,
        keep_state=False,
        bptt_k=bptt_k,
        T=T,
    )
    parts = Parts(make_neuron, partial(BatchNorm2d, merged=bn == "merged"), drop_rate)
    return MODELS[name](parts, num_classes, in_channels, input_size)
