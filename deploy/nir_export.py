"""A converted network as NIR, the intermediate representation that neuromorphic frameworks and chips read.

NIR (Pedersen et al., Nature Communications 2024) describes τ·dv/dt = (v_leak − v) + R·I with a reset to ``v_reset``.
A step of length dt takes v to v + (dt/τ_nir)·((v_leak − v) + R·I). LIF with a hard reset,
u ← v_reset + γ·(u − v_reset) + c with γ = 1 − 1/τ, is that node with τ_nir = τ·dt. It is written in a form that more
readers take: potentials count from v_reset (v = u − v_reset, so v_leak = v_reset = 0 and v_threshold = V_th − v_reset),
and R = 1, with the factor τ in the weights and biases before the neuron. Both change nothing but rounding. NIR has no
soft reset and no CLIF. Two conventions a reader must share: v starts at 0, and v = v_threshold fires (NIR writes
v > v_threshold; SpikingJelly reads it as ≥, as the paper does).

What else is rewritten, without changing the function: batch norm is folded into the convolution before it, or, behind a
sum, becomes a 1×1 convolution with a diagonal weight; an adaptive average pool is folded into the linear layer behind
it; a sum is two edges into one node; dropout is gone.
"""

from __future__ import annotations

from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import nir
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.nir_exchange import import_from_nir
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from models import SpikingNetwork
from models.batch_norm import BatchNorm2d
from models.modes import in_evaluation
from neurons import LIF, PLIF, SpikingNeuron
from utils.aside import replacing
from utils.run_dir import naming_disk

from .nir_nodes import GraphBuilder, NotInNIRError

DT = 1e-4  # seconds per time step; what SpikingJelly and most readers of NIR assume


class _Run(nn.Module):
    """The network without its resets: what happens to one frame."""

    def __init__(self, net: SpikingNetwork):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.run(x)


class _Layers(fx.Tracer):
    """Follows the data through the containers down to the layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SpikingNeuron) or not list(m.children())


@torch.no_grad()
def to_nir(net: SpikingNetwork, input_shape: tuple[int, int, int], dt: float = DT) -> nir.NIRGraph:
    """A network with hard-reset LIF (or PLIF) neurons as a NIR graph; node names are those of its layers.

    Args:
        net: a network of this project, usually a :func:`deploy.conversion.lif_twin`; left untouched.
        input_shape: (C, H, W) of a frame.
        dt: seconds per time step; a reader must be told the same.

    Raises:
        NotInNIRError: naming the first layer that NIR cannot express.
    """
    if type(net).forward is not SpikingNetwork.forward:
        raise NotInNIRError(f"{type(net).__name__} has layers in front of those that see each frame; NIR has no such")
    for name, module in net.named_modules():
        _refuse(name, module)
    mode, weight = net.step_mode, next(net.parameters())
    with in_evaluation(net):
        try:
            functional.set_step_mode(net, "s")
            runner = _Run(net)
            traced = fx.GraphModule(runner, _Layers().trace(runner))
            ShapeProp(traced).propagate(weight.new_zeros(1, *input_shape))  # [N, C, H, W] of one step
        finally:
            functional.reset_net(net)
            functional.set_step_mode(net, mode)
    return GraphBuilder(traced, dt).build()


def write_nir(graph: nir.NIRGraph, path: Path) -> None:
    """Write a graph so that the file is the old one or the new one, never a part of it.

    Raises:
        UsageError: if the disk does not take it.
    """
    packed = BytesIO()  # HDF5 itself ends in many lines, and leaves its file, where the disk is full
    nir.write(packed, graph)
    with naming_disk(path), replacing(path, "wb") as file:
        file.write(packed.getbuffer())


def _refuse(name: str, module: nn.Module) -> None:
    """Refuse a layer that NIR cannot express, as far as its kind and settings tell.

    Raises:
        NotInNIRError: naming the layer, and what to do.
    """
    if isinstance(module, BatchNorm2d) and module.statistics == "per_step":
        raise NotInNIRError(
            f"layer {name}: NIR has one set of weights for all steps, and no batch norm with statistics of each; "
            "use the shared ones"
        )
    if isinstance(module, SpikingNeuron) and not isinstance(module, LIF | PLIF):
        kind = type(module).__name__
        raise NotInNIRError(f"layer {name}: NIR has no {kind} neuron; run the network as LIF with a hard reset")
    if isinstance(module, SpikingNeuron) and module.v_reset is None:
        raise NotInNIRError(f"layer {name}: NIR has no soft reset; give a -v_reset, or let -calibrate choose one")
    if isinstance(module, nn.ReLU):
        raise NotInNIRError(f"layer {name}: NIR has no ReLU; it describes spiking networks")


@torch.no_grad()
def export_and_read_back(net: SpikingNetwork, input_shape: tuple[int, int, int], path: Path, x_seq: Tensor) -> str:
    """Write ``net`` as NIR, let SpikingJelly run the file on x_seq [T, N, C, H, W], and say how far they agree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nir(to_nir(net, input_shape), path)
    logits, read = net.eval()(x_seq), run_in_spikingjelly(path, x_seq)
    same = (logits.sum(0).argmax(1) == read.sum(0).argmax(1)).sum()  # [T, N, K] → [N, K] → [N]
    return (
        f"NIR: {path} (dt = {DT:g} s; potentials count from v_reset). "
        f"Read back by SpikingJelly {version('spikingjelly')}: "
        f"{same} of {x_seq.shape[1]} predictions the same, logits at most {(logits - read).abs().max():.2g} apart"
    )


@torch.no_grad()
def run_in_spikingjelly(path: Path, x_seq: Tensor, dt: float = DT) -> Tensor:
    """What SpikingJelly's own layers and neurons make of a file: x_seq [T, N, C, H, W] → logits [T, N, K]."""
    network = import_from_nir(path, dt=dt, device=str(x_seq.device), dtype=x_seq.dtype, step_mode="m")
    logits, _ = network(x_seq)
    return logits
