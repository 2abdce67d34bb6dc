"""PSN: the parallel spiking neuron (Fang et al., NeurIPS 2023), SpikingJelly's node, in float32 as ours are."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from .ops.returned import as_current
from .options import check_computation, check_count
from .surrogate import ALPHA, SURROGATE, spike_function


class PSN(neuron.PSN):
    """h = W·x over time, s = Θ(h − V_th): W [T, T] and −V_th [T, 1] are learned, ``weight`` and ``bias``.

    W starts small and V_th at 1, where a narrow surrogate may see little for small T (its paper takes a wide one).
    It has no step, and so no state, leak or reset, and nothing is derived of it: it sees later steps from earlier ones,
    and takes whole sequences only (``'m'``).

    Args:
        T: time steps.
        surrogate, alpha: as in :class:`neurons.SpikingNeuron`.

    Raises:
        ValueError: if ``T`` is missing or counts nothing, the surrogate is none, or a sequence of another length
            comes in.
    """

    def __init__(
        self,
        T: int | None = None,
        surrogate: str | Callable[[Tensor], Tensor] = SURROGATE,
        alpha: float = ALPHA,
    ):
        check_computation(surrogate, alpha, "auto", None)
        if T is None:
            raise ValueError("PSN has weights for each time step: it needs T")
        check_count("T", T)
        spike = spike_function(surrogate, alpha) if isinstance(surrogate, str) else surrogate
        super().__init__(T, surrogate_function=spike)
        self.step_mode = "m"  # SpikingJelly's has none, so that set_step_mode would pass it by

    @classmethod
    def takes(cls, option: str) -> bool:
        """Whether an option of ``build_neuron`` means something to it."""
        return option in ("T", "surrogate", "alpha")

    def forward(self, x_seq: Tensor) -> Tensor:
        """Input current [T, N, *] → spikes [T, N, *] of its dtype, computed in float32 whatever autocast says.

        Or in float64, if the current or the weights are.
        """
        if x_seq.shape[0] != self.T:
            raise ValueError(f"PSN was built for T = {self.T}, and the sequence has {x_seq.shape[0]} steps")
        x_seq, device = as_current(x_seq), x_seq.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            wide = torch.promote_types(torch.promote_types(x_seq.dtype, self.weight.dtype), torch.float32)
            return self._fire(x_seq.to(wide)).to(x_seq.dtype)

    def _fire(self, x_seq: Tensor) -> Tensor:
        """Input current [T, N, *], float32 or better → spikes; the last one is NaN where h is not finite."""
        frames = x_seq.unsqueeze(-1).flatten(1)  # of [T] too
        bias, weight = self.bias.to(x_seq.dtype), self.weight.to(x_seq.dtype)
        h = torch.addmm(bias, weight, frames).view(x_seq.shape)  # h − V_th
        spikes = self.surrogate_function(h)
        spikes[-1].masked_fill_(~h[-1].isfinite(), math.nan)  # as in every neuron here: NaN does not fire by itself
        return spikes
