"""KLIF: LIF with a learned slope (Jiang & Zhang 2023), SpikingJelly's node."""

from __future__ import annotations

from collections.abc import Callable

from spikingjelly.activation_based import neuron
from torch import Tensor

from .defaults import TAU
from .precision import in_float32
from .surrogate import spike_function


class KLIF(neuron.KLIFNode):
    """u[t] = γ·v[t−1] + c[t];  f[t] = ReLU(k·u[t]);  s[t] = Θ(f[t] − V_th);  v[t] = f[t] − V_th·s[t],  γ = 1 − 1/τ.

    ``k`` is learned, one scalar per layer, 1 at the start. Charge and reset are those of LIF here (SpikingJelly's own
    defaults weigh the input by 1/τ and reset to 0), so that k is all that differs.

    Args:
        tau, v_threshold, surrogate, alpha, step_mode: as in :class:`neurons.SpikingNeuron`. State ``v``.
    """

    def __init__(
        self,
        tau: float = TAU,
        v_threshold: float = 1.0,
        surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
        alpha: float = 1.0,
        step_mode: str = "m",
    ):
        if not tau > 1:
            raise ValueError(f"tau must be > 1, not {tau}")
        super().__init__(
            tau=float(tau),
            decay_input=False,
            v_threshold=float(v_threshold),
            v_reset=None,
            surrogate_function=spike_function(surrogate, alpha) if isinstance(surrogate, str) else surrogate,
            step_mode=step_mode,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Input current [T, N, *] (``'m'``) or [N, *] (``'s'``) → spikes like it."""
        return in_float32(super().forward, x)
