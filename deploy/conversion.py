"""Train with CLIF, run with plain LIF (the paper's Table 8): the LIF twin of a network, and its reset value.

Weights carry over unchanged; only the neurons are exchanged. CLIF resets deeper than LIF does (by V_th + σ(m)), and a
LIF neuron makes up for it with a hard reset to a value below zero. Table 8 tries seven fixed values; :func:`calibrate`
chooses one on training data, for the network and then for each layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from torch import nn

from models import build_like, replace_neurons
from neurons import PLIF, WITH_LIF_TWIN, SpikingNeuron
from utils.progress import progress

Reset = float | None
"""A reset value: a number for the hard reset, None for the soft one."""

FIXED_RESETS: tuple[Reset, ...] = (None, 0.0, -0.02, -0.04, -0.06, -0.08, -0.10)  # Table 8's columns
COARSE, FINE = 0.02, 0.01  # steps of the calibration; the first is Table 8's
LOWEST, HIGHEST = -1.0, 0.5  # in units of V_th: the calibration stays here, clearly below V_th


def neuron_layers(net: nn.Module) -> dict[str, SpikingNeuron]:
    """Every spiking neuron layer by its name, in the order of the network's modules.

    Raises:
        ValueError: if there is none.
    """
    layers = {name: module for name, module in net.named_modules() if isinstance(module, SpikingNeuron)}
    if not layers:
        raise ValueError("the network has no spiking neurons that LIF could stand in for")
    return layers


Net = TypeVar("Net", bound=nn.Module)


def lif_twin(
    net: Net,
    v_reset: Reset | Mapping[str, Reset] = None,
    tau: float | Mapping[str, float] | None = None,
) -> Net:
    """The same network with LIF in the place of every neuron; it **shares** its weights with ``net``.

    Args:
        net: any module with neurons of this project in it.
        v_reset: reset value of all layers, or of each by its name (None: soft reset).
        tau: the same for the time constant; None keeps each neuron's own. PLIF's is the one it has learned, so that
            its twin with the same reset is the same network.

    Raises:
        ValueError: if there are no spiking neurons, one does what no weights of LIF say (KLIF's slope), or a mapping
            does not name exactly the neuron layers.
    """
    tensors = chain(net.parameters(), net.buffers())
    twin = copy.deepcopy(net, {id(tensor): tensor for tensor in tensors})
    neurons = neuron_layers(twin)
    resets, taus = per_layer(v_reset, neurons, "v_reset"), per_layer(tau, neurons, "tau")

    def lif(name: str, neuron: SpikingNeuron) -> nn.Module:
        if not neuron.has_lif_twin:
            raise ValueError(f"layer {name}: LIF with the same weights stands in for {', '.join(WITH_LIF_TWIN)}, "
                             f"not for {type(neuron).__name__}")  # fmt: skip
        tau = learned_tau(neuron) if taus[name] is None else taus[name]
        return build_like(neuron, "LIF", tau=tau, v_reset=resets[name], bptt_k=None)

    replace_neurons(twin, lif)
    return twin


def learned_tau(neuron: SpikingNeuron) -> float:
    """τ of a neuron; PLIF learns it as 1/σ(w).

    Raises:
        ValueError: if each channel has its own, which LIF has not.
    """
    w: Any = neuron.w.detach() if isinstance(neuron, PLIF) else None  # by its name: it may be parametrised
    if w is not None and w.dim():
        raise ValueError(f"{type(neuron).__name__} has learned a time constant for each of {len(w)} channels, and LIF "
                         "has one for all")  # fmt: skip
    return neuron.tau if w is None else 1 / w.double().sigmoid().item()


def per_layer(value: Any, layers: Iterable[str], what: str) -> dict[str, Any]:
    """One value for all layers, or a mapping checked to name each of them.

    Raises:
        ValueError: naming a layer that only one side knows.
    """
    names = list(layers)
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    differing = sorted(set(names) ^ set(value))
    if differing:
        where = "the network has no such neuron layer" if differing[0] in value else "it is left out"
        raise ValueError(f"{what} per layer: {differing[0]}: {where} (its layers: {', '.join(names)})")
    return dict(value)


def is_lif_checkpoint(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is one that :func:`lif_checkpoint` made: it says what it once was, and trains no further."""
    return state.get("neuron") == "LIF" and "trained_with" in state and "optimizer" not in state


def lif_checkpoint(twin: nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A converted network as a checkpoint: ``net``, ``neuron``, ``tau`` and ``v_reset``, all plain values.

    ``tau`` and ``v_reset`` are numbers (None: soft reset) where all layers agree, else a dict by layer.

    Args:
        settings: what else is needed to build it again, plain values.
    """
    layers = neuron_layers(twin)
    state: dict[str, Any] = {**settings, "net": twin.state_dict(), "neuron": "LIF"}
    for what in ("tau", "v_reset"):
        values = {name: getattr(neuron, what) for name, neuron in layers.items()}
        state[what] = values if len(set(values.values())) > 1 else next(iter(values.values()))
    return state


@dataclass(frozen=True)
class Score:
    """Accuracy (%) and loss on some samples; the higher accuracy is better, then the lower loss."""

    acc: float
    loss: float

    def beats(self, other: Score) -> bool:
        return (self.acc, -self.loss) > (other.acc, -other.loss)


Scorer = Callable[[nn.Module], Score]


def sweep(net: nn.Module, score: Scorer, resets: Sequence[Reset] = FIXED_RESETS) -> dict[Reset, Score]:
    """A row of Table 8: ``net`` as LIF with each reset value in all layers."""
    return {v_reset: score(lif_twin(net, v_reset)) for v_reset in resets}


@dataclass(frozen=True)
class Calibration:
    """Reset values chosen on a slice of the training set.

    Args:
        network, network_score: the best value for all layers at once, and its score on the slice.
        layers, layers_score: the best value for each layer, and their score on the slice.
        trials: how many times the slice was run.
    """

    network: Reset
    network_score: Score
    layers: dict[str, Reset]
    layers_score: Score
    trials: int


def climb(value: Reset, score_of: Callable[[Reset], Score], step: float, v_threshold: float = 1.0) -> Reset:
    """Uphill from ``value`` in steps, one way and then the other; a soft reset stands still."""
    least, most = LOWEST * v_threshold, HIGHEST * v_threshold
    for direction in (-step, step):
        while value is not None and least <= (following := round(value + direction, 6)) <= most:
            if not score_of(following).beats(score_of(value)):
                break
            value = following
    return value


def calibrate(net: nn.Module, score: Scorer, resets: Sequence[Reset] = FIXED_RESETS, passes: int = 2) -> Calibration:
    """Choose the reset value, one for the network and from there one for each layer.

    The network's: the best of ``resets``, then uphill in steps of 0.02 (beyond the range, too) and of 0.01.
    The layers': coordinate search from there, front to back; each goes uphill in steps of 0.02, and tries the soft
    reset if that is among ``resets``.

    Args:
        net: the network to run as LIF.
        score: how good a LIF network is; **never** on the test set.
        resets: where to start.
        passes: how often to go through the layers; it ends sooner if a pass changes nothing.
    """
    seen: dict[tuple[Reset, ...], Score] = {}
    names = list(neuron_layers(net))
    v_threshold = min(neuron.v_threshold for neuron in neuron_layers(net).values())

    with progress((), "calibrate", len(resets) + 2 + passes * len(names), unit="step") as bar:

        def score_at(values: tuple[Reset, ...]) -> Score:
            if values not in seen:
                seen[values] = score(lif_twin(net, dict(zip(names, values, strict=True))))
                bar.update(0)  # a line may be due
            return seen[values]

        def everywhere(value: Reset) -> Score:
            return score_at((value,) * len(names))

        network = resets[0]
        for value in resets:
            if everywhere(value).beats(everywhere(network)):
                network = value
            bar.update()
        for step in (COARSE, FINE):
            network = climb(network, everywhere, step, v_threshold)
            bar.update()
        network_score = everywhere(network)

        best = [network] * len(names)
        for _ in range(passes):
            before = list(best)
            for i, name in enumerate(names):
                bar.set_postfix_str(name, refresh=False)

                def here(value: Reset, i: int = i) -> Score:
                    return score_at((*best[:i], value, *best[i + 1 :]))

                other = [0.0] if best[i] is None else [None] if None in resets else []
                for start in [best[i], *other]:
                    found = climb(start, here, COARSE, v_threshold)
                    if here(found).beats(here(best[i])):
                        best[i] = found
                bar.update()
            if best == before:
                break
    return Calibration(network, network_score, dict(zip(names, best, strict=True)), score_at(tuple(best)), len(seen))
