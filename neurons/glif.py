"""GLIF: the gated LIF (Yao et al., NeurIPS 2022), SpikingJelly's node."""

from __future__ import annotations

from collections.abc import Callable

from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from .precision import check_kept_states, check_sequence, check_steps, in_float32
from .surrogate import spike_function


class GLIF(neuron.GatedLIFNode):
    """LIF with learned gates between exponential and linear leak, constant and per-step input, soft and hard reset.

    One set of weights per layer. Leak, threshold and reset are learned from the paper's start (decay 0.25,
    threshold 0.5): a τ or V_th from outside means nothing to it. Whole sequences of T steps only (``'m'``).

    Args:
        T: time steps: it learns one conductance for each.
        surrogate, alpha: as in :class:`neurons.SpikingNeuron`.

    Raises:
        ValueError: if ``T`` is missing, or a sequence of another length comes in, or of another shape than the state
            that the call before has left.
    """

    def __init__(
        self,
        T: int | None = None,
        surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
        alpha: float = 1.0,
    ):
        spike = spike_function(surrogate, alpha) if isinstance(surrogate, str) else surrogate
        super().__init__(check_steps("GLIF", T), surrogate_function=spike)
        for gate in (self.alpha, self.beta, self.gamma):  # its own draws come from NumPy; ours from torch's seed
            nn.init.uniform_(gate, -0.1, 0.1)

    def supported_step_mode(self) -> tuple[str, ...]:
        return ("m",)

    def forward(self, x_seq: Tensor) -> Tensor:
        """Input current [T, N, *] → spikes [T, N, *]."""
        check_sequence("GLIF", self.T, x_seq)
        maps = x_seq.flatten(2)[..., None, None] if x_seq.dim() != 5 else x_seq  # it knows frames [N, C, H, W] alone
        check_kept_states(self, maps[0])
        return in_float32(super().forward, maps).view(x_seq.shape)
