"""Operations and arithmetic energy of one inference (the paper's Table 6), from layer shapes and firing rates.

What the printed table counts, found by meeting its numbers (every MAC and every ReLU entry to the last digit):

- It is of **one time step** (``T=1`` here), not of the T steps of a sample; multiply to compare with an ANN.
- A layer fed by binary spikes costs ACs: dense operations × firing rate. A layer fed by real values costs MACs:
  the first convolution, and every layer behind an average pool. Both count the bias as one more input.
- Batch norm: 2 MACs per output. Average pool: one operation per input, AC or MAC by the same rule (adaptive: none).
- Neurons: ReLU 1 MAC, LIF none, CLIF 4 MACs each. One AC for each LIF or CLIF neuron brings the ACs closest; with the
  published firing rates they then lie within 1 % of the print (DVS-Gesture: 9 %). No closer fit was found: the
  printed ACs come from other measurements than the printed rates.
- E = 0.9 pJ per AC + 4.6 pJ per MAC (45 nm, 32-bit floating point; Horowitz 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

NEURON_KINDS = ("relu", "LIF", "CLIF")  # the rows of Tables 6 and 7, in print order
KIND_OF = {"relu": "relu", "LIF": "LIF", "PLIF": "LIF", "CLIF": "CLIF"}  # neuron → the row that says what it costs
E_AC_PJ, E_MAC_PJ = 0.9, 4.6
NEURON_ACS = {"relu": 0, "LIF": 1, "CLIF": 1}
NEURON_MACS = {"relu": 1, "LIF": 0, "CLIF": 4}
ENERGY_FORMULA = f"({E_AC_PJ} pJ·ACs + {E_MAC_PJ} pJ·MACs) / 1e6"


@dataclass(frozen=True)
class LayerShape:
    """One convolution or linear layer.

    Args:
        input: (C_in, H, W), or (features,) of a linear layer.
        output: (C_out, H′, W′), or (features,).
        kernel: (k_h, k_w); None marks a linear layer.
        stride: of the convolution, the same in both directions.
        bias: whether the layer adds one (Table 6; Table 7 always counts it).

    Raises:
        ValueError: if sizes are not positive, or their number does not fit the kind of layer.
    """

    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, int] | None = None
    stride: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        rank = 1 if self.kernel is None else 3
        if (len(self.input), len(self.output)) != (rank, rank):
            kind = "linear layer takes (features,)" if self.kernel is None else "convolution takes (C, H, W)"
            raise ValueError(f"a {kind}, not input {self.input} and output {self.output}")
        if min(*self.input, *self.output, *(self.kernel or (1,)), self.stride) < 1:
            raise ValueError(f"sizes must be positive: {self}")

    @property
    def inputs(self) -> int:
        """Number of input values."""
        return prod(self.input)

    @property
    def outputs(self) -> int:
        """Number of output values."""
        return prod(self.output)

    @property
    def fan_in(self) -> int:
        """Inputs that one output sums up: C_in·k_h·k_w, or the features."""
        return self.input[0] * prod(self.kernel or (1,))

    @property
    def dense_operations(self) -> int:
        """Multiply–accumulates of a dense pass, the padding's included, without the bias."""
        return self.outputs * self.fan_in


@dataclass(frozen=True)
class OperationRow:
    """ACs and MACs of one kind of layer, per sample, and how they were counted."""

    name: str
    acs: float
    macs: float
    formula: str


@dataclass(frozen=True)
class Operations:
    """Operations per sample over ``T`` time steps, row by row and summed, and their energy (``ENERGY_FORMULA``)."""

    neuron: str
    T: int
    rows: tuple[OperationRow, ...]
    acs: float
    macs: float
    microjoules: float


def operations(
    layers: Sequence[LayerShape],
    rates: Sequence[float | None],
    T: int,
    neuron: str,
    *,
    neurons: int,
    normalised: int,
    pooled: Sequence[tuple[int, float | None]] = (),
    static: Sequence[bool] = (),
) -> Operations:
    """ACs, MACs and energy of one sample by the rules at the head of this module.

    Args:
        layers: every convolution and linear layer, shortcuts included.
        rates: what feeds each of them: a firing rate where the input is binary, None where it is real-valued.
        T: time steps. 1 gives what Table 6 prints.
        neuron: one of ``NEURON_KINDS``.
        neurons: neurons in the whole network.
        normalised: values that batch norms put out in one time step, over the whole network.
        pooled: for each average pool, its number of inputs, and their firing rate (None: real-valued).
        static: for each layer, whether it sees one image at all T steps, and so runs once for them; () says that none
            does.

    Raises:
        ValueError: on an unknown neuron, T < 1, a rate outside 0–1, or a wrong number of rates or of ``static``.
    """
    check_arguments(T, neuron)
    if len(rates) != len(layers):
        raise ValueError(f"{len(layers)} layers need {len(layers)} input rates, not {len(rates)}")
    static = static or [False] * len(layers)
    if len(static) != len(layers):
        raise ValueError(f"{len(layers)} layers need to be static or not, each; {len(static)} are")
    check_rates([rate for rate in (*rates, *(rate for _, rate in pooled)) if rate is not None])
    acs = macs = 0.0
    for layer, rate, is_static in zip(layers, rates, static, strict=True):
        dense = (1 if is_static else T) * layer.outputs * (layer.fan_in + layer.bias)
        if rate is None:
            macs += dense
        else:
            acs += dense * rate
    pool_acs = T * sum(inputs * rate for inputs, rate in pooled if rate is not None)
    pool_macs = T * sum(inputs for inputs, rate in pooled if rate is None)
    per_neuron = f"T·neurons·{NEURON_ACS[neuron]} ACs, T·neurons·{NEURON_MACS[neuron]} MACs"
    once = " (what sees the still image: T = 1)" if any(static) and T > 1 else ""
    rows = (
        OperationRow("layers fed by spikes", acs, 0.0, f"ACs = Σ T·outputs·(fan_in + bias)·rate{once}"),
        OperationRow("layers fed by real values", 0.0, macs, f"MACs = Σ T·outputs·(fan_in + bias){once}"),
        OperationRow("batch norms", 0.0, 2.0 * T * normalised, "MACs = 2·T·outputs"),
        OperationRow("average pools", pool_acs, pool_macs, "ACs = Σ T·inputs·rate; MACs = Σ T·inputs if real-valued"),
        OperationRow("neurons", T * neurons * NEURON_ACS[neuron], T * neurons * NEURON_MACS[neuron], per_neuron),
    )
    total_acs, total_macs = sum(row.acs for row in rows), sum(row.macs for row in rows)
    return Operations(neuron, T, rows, total_acs, total_macs, (E_AC_PJ * total_acs + E_MAC_PJ * total_macs) / 1e6)


def check_arguments(T: int, neuron: str) -> None:
    """Raise ValueError on an unknown neuron kind or T < 1."""
    if neuron not in NEURON_KINDS:
        raise ValueError(f"unknown neuron {neuron!r}. Known: {', '.join(NEURON_KINDS)} (PLIF costs what LIF does)")
    if T < 1:
        raise ValueError(f"T must be at least 1, not {T}")


def check_rates(rates: Sequence[float]) -> None:
    """Raise ValueError on a firing rate that is not a number between 0 and 1."""
    for rate in rates:
        if not 0 <= rate <= 1:  # NaN fails it too
            raise ValueError(f"a firing rate is a fraction between 0 and 1, not {rate}")
