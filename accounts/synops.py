"""Synaptic operations counted in other ways than Table 6's, beside it.

Table 6 multiplies a layer's dense operations by the firing rate of what feeds it. SpikingJelly's ``SynOpCounter``
follows each spike to the weights that it meets: fewer at the border of a padded convolution. And hardware that skips
zeros does so for a ReLU network too, whose outputs are mostly 0: Table 6 charges it every multiplication.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import Tensor, nn

from models.modes import in_evaluation
from utils.output import markdown_table

from .profile import profile_network

FORMULAS = {
    "dense": "Σ T·outputs·fan_in (what sees a still image: once)",
    "spikes_by_rate": "Table 6's rule without biases: the same × firing rate, of layers fed by spikes",
    "spikes_met": "SpikingJelly's SynOpCounter: weights that spikes meet, none beyond a border",
    "real": "the dense operations of layers fed by real values",
    "real_nonzero": "the same × share of the inputs that are not 0",
}


@dataclass(frozen=True)
class SynapticOperations:
    """Operations per sample over all T steps, by the formulas of :data:`FORMULAS`."""

    samples: int
    dense: float
    spikes_by_rate: float
    spikes_met: float
    real: float
    real_nonzero: float

    def as_dict(self) -> dict[str, Any]:
        """The numbers with their formulas, ready for JSON."""
        return {**asdict(self), "formulas": FORMULAS}


@torch.no_grad()
def synaptic_operations(net: nn.Module, x_seq: Tensor) -> SynapticOperations:
    """Count what a network does with one batch, in evaluation mode; its modes are restored.

    Args:
        net: x_seq [T, N, C, H, W] → logits [T, N, K].

    Raises:
        ValueError: as :func:`accounts.profile.profile_network`.
    """
    samples = x_seq.shape[1]
    profile = profile_network(net, [(x_seq, x_seq.new_zeros(samples))])
    met = SynOpCounter()
    with in_evaluation(net), DispatchCounterMode([met]):
        net(x_seq)
    sums = dict.fromkeys(("dense", "spikes_by_rate", "real", "real_nonzero"), 0.0)
    for layer in profile.synapses:
        dense = (1 if layer.is_static else profile.T) * layer.shape.dense_operations
        sums["dense"] += dense
        if layer.is_binary:
            sums["spikes_by_rate"] += dense * layer.density
        else:
            sums["real"] += dense
            sums["real_nonzero"] += dense * layer.density
    return SynapticOperations(samples=samples, spikes_met=met.get_total() / samples, **sums)


def synops_markdown(counted: SynapticOperations) -> str:
    """The counts as a Markdown table, each with its formula."""
    rows = [[formula, f"{getattr(counted, name) / 1e6:.3f}"] for name, formula in FORMULAS.items()]
    return markdown_table([f"over all T, mean of {counted.samples} samples", "operations (M)"], rows)
