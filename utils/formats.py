"""Checkpoints of earlier versions of this project: what they name otherwise, and what of them is another network now.

Format 2 came when ResNets and snn5 were brought in line with the published code: a ResNet's neurons are ``relu1`` …
and stand last in their block, a bottleneck's stride stands in its first convolution, snn5 ends 512 wide. Files from
before carry no format; neither do the published code's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

FORMAT = 2

# fields that the published code's checkpoints lack and this project's training or LIF checkpoints always had one of
OURS_ALONE = {"scaler", "step", "best_acc", "trained_with"}
OF_A_RESNET = {"layer1.0.bn1.weight", "bn1.weight", "linear.weight"}
BLOCK_NEURON = re.compile(r"^((?:module\.)?layer[1-4]\.\d+)\.neuron([123])(?=\.|$)")
LAST_NEURON = re.compile(r"^((?:module\.)?)neuron(?=\.|$)")


class CheckpointError(Exception):
    """A checkpoint that cannot be used: one line that names it and says why."""


def recognised(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint with today's names, and with ``format`` where this project wrote it: 1 for all before format 2.

    Args:
        state: what the file holds. path: where it lies; config.json beside it tells whose weights alone are.
    """
    if "format" in state:
        return state
    weights = state.get("net", state)
    renamed = with_todays_names(weights)
    has_old_names = renamed is not weights
    if isinstance(weights, dict) and is_resnet(weights):
        layered: dict[str, Any] = {
            name: with_todays_names(state[name], weights) for name in ("tau", "v_reset") if name in state
        }
        has_old_names = has_old_names or any(layered[name] is not state[name] for name in layered)
        state = {**state, **layered}
    if not (has_old_names or OURS_ALONE & state.keys() or ("optimizer" not in state and is_beside_a_run(path))):
        return state
    if weights is state.get("net"):
        return {**state, "net": renamed, "format": 1}
    return {"net": renamed, "format": 1}


def is_resnet(weights: dict[Any, Any]) -> bool:
    names = {name.removeprefix("module.") for name in weights if isinstance(name, str)}
    return names >= OF_A_RESNET


def with_todays_names(values: Any, weights: Any = None) -> Any:
    """A mapping by names of a ResNet's layers or weights, in the same order; the mapping itself if none is old.

    Args:
        weights: what shows that it is a ResNet's; None: ``values`` do.
    """
    if not isinstance(values, dict) or not is_resnet(values if weights is None else weights):
        return values
    renamed = {todays_name(name): value for name, value in values.items()}
    return renamed if renamed.keys() != values.keys() else values


def todays_name(name: Any) -> Any:
    """``layer1.0.neuron2.w`` → ``layer1.0.relu2.w``, ``neuron.w`` → ``relu1.w``."""
    if not isinstance(name, str):
        return name
    return LAST_NEURON.sub(r"\1relu1", BLOCK_NEURON.sub(r"\1.relu\2", name))


def is_beside_a_run(path: Path) -> bool:
    """Whether a run of this project left its config.json in the same folder."""
    try:
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "made_with" in config


def why_another_network(state: dict[str, Any], weights: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """Why weights of an earlier format are another network's now; None if they are not.

    Args:
        state: the checkpoint, as :func:`recognised` gave it. weights: its network. own: that of the network here.
    """
    last = "features.7.fwd.0.weight"
    if last in own and last in weights and (len(own[last]), weights[last].shape[:2]) == (512, (256, 256)):
        return "snn5 was 256 channels wide at its end in earlier versions of this project, and is 512 as published"
    if state.get("format") == 1 and "layer1.0.conv3.weight" in weights:
        return (
            "an earlier version of this project trained it with another stride (in the 3×3 convolution of a "
            "bottleneck; as published it stands in the 1×1 before)"
        )
    return None
