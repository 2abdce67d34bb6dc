"""Frameworks that read NIR, each with its own layers and neurons: which spikes they make of an exported file.

    python -m tests.nir_readers

prints how many spikes differ from ours, reader by network, in float64 and in float32. In float64 a difference is one of
meaning; in float32 a potential within rounding of the threshold decides otherwise now and then, and all that follows in
its sequence with it. A reader that is not installed is left out.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import nir
import torch
from torch import Tensor, nn

from deploy.conversion import lif_twin, neuron_layers
from deploy.nir_export import DT, to_nir, write_nir
from models import build_model
from utils.output import markdown_table

Spikes = dict[str, Tensor]
"""Name of a neuron layer, with _ for . → its spikes [T, N, *]."""


def in_spikingjelly(path: Path, x_seq: Tensor) -> Spikes:
    """SpikingJelly: all steps at once, the state returned."""
    exchange = importlib.import_module("spikingjelly.activation_based.nir_exchange")
    net = exchange.import_from_nir(path, dt=DT, step_mode="m")
    return spikes_of(net, nir.read(path), x_seq, lambda: net(x_seq), stepwise=False)


def in_snntorch(path: Path, x_seq: Tensor) -> Spikes:
    """snnTorch: step by step, the state kept in the neurons; dt is its importer's own 1e-4."""
    graph = nir.read(path)
    with redirect_stdout(io.StringIO()):
        net = importlib.import_module("snntorch.import_nir").import_from_nir(nir.read(path))
    return spikes_of(net, graph, x_seq, lambda: [net(x) for x in x_seq])


def in_norse(path: Path, x_seq: Tensor) -> Spikes:
    """Norse: step by step, the state handed on."""
    graph = nir.read(path)
    net = importlib.import_module("norse.torch").from_nir(graph, dt=DT)

    def run() -> None:
        state = None
        for x in x_seq:
            _, state = net(x, state)

    return spikes_of(net, graph, x_seq, run)


READERS: dict[str, Callable[[Path, Tensor], Spikes]] = {
    "spikingjelly": in_spikingjelly,
    "snntorch": in_snntorch,
    "norse": in_norse,
}
MODELS = ("snn5_noAP", "snn5", "spiking_vgg11_bn", "spiking_resnet18")
INSTALLED = [name for name in READERS if find_spec(name)]


@torch.no_grad()
def spikes_of(
    net: nn.Module, graph: nir.NIRGraph, x_seq: Tensor, run: Callable[[], object], *, stepwise: bool = True
) -> Spikes:
    """What the modules of the graph's neurons put out while ``run`` runs, in the precision of x_seq.

    Importers round what they read to float32: in float64 weights are taken from the file again.
    """
    net.to(x_seq.dtype)
    nodes = {name.replace(".", "_"): node for name, node in graph.nodes.items()}
    seen: dict[str, list[Tensor]] = {}

    def listen(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
            seen.setdefault(name, []).append(output[0] if isinstance(output, tuple) else output)

        return hook

    for path, module in net.named_modules():
        node = nodes.get(name := path.replace(".", "_"))
        if isinstance(node, nir.LIF):
            module.register_forward_hook(listen(name))
        elif isinstance(node, nir.Conv2d | nir.Affine):
            module.weight.data = torch.from_numpy(node.weight).to(x_seq)
            module.bias.data = torch.from_numpy(node.bias).to(x_seq)
            module.register_forward_pre_hook(lambda m, inputs: inputs[0].to(x_seq))  # snnTorch's spikes are float32
    run()
    return {name: torch.stack(steps) if stepwise else steps[0] for name, steps in seen.items()}


@torch.no_grad()
def our_spikes(net: nn.Module, x_seq: Tensor) -> Spikes:
    """What the network's own neurons put out."""
    seen: Spikes = {}
    for name, module in neuron_layers(net).items():
        module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name.replace(".", "_"), o))
    net(x_seq)
    return seen


def differing(ours: Spikes, theirs: Spikes) -> tuple[int, int]:
    """How many spikes differ, and of how many neuron-steps.

    Raises:
        ValueError: if the layers are not the same.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"layers differ: {sorted(ours.keys() ^ theirs.keys())}")
    return sum(int((ours[name] != theirs[name]).sum()) for name in ours), sum(each.numel() for each in ours.values())


def exported(model: str, path: Path, samples: int, dtype: torch.dtype) -> tuple[Spikes, Tensor]:
    """Write a network with firing neurons, and resets of each layer that float32 holds exactly, to ``path``.

    Returns:
        Its spikes, and what it was shown.
    """
    torch.manual_seed(0)
    clif = build_model(model, "CLIF", num_classes=10, in_channels=3, input_size=32)
    for module in clif.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.4)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    x_seq = torch.randn(samples, 3, 32, 32).expand(4, -1, -1, -1, -1)
    with torch.no_grad():
        for _ in range(3):
            clif.train()(x_seq)  # running statistics
    resets = {name: -(i % 4) / 32 for i, name in enumerate(neuron_layers(clif))}
    net, x_seq = lif_twin(clif, resets).eval().to(dtype), x_seq.to(dtype)
    write_nir(to_nir(net, (3, 32, 32)), path)
    return our_spikes(net, x_seq), x_seq


def compared(name: str, path: Path, ours: Spikes, x_seq: Tensor) -> str:
    """How a reader's spikes compare with ours, in words."""
    try:
        differ, total = differing(ours, READERS[name](path, x_seq))
    except (AssertionError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        return f"fails: {type(error).__name__}: {' '.join(str(error).split()):.60}"
    return f"{differ:,} of {total:,}"


def main() -> None:
    """Print the table: readers × networks, spikes that differ."""
    rows = {(name, dtype): [f"{name} {version(name)}, {str(dtype).removeprefix('torch.')}"]
            for name in INSTALLED for dtype in (torch.float64, torch.float32)}  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        for model in MODELS:
            for dtype in (torch.float64, torch.float32):
                ours, x_seq = exported(model, path, 16, dtype)
                for name in INSTALLED:
                    rows[name, dtype].append(compared(name, path, ours, x_seq))
    print(markdown_table(["", *MODELS], list(rows.values())))


if __name__ == "__main__":
    main()
