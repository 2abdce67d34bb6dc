"""Layers as NIR nodes: what :mod:`deploy.nir_export` makes of a traced network, one layer after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from models.temporal_norm import TemporalEffectiveBatchNorm2d
from neurons import LIF, PLIF, SpikingNeuron
from utils.cli import UsageError

from .conversion import learned_tau

SKIPPED = (nn.Identity, _DropoutNd, layer.Dropout)  # what changes nothing in evaluation


class NotInNIRError(UsageError):
    """A layer that NIR cannot express: one line that names it and says why."""


class GraphBuilder:
    """Turns traced layers into NIR nodes, one after the other."""

    def __init__(self, traced: fx.GraphModule, dt: float):
        self.traced, self.dt = traced, dt
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.outputs: dict[fx.Node, list[str]] = {}  # the NIR nodes whose sum a traced node puts out
        # traced nodes from an adaptive pool to its linear layer → the pool's input and its matrix [H·W, H′·W′]
        self.pools: dict[fx.Node, tuple[fx.Node, Tensor]] = {}
        self.rules: dict[type[nn.Module], Callable[[str, Any, fx.Node], None]] = {
            SpikingNeuron: self.neuron,
            nn.Conv2d: self.conv,
            nn.BatchNorm2d: self.norm,
            nn.AvgPool2d: self.pool,
            nn.AdaptiveAvgPool2d: self.adaptive_pool,
            nn.Flatten: self.flatten,
            nn.Linear: self.linear,
            **dict.fromkeys(SKIPPED, self.skip),
        }

    def build(self) -> nir.NIRGraph:
        """The whole graph.

        Raises:
            NotInNIRError: naming the first layer or operation that NIR cannot express.
        """
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.add("input", nir.Input(np.array(shape_of(node))), node)
            elif node.op == "output":
                self.add("output", nir.Output(np.array(shape_of(node.args[0]))), node)
            elif node.op == "call_module":
                self.layer(node)
            elif getattr(node.target, "__name__", node.target) == "add":
                self.sum(node)
            else:
                raise NotInNIRError(f"NIR has no operation {node.target}, which the network uses between its layers")
        return nir.NIRGraph(self.nodes, self.edges, {"dt": self.dt})

    def layer(self, node: fx.Node) -> None:
        """Hand a layer to the rule for its kind."""
        module, name = self.module(node), str(node.target).removeprefix("net.")
        rule = next((rule for kind, rule in self.rules.items() if isinstance(module, kind)), None)
        if rule is None:
            raise NotInNIRError(f"layer {name}: NIR has no {type(module).__name__}")
        runs = sum(self.module(known) is module for known in self.outputs)
        if runs and isinstance(module, SpikingNeuron):
            raise NotInNIRError(f"layer {name}: it runs twice in a step, and two nodes of NIR have no state in common")
        rule(f"{name}.run{runs + 1}" if runs else name, module, node)  # one pool in two places is two nodes

    def sum(self, node: fx.Node) -> None:
        """Edges into one node add up, each once and as it is."""
        terms = [term for term in node.args if isinstance(term, fx.Node)]
        names = [name for term in terms for name in self.outputs[term]]
        plain = len(terms) == len(node.args) == 2 and not node.kwargs
        if not plain or len(set(names)) < len(names) or {*map(shape_of, terms)} != {shape_of(node)}:
            raise NotInNIRError(
                f"NIR adds the outputs of two layers as they are, and not {node}{node.args}{node.kwargs or ''}"
            )
        self.outputs[node] = names

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def add(self, name: str, node: nir.NIRNode, traced: fx.Node, sources: list[str] | None = None) -> None:
        """Add a node behind ``sources``; None for the nodes of what the traced node reads."""
        self.nodes[name] = node
        if sources is None:
            sources = [source for before in traced.all_input_nodes for source in self.outputs[before]]
        self.edges += [(source, name) for source in sources]
        self.outputs[traced] = [name]

    def skip(self, name: str, module: nn.Module, node: fx.Node) -> None:
        """A layer that changes nothing in evaluation: what it reads goes on."""
        before = node.all_input_nodes[0]
        self.outputs[node] = self.outputs[before]
        if before in self.pools:
            self.pools[node] = self.pools[before]

    def neuron(self, name: str, module: LIF | PLIF, node: fx.Node) -> None:
        """LIF in the portable form: potentials count from v_reset, and R = 1, the factor τ being the layer's before."""
        tau = learned_tau(module)
        before = node.all_input_nodes[0]
        sources = self.outputs[before] if module.decay_input else self.scale(f"{name}.input", tau, before)
        assert module.v_reset is not None
        values = {
            "tau": tau * self.dt,
            "r": 1.0,
            "v_leak": 0.0,
            "v_threshold": module.v_threshold - module.v_reset,
            "v_reset": 0.0,
        }
        self.add(name, nir.LIF(**{k: np.full(shape_of(node), value) for k, value in values.items()}), node, sources)

    def scale(self, name: str, factor: float, before: fx.Node) -> list[str]:
        """Multiply what a neuron receives: in the layer before it, or in one of its own if others read that too.

        Returns:
            the NIR nodes that the neuron is to read.
        """
        source = before
        while isinstance(self.module(source), SKIPPED) and len(source.users) == 1:
            source = source.all_input_nodes[0]
        sources = [self.nodes[each] for each in self.outputs[before]]
        if len(source.users) == len(sources) == 1 and isinstance(sources[0], nir.Conv2d | nir.Affine):
            sources[0].weight = sources[0].weight * factor
            sources[0].bias = sources[0].bias * factor
            return self.outputs[before]
        channels, *pixels = shape_of(before)
        diagonal = factor * torch.eye(channels, dtype=before.meta["tensor_meta"].dtype)
        if pixels:
            own: nir.NIRNode = conv_node(
                shape_of(before), diagonal[:, :, None, None], diagonal.new_zeros(channels), None
            )
        else:
            own = nir.Affine(array(diagonal), array(diagonal.new_zeros(channels)))
        self.nodes[name] = own
        self.edges += [(source, name) for source in self.outputs[before]]
        return [name]

    def conv(self, name: str, module: nn.Conv2d, node: fx.Node) -> None:
        if module.groups != 1 or module.padding_mode != "zeros":
            raise NotInNIRError(f"layer {name}: a grouped or not zero-padded convolution is not exported: {module}")
        bias = module.weight.new_zeros(module.out_channels) if module.bias is None else module.bias
        self.add(name, conv_node(shape_of(node.all_input_nodes[0]), module.weight, bias, module), node)

    def norm(self, name: str, module: nn.BatchNorm2d, node: fx.Node) -> None:
        """Fold a batch norm into the convolution before it; behind a sum it becomes a 1×1 convolution."""
        scale, shift = affine_of(name, module)
        before = node.all_input_nodes[0]
        conv = self.module(before)
        if isinstance(conv, nn.Conv2d) and len(before.users) == 1:
            (conv_name,) = self.outputs[node] = self.outputs[before]
            weight = conv.weight * scale[:, None, None, None]  # [C_out, C_in, k_h, k_w]
            bias = shift if conv.bias is None else conv.bias * scale + shift
            self.nodes[conv_name] = conv_node(shape_of(before.all_input_nodes[0]), weight, bias, conv)
        else:
            diagonal = torch.diag(scale)[:, :, None, None]  # [C] → [C, C, 1, 1]
            self.add(name, conv_node(shape_of(before), diagonal, shift, None), node)

    def pool(self, name: str, module: nn.AvgPool2d, node: fx.Node) -> None:
        if module.ceil_mode or module.padding != 0 or module.divisor_override is not None:
            raise NotInNIRError(f"layer {name}: NIR has no such average pool: {module}")
        kernel, stride = (np.broadcast_to(size, 2) for size in (module.kernel_size, module.stride))
        self.add(name, nir.AvgPool2d(kernel, stride, np.zeros(2, dtype=int)), node)

    def adaptive_pool(self, name: str, module: nn.AdaptiveAvgPool2d, node: fx.Node) -> None:
        """Leave it to the linear layer, with nothing but a flatten in between."""
        follower: nn.Module | None = module
        behind = node
        while isinstance(follower, (nn.AdaptiveAvgPool2d, nn.Flatten, *SKIPPED)):
            if len(behind.users) != 1:
                break
            (behind,) = behind.users
            follower = self.module(behind)
        if not isinstance(follower, nn.Linear):
            raise NotInNIRError(
                f"layer {name}: NIR has no adaptive average pool, and no linear layer follows to hold it"
            )
        before = node.all_input_nodes[0]
        _, H, W = shape_of(before)
        self.outputs[node] = self.outputs[before]
        pixels = torch.eye(H * W, dtype=torch.float64).view(-1, 1, H, W)
        self.pools[node] = before, F.adaptive_avg_pool2d(pixels, module.output_size).flatten(1)

    def flatten(self, name: str, module: nn.Flatten, node: fx.Node) -> None:
        before = node.all_input_nodes[0]
        if before in self.pools:
            self.pools[node] = self.pools[before]
            before, _ = self.pools[before]
        shape = shape_of(before)
        self.add(name, nir.Flatten(np.array(shape), -len(shape), -1), node)  # readers count from the front differently

    def linear(self, name: str, module: nn.Linear, node: fx.Node) -> None:
        """A linear layer, with the adaptive pool before it, if there is one, folded in."""
        weight = module.weight
        if node.all_input_nodes[0] in self.pools:
            before, A = self.pools[node.all_input_nodes[0]]
            # the same A for each channel: [K, C, H′·W′] @ [H′·W′, H·W] → [K, C·H·W]
            weight = (weight.view(len(weight), shape_of(before)[0], -1) @ A.to(weight).T).flatten(1)
        bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias
        self.add(name, nir.Affine(array(weight), array(bias)), node)


def affine_of(name: str, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of a batch norm in evaluation mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise NotInNIRError(f"layer {name}: a batch norm without running statistics has no fixed scale")
    if isinstance(norm, TemporalEffectiveBatchNorm2d):
        raise NotInNIRError(
            f"layer {name}: tebn scales each time step by a factor of its own, and NIR has no such layer"
        )
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def conv_node(input_shape: tuple[int, ...], weight: Tensor, bias: Tensor, like: nn.Conv2d | None) -> nir.Conv2d:
    stride, padding, dilation = (1, 0, 1) if like is None else (like.stride, like.padding, like.dilation)
    return nir.Conv2d(input_shape[1:], array(weight), stride, padding, dilation, 1, array(bias))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of a traced value without its batch dimension."""
    return tuple(node.meta["tensor_meta"].shape[1:])


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
