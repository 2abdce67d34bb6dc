"""Energy with memory traffic and addressing (the paper's Table 7), after Lemaire et al. 2022.

E. Lemaire et al., *An Analytical Estimation of Spiking Neural Networks Energy Efficiency*, 2022, with the counts that
the CLIF paper's Table 7 was made by. They meet every part of it; three of its choices matter to a reader:

- Firing rates are spikes per neuron and **time step**, and spike-driven terms are not multiplied by T; only the
  neurons' own updates are. So spiking rows hold the synaptic traffic of one step.
- E(M), the price of one access, takes as M the **number of accesses** of that kind, summed over the layers, where
  Lemaire et al. take the size of the memory; and it restarts at 0 pJ at 8 Ki and at 32 Ki. SpikingJelly 2's
  ``estimate_memory_energy`` keeps to the original (M is the memory's size, interpolated without a jump; counts are
  measured), takes no CLIF neuron and no batch norm, and so cannot give this table's numbers.
- Shortcut convolutions are left out: the layers form one chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from .operations import LayerShape, check_arguments, check_rates

E_ADD_PJ, E_MAC_PJ = 0.1, 3.2  # one 32-bit integer addition; multiplication (3.1 pJ) and addition

FORMULAS = {
    "potential_mJ": "(read_potential·E(read_potential) + write_potential·E(write_potential)) / 1e9",
    "params_mJ": "read_params·E(read_params) / 1e9",
    "inout_mJ": "(read_in·E(read_in) + write_out·E(write_out)) / 1e9",
    "op_mJ": "(3.2·mac + 0.1·acc) / 1e9",
    "addr_uJ": "(3.2·mac_addr + 0.1·acc_addr) / 1e6",
    "total_mJ": "potential_mJ + params_mJ + inout_mJ + op_mJ + addr_uJ / 1e3",
}
"""How each energy follows from the counts, which are summed over the layers; E(M) is :func:`access_energy`."""

ACCESS_FORMULA = (
    "E(M), pJ per access = 10·M/8192 for M ≤ 8192, 10·(M − 8192)/24576 for M ≤ 32768, "
    "80·(M − 32768)/1015808 for M ≤ 1048576, 100 above"
)
SPIKES_FORMULA = (
    "s_in = inputs·(share of values not 0 that arrive, before an average pool; 1 for the first layer), "
    "s_out = outputs·(firing rate out; 0 for the last layer), in spikes per time step"
)

COUNT_FORMULAS = {
    ("relu", "conv"): {
        "mac": "outputs·C_in·k_h·k_w",
        "acc": "outputs",
        "read_in": "outputs·C_in·k_h·k_w",
        "read_params": "(C_in·k_h·k_w + 1)·outputs",
        "read_potential": "0",
        "write_out": "outputs",
        "write_potential": "0",
        "mac_addr": "0",
        "acc_addr": "inputs + outputs + C_out·k_h·k_w",
    },
    ("relu", "linear"): {
        "mac": "inputs·outputs",
        "acc": "outputs",
        "read_in": "inputs",
        "read_params": "(inputs + 1)·outputs",
        "read_potential": "0",
        "write_out": "outputs",
        "write_potential": "0",
        "mac_addr": "0",
        "acc_addr": "inputs + outputs",
    },
    ("LIF", "conv"): {
        "mac": "T·outputs",
        "acc": "s_in·(k_h//stride)·(k_w//stride)·C_out + T·outputs + s_out",
        "read_in": "s_in",
        "read_params": "s_in·C_out·k_h·k_w + outputs",
        "read_potential": "s_in·C_out·k_h·k_w + outputs",
        "write_out": "s_out",
        "write_potential": "s_in·C_out·k_h·k_w + outputs",
        "mac_addr": "2·s_in",
        "acc_addr": "s_in·C_out·k_h·k_w",
    },
    ("LIF", "linear"): {
        "mac": "T·outputs",
        "acc": "s_in·inputs·outputs + T·s_out",
        "read_in": "s_in",
        "read_params": "s_in·outputs + outputs",
        "read_potential": "(s_in + 1)·s_out",
        "write_out": "s_out",
        "write_potential": "s_in·outputs + outputs",
        "mac_addr": "0",
        "acc_addr": "s_in·outputs",
    },
    ("CLIF", "conv"): {
        "mac": "3·T·outputs",
        "acc": "s_in·(k_h//stride)·(k_w//stride)·C_out + T·outputs + 3·s_out",
        "read_in": "s_in",
        "read_params": "s_in·C_out·k_h·k_w + outputs",
        "read_potential": "4·(s_in·C_out·k_h·k_w + outputs)",
        "write_out": "s_out",
        "write_potential": "2·(s_in·C_out·k_h·k_w + outputs)",
        "mac_addr": "4·s_in",
        "acc_addr": "2·s_in·C_out·k_h·k_w",
    },
    ("CLIF", "linear"): {
        "mac": "3·T·outputs",
        "acc": "s_in·inputs·outputs + 3·T·s_out",
        "read_in": "s_in",
        "read_params": "s_in·outputs + outputs",
        "read_potential": "4·(s_in + 1)·s_out",
        "write_out": "s_out",
        "write_potential": "2·(s_in·outputs + outputs)",
        "mac_addr": "0",
        "acc_addr": "2·s_in·outputs",
    },
}
"""How :func:`layer_counts` counts, by neuron and kind of layer."""


@dataclass(frozen=True)
class Counts:
    """Operations, memory accesses and address computations of one inference (numbers, no energy yet)."""

    mac: float = 0.0
    acc: float = 0.0
    read_in: float = 0.0
    read_params: float = 0.0
    read_potential: float = 0.0
    write_out: float = 0.0
    write_potential: float = 0.0
    mac_addr: float = 0.0
    acc_addr: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class EnergyBreakdown:
    """One row of Table 7.

    Args:
        counts: what was counted, summed over the layers.
        energy: the parts and their total, under the names and by the formulas of :data:`FORMULAS`.
    """

    neuron: str
    T: int
    counts: Counts
    energy: dict[str, float]

    def as_dict(self) -> dict[str, float]:
        """Counts and energies by name, ready for JSON."""
        return asdict(self.counts) | self.energy


def memory_energy(
    layers: Sequence[LayerShape],
    rates: Sequence[float] | None,
    T: int,
    neuron: str,
    arriving: Sequence[float] | None = None,
) -> EnergyBreakdown:
    """One row of Table 7.

    Args:
        layers: the chain of L convolutions and linear layers, shortcuts left out.
        rates: firing rate (spikes per neuron and time step) of each of the L − 1 neuron layers between them;
            None for ``"relu"``. The first layer's rate in is 1, the last one's rate out 0.
        T: time steps (a static ReLU network: 1).
        neuron: ``"relu"``, ``"LIF"`` (PLIF costs the same) or ``"CLIF"``.
        arriving: rates in of all layers but the first, where they are not ``rates``: behind sums and max pools.

    Raises:
        ValueError: on an unknown neuron, T < 1, a rate outside 0–1, or a wrong number of rates.
    """
    check_arguments(T, neuron)
    if (rates is None) != (neuron == "relu"):
        raise ValueError(f"rates are for spiking neurons, and they need them: neuron {neuron!r}, rates {rates}")
    if rates is None:
        rates = [0.0] * (len(layers) - 1)  # a dense network: no count depends on them
    if len(rates) != len(layers) - 1:
        raise ValueError(f"{len(layers)} layers have {len(layers) - 1} neuron layers between them, not {len(rates)}")
    arriving = rates if arriving is None else arriving
    if len(arriving) != len(rates):
        raise ValueError(f"{len(layers)} layers have {len(rates)} rates in behind the first, not {len(arriving)}")
    check_rates([*rates, *arriving])
    total = Counts()
    for layer, rate_in, rate_out in zip(layers, [1.0, *arriving], [*rates, 0.0], strict=True):
        total += layer_counts(layer, rate_in, rate_out, T, neuron)
    energy = {
        "potential_mJ": (traffic(total.read_potential) + traffic(total.write_potential)) / 1e9,
        "params_mJ": traffic(total.read_params) / 1e9,
        "inout_mJ": (traffic(total.read_in) + traffic(total.write_out)) / 1e9,
        "op_mJ": (E_MAC_PJ * total.mac + E_ADD_PJ * total.acc) / 1e9,
        "addr_uJ": (E_MAC_PJ * total.mac_addr + E_ADD_PJ * total.acc_addr) / 1e6,
    }
    energy["total_mJ"] = sum(e / 1e3 if name == "addr_uJ" else e for name, e in energy.items())
    return EnergyBreakdown(neuron, T, total, energy)


def layer_counts(layer: LayerShape, rate_in: float, rate_out: float, T: int, neuron: str) -> Counts:
    """What one layer and the neurons behind it cost; :data:`COUNT_FORMULAS` writes it out."""
    inputs, outputs = layer.inputs, layer.outputs
    is_conv = layer.kernel is not None
    k_h, k_w = layer.kernel or (1, 1)
    C_out = layer.output[0]
    if neuron == "relu":
        return Counts(
            mac=layer.dense_operations,
            acc=outputs,
            read_in=layer.dense_operations if is_conv else inputs,
            read_params=layer.dense_operations + outputs,
            write_out=outputs,
            acc_addr=inputs + outputs + (C_out * k_h * k_w if is_conv else 0),
        )
    s_in, s_out = inputs * rate_in, outputs * rate_out
    synapses = s_in * C_out * k_h * k_w  # one address, weight and potential for each spike and synapse
    if is_conv:
        acc = s_in * (k_h // layer.stride) * (k_w // layer.stride) * C_out + T * outputs
        read_potential = synapses + outputs
    else:
        acc = synapses * inputs  # the factor of inputs too many is Lemaire et al.'s Eq. (2)
        read_potential = (s_in + 1) * s_out
    clif = neuron == "CLIF"  # a second state, m: more to update, read, write and address
    acc_out = s_out if is_conv else T * s_out
    return Counts(
        mac=(3 if clif else 1) * T * outputs,
        acc=acc + (3 if clif else 1) * acc_out,
        read_in=s_in,
        read_params=synapses + outputs,
        read_potential=(4 if clif else 1) * read_potential,
        write_out=s_out,
        write_potential=(2 if clif else 1) * (synapses + outputs),
        mac_addr=(2 if clif else 1) * (2 * s_in if is_conv else 0),
        acc_addr=(2 if clif else 1) * synapses,
    )


def access_energy(M: float) -> float:
    """E(M) in pJ, the price of each of M accesses. The drops to 0 behind 8 Ki and 32 Ki are the printed table's."""
    if M <= 8192:
        return 10 * M / 8192
    if M <= 32768:
        return 10 * (M - 8192) / 24576
    if M <= 1048576:
        return 80 * (M - 32768) / (1048576 - 32768)
    return 100.0


def traffic(M: float) -> float:
    """Energy in pJ of M accesses to one memory: M·E(M)."""
    return M * access_energy(M)
