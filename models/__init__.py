"""Networks by name: every one reads a sequence [T, N, C, H, W] and returns logits [T, N, K]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Real

from torch import Tensor

from neurons import ALPHA, SURROGATE, TAU, build_neuron, unknown
from neurons.options import check_count

from .chain import mlp3, snn5, snn5_noAP, vggsnn
from .layers import Parts, SpikingNetwork
from .plif_net import plif_fashion, plif_fashion_32
from .replace import build_like, exchange_neurons, replace_neurons
from .resnet import spiking_resnet18, spiking_resnet34, spiking_resnet50, spiking_resnet101, spiking_resnet152
from .sew_resnet import sew_resnet18
from .spike_driven_transformer import spike_driven_transformer, spike_driven_transformer_2_512
from .statistics import STATISTICS, keep_steps, recalibrate, steps_known, synchronise, use_statistics
from .temporal_norm import BATCH_NORMS, NORMS
from .vgg import spiking_vgg11_bn, spiking_vgg13_bn, spiking_vgg16_bn, spiking_vgg19_bn

__all__ = [
    "BATCH_NORMS",
    "MODELS",
    "STATISTICS",
    "WITHOUT_DROPOUT",
    "SpikingNetwork",
    "build_like",
    "build_model",
    "exchange_neurons",
    "keep_steps",
    "list_models",
    "published_norm",
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
    "sew_resnet18": sew_resnet18,
    "plif_fashion": plif_fashion,
    "plif_fashion_32": plif_fashion_32,
    "spike_driven_transformer": spike_driven_transformer,
    "spike_driven_transformer_2_512": spike_driven_transformer_2_512,
    "mlp3": mlp3,
}
WITHOUT_DROPOUT = ("spike_driven_transformer", "spike_driven_transformer_2_512")  # they do not read drop_rate
PUBLISHED_NORMS = {"spike_driven_transformer": "merged", "spike_driven_transformer_2_512": "merged"}


def list_models() -> list[str]:
    """The names that :func:`build_model` knows."""
    return list(MODELS)


def published_norm(model: str) -> str:
    """The batch norm that a network was published with: a key of :data:`BATCH_NORMS`."""
    return PUBLISHED_NORMS.get(model, "per_step")


def check_shape(drop_rate: float, T: int | None, **counts: int) -> None:
    """Refuse a network of no size, which torch would build.

    Raises:
        ValueError: naming the argument.
    """
    for argument, value in counts.items():
        check_count(argument, value, needed=True)
    check_count("T", T)
    if not isinstance(drop_rate, Real) or not 0 <= drop_rate < 1:  # nor is nan
        raise ValueError(f"drop_rate must be in [0, 1), not {drop_rate}")


def build_model(
    name: str,
    neuron: str = "CLIF",
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: int = 32,
    tau: float = TAU,
    surrogate: str | Callable[[Tensor], Tensor] = SURROGATE,
    alpha: float = ALPHA,
    v_reset: float | None = None,
    decay_input: bool = False,
    detach_reset: bool = False,
    drop_rate: float = 0.0,
    bn: str | None = None,
    backend: str = "auto",
    bptt_k: int | None = None,
    T: int | None = None,
) -> SpikingNetwork:
    """Build a network by its name on the command line.

    Args:
        name: a key of :data:`MODELS`.
        neuron: a key of ``neurons.NEURONS``; tau, surrogate, alpha, v_reset, decay_input, detach_reset, backend,
            bptt_k, T: see ``neurons.build_neuron``.
        num_classes: K. in_channels: C. input_size: H = W.
        drop_rate: dropout probability in [0, 1), one mask per sequence.
        bn: ``"per_step"`` (the paper's), or ``"merged"``: T merged into the batch, a different network; ``"tdbn"`` or
            ``"tebn"`` (see :mod:`models.temporal_norm`). None takes :func:`published_norm`.

    Returns:
        A network [T, N, C, H, W] → [T, N, K] that keeps no state between calls.

    Raises:
        ValueError: if a name is unknown, a number is out of range, the input is too small, or an option has no meaning
            for the neuron.
    """
    if name not in MODELS:
        raise ValueError(unknown("model", name, MODELS))
    check_shape(drop_rate, T, num_classes=num_classes, in_channels=in_channels, input_size=input_size)
    bn = published_norm(name) if bn is None else bn
    if bn not in BATCH_NORMS:
        raise ValueError(unknown("batch norm", bn, BATCH_NORMS))
    make_neuron = partial(
        build_neuron,
        neuron,
        tau=tau,
        surrogate=surrogate,
        alpha=alpha,
        v_reset=v_reset,
        decay_input=decay_input,
        detach_reset=detach_reset,
        backend=backend,
        keep_state=False,
        bptt_k=bptt_k,
        T=T,
    )
    parts = Parts(make_neuron, NORMS[bn](T), drop_rate)
    return MODELS[name](parts, num_classes, in_channels, input_size)
